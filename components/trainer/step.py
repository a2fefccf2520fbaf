"""The optimizer and one step of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from components.trainer.losses import supervised_loss

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
        "global_clipnorm": CLIP_NORM,
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
    """One step as a graph.

    Args:
        network: The network, with all outputs that it is trained on.
        optimizer: From `build_optimizer`.
        training: The section `training` of the configuration.

    Returns:
        A function of image (n, size, size, channels) and mask (n, size, size, 1) that changes the network and
        returns the loss, a float32 scalar.
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
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss

    return step


def make_predict(network: keras.Model, *, mirror: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as a graph, from input to float32 probabilities (n, size, size, 1).

    Args:
        network: The network.
        mirror: Average with what it makes of the mirrored slices.
    """
    _, *shape = network.input_shape

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32)], jit_compile=False)
    def predict(image: tf.Tensor) -> tf.Tensor:
        return probability(network, image, mirror=mirror)

    return predict


def probability(network: keras.Model, image: tf.Tensor, *, mirror: bool) -> tf.Tensor:
    """Probabilities (n, size, size, 1) as validation and every exported signature have them.

    Args:
        network: From input to logits.
        image: float32 of shape (n, size, size, channels).
        mirror: Average with what the network makes of left and right exchanged, as heads are nearly symmetric.
    """
    found = tf.sigmoid(network(image, training=False))
    if mirror:
        mirrored = tf.sigmoid(network(tf.reverse(image, [2]), training=False))
        found = 0.5 * (found + tf.reverse(mirrored, [2]))
    return found
