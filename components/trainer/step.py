"""The optimizer and one step of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from components.trainer.losses import supervised_loss
from components.trainer.replicas import replica_count, shared, spread
from components.trainer.sliding_window import scan_probability

CLIP_NORM = 12.0
"""Gradients longer than this are shortened, as nnU-Net does; one odd batch then cannot undo a training."""

LOSS_KEYS = (
    "dice_weight", "cross_entropy_weight", "miss_weight", "focal_gamma", "boundary_weight", "small_lesion_weight",
)  # fmt: skip
"""Keys of the section `training` that shape the loss, named as the arguments of `segmentation_loss`."""

TrainStep = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def build_optimizer(network: keras.Model, training: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    """AdamW, or SGD with Nesterov momentum, built for the network; kernels alone decay.

    Args:
        network: The network.
        training: The section `training` of the configuration.
    """
    options = {
        "learning_rate": training["learning_rate"],
        "weight_decay": training["weight_decay"],
        "global_clipnorm": CLIP_NORM / replica_count(),
    }
    if training["optimizer"] == "adamw":
        optimizer = keras.optimizers.AdamW(**options)
    else:
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if training["precision"] == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)
    return optimizer


def make_train_step(
    network: keras.Model, optimizer: keras.optimizers.Optimizer, training: Mapping[str, Any]
) -> TrainStep:
    """One step as a graph, on all replicas of the strategy in scope.

    Args:
        network: The network, with all outputs that it is trained on.
        optimizer: From `build_optimizer`.
        training: The section `training` of the configuration.

    Returns:
        A function of image (n, size, size, channels) and mask (n, size, size, 1), in 3D of patches with slices after
        n, that changes the network and returns the loss, a float32 scalar.
    """
    variables = network.trainable_variables

    @tf.function(jit_compile=False, reduce_retracing=True)
    def step(image: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = supervised_loss(
                mask,
                network(image, training=True),
                **{name: training[name] for name in LOSS_KEYS},
            )
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(shared(tape.gradient(scaled, variables)), variables)
        return loss

    return spread(step)


def make_predict(
    network: keras.Model, *, mirror: bool = False, overlap: float = 0.5
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as a graph, from float32 (n, size, size, channels) to float32 probabilities (n, size, size, 1).

    Args:
        network: The network. A 3D one takes the n slices for all of one scan, in order.
        mirror: Average with what it makes of the mirrored slices.
        overlap: Of the windows of a 3D network.
    """
    _, *shape = network.input_shape
    if looks_at_scans(network):
        shape = [None, None, shape[-1]]

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32)], jit_compile=False)
    def predict(image: tf.Tensor) -> tf.Tensor:
        return probability(network, image, mirror=mirror, overlap=overlap)

    return predict


def looks_at_scans(network: keras.Model) -> bool:
    """Whether a network is 3D, and so needs a whole scan where a 2D one takes any slices."""
    return len(network.input_shape) == 5


def probability(network: keras.Model, image: tf.Tensor, *, mirror: bool, overlap: float = 0.5) -> tf.Tensor:
    """Probabilities (n, size, size, 1) as validation and every exported signature have them.

    Args:
        network: From input to logits.
        image: float32 of shape (n, size, size, channels); for a 3D network the slices of one scan, in order.
        mirror: Average with what the network makes of left and right exchanged, as heads are nearly symmetric.
        overlap: Of the windows of a 3D network, see `scan_probability`.
    """

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(network(pixels, training=False))

    def whole(pixels: tf.Tensor) -> tf.Tensor:
        if not looks_at_scans(network):
            return forward(pixels)
        return scan_probability(forward, pixels, network.input_shape[1:-1], overlap)

    found = whole(image)
    if mirror:
        # The scan and not each window: windows need not lie symmetrically.
        found = 0.5 * (found + tf.reverse(whole(tf.reverse(image, [2])), [2]))
    return found
