"""Several GPUs as one: each works on its part of every batch, and all make the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from components.imaging.errors import UsageError

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def choose_strategy(batch_size: int) -> tf.distribute.Strategy:
    """`MirroredStrategy` over the visible GPUs where there are several, else TensorFlow's default, which does nothing.

    Args:
        batch_size: `training.batch_size`, of all replicas together.

    Raises:
        UsageError: It cannot be divided evenly among them.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if len(gpus) < 2:
        return tf.distribute.get_strategy()
    check_batch(batch_size, len(gpus))
    return tf.distribute.MirroredStrategy()


def check_batch(batch_size: int, replicas: int) -> None:
    """Raises a UsageError where so many replicas cannot share a batch evenly."""
    if batch_size % replicas:
        near = max(replicas, batch_size // replicas * replicas)
        raise UsageError(
            f"training.batch_size: found {batch_size}, wanted a multiple of {replicas}, the number of GPUs that share "
            f"it; set it to {near}, or hide GPUs with CUDA_VISIBLE_DEVICES"
        )


def replica_count() -> int:
    """Replicas of the strategy in scope; 1 for the default one."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def shared(gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """This replica's share of the gradients' mean over all replicas, to be called within a replica.

    A Keras optimizer clips what it is given and then sums over replicas. It is given the same share everywhere, so with
    a bound on the norm that is a share as well, what is clipped is the mean.
    """
    replicas = replica_count()
    if replicas == 1:
        return gradients
    context = tf.distribute.get_replica_context()
    return [value / replicas for value in context.all_reduce(tf.distribute.ReduceOp.MEAN, list(gradients))]


def spread(step: Step) -> Step:
    """Makes a step on a part of the batch one on the whole, with all replicas of the strategy in scope.

    Each replica has the loss of its own part, so batch Dice is that of a part, and batch normalisation takes its
    statistics from it; the loss and the gradient are means over the parts. With one replica the step stays as it is.

    Args:
        step: From image and mask of a part to the loss, changing the network by `shared` gradients.

    Returns:
        From image and mask of a whole batch, whose size the replicas divide, to the mean loss.
    """
    strategy = tf.distribute.get_strategy()
    replicas = replica_count()
    if replicas == 1:
        return step

    def whole(image: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        losses = strategy.run(step, args=(part(image), part(mask)))
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    def part(batch: tf.Tensor) -> Any:
        pieces = tf.split(batch, replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: pieces[context.replica_id_in_sync_group]
        )

    return whole
