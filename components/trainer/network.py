"""The 2D U-Net, in Keras 3 alone, so that it runs on every Keras backend.

After Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (MICCAI 2015), with one
change for speed: a stem of stride 2 folds 2 x 2 pixels into channels, the U works at half the resolution, and the
head unfolds 2 x 2 logits from each position (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). On a CPU the full-resolution level is most of the time
and little of the accuracy.

With deep supervision the coarser levels of the way up give logits too, in training only (Lee et al., "Deeply-Supervised
Nets", AISTATS 2015; as nnU-Net does it: Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

PRIOR = 0.01
"""Share of lesion pixels that the untrained network predicts, so that the first steps do not unlearn a half."""

GROUP_CHANNELS = 8
"""Channels of one group when `norm` is `group`."""


def build_network(
    size: int, channels: int, config: Mapping[str, Any], *, seed: int = 0, precision: str = "float32"
) -> keras.Model:
    """Builds the U-Net.

    Args:
        size: Pixels a side; a multiple of 2 to the depth.
        channels: Channels of the input, slices times windows.
        config: The section `network` of the configuration.
        seed: Seeds the initial weights and dropout.
        precision: Keras dtype policy of everything but the logits.

    Returns:
        A model from (n, size, size, channels) in [0, 1] to logits (n, size, size, 1), float32 under any precision.
        With deep supervision it has further outputs for training, finest first: logits of the coarser levels of the
        way up. `inference_network` leaves them out.
    """
    stride = config["stem_stride"]
    levels = config["depth"] - int(math.log2(stride))
    filters = [min(config["base_filters"] * 2**level, config["max_filters"]) for level in range(levels + 1)]
    parts = _Parts(config, seed, precision)
    image = keras.Input((size, size, channels), name="image")
    skips = []
    value = parts.fold(image, filters[0], stride) if stride > 1 else image
    for level, width in enumerate(filters):
        if level:
            value = parts.pool(value)
        convolutions = 1 if stride > 1 and level == 0 else 2
        value = parts.block(value, width, convolutions, f"encode{level}")
        skips.append(value)
    value = parts.drop(value)
    skips.pop()
    coarser: dict[int, Any] = {}
    for level in reversed(range(levels)):
        value = parts.up(value, filters[level], f"up{level}")
        value = parts.join(value, skips.pop(), f"join{level}")
        value = parts.block(value, filters[level], config["decoder_convolutions"], f"decode{level}")
        if level:
            coarser[level] = value
    logits = parts.head(value, stride)
    if not config["deep_supervision"]:
        return keras.Model(image, logits, name="unet")
    # After the head, so that they change no other layer's seed.
    further = [parts.coarse_head(coarser[level], level) for level in sorted(coarser)]
    return keras.Model(image, [logits, *further], name="unet_supervised")


def inference_network(network: keras.Model) -> keras.Model:
    """The part of a network that is validated and exported; it shares its weights.

    Args:
        network: From `build_network`.

    Returns:
        The network itself, or with deep supervision one with the finest logits alone, so that the further outputs
        cost nothing.
    """
    return network if len(network.outputs) == 1 else keras.Model(network.input, network.outputs[0], name="unet")


class _Parts:
    """The layers of the U-Net, each with a seed of its own."""

    def __init__(self, config: Mapping[str, Any], seed: int, precision: str) -> None:
        self._block = config["block"]
        self._norm = config["norm"]
        self._dropout = config["dropout"]
        self._dtype = keras.DTypePolicy(precision)
        self._seeds = iter(range(seed * 10_000, (seed + 1) * 10_000))

    def convolve(self, value: Any, width: int, kernel: int, name: str, *, bias: bool = False, **options: Any) -> Any:
        initial = keras.initializers.HeNormal(seed=next(self._seeds))
        return layers.Conv2D(
            width, kernel, padding="same", use_bias=bias, kernel_initializer=initial, dtype=self._dtype, name=name,
            **options,
        )(value)

    def normalise(self, value: Any, name: str) -> Any:
        if self._norm == "batch":
            return layers.BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=self._dtype, name=name)(value)
        width = value.shape[-1]
        groups = width if self._norm == "instance" else math.gcd(width, max(width // GROUP_CHANNELS, 1))
        return layers.GroupNormalization(groups=groups, epsilon=1e-3, dtype=self._dtype, name=name)(value)

    def fold(self, image: Any, width: int, stride: int) -> Any:
        value = self.convolve(image, width, 2 * stride, "stem", strides=stride)
        return self.relu(self.normalise(value, "stem_norm"), "stem_relu")

    def relu(self, value: Any, name: str) -> Any:
        return layers.ReLU(dtype=self._dtype, name=name)(value)

    def block(self, value: Any, width: int, convolutions: int, name: str) -> Any:
        shortcut = value
        for step in range(convolutions):
            value = self.convolve(value, width, 3, f"{name}_conv{step}")
            value = self.normalise(value, f"{name}_norm{step}")
            if step + 1 < convolutions or self._block == "plain":
                value = self.relu(value, f"{name}_relu{step}")
        if self._block == "residual":
            if shortcut.shape[-1] != width:
                shortcut = self.convolve(shortcut, width, 1, f"{name}_shortcut")
            value = self.relu(layers.Add(dtype=self._dtype, name=f"{name}_add")([value, shortcut]), f"{name}_relu")
        return value

    def pool(self, value: Any) -> Any:
        return layers.MaxPooling2D(2, dtype=self._dtype)(value)

    def drop(self, value: Any) -> Any:
        if not self._dropout:
            return value
        return layers.SpatialDropout2D(self._dropout, seed=next(self._seeds), dtype=self._dtype)(value)

    def up(self, value: Any, width: int, name: str) -> Any:
        """Narrows at the low resolution, where it is cheap, then repeats pixels."""
        return layers.UpSampling2D(2, interpolation="nearest", dtype=self._dtype, name=f"{name}_repeat")(
            self.convolve(value, width, 1, f"{name}_narrow")
        )

    def join(self, value: Any, skip: Any, name: str) -> Any:
        return layers.Concatenate(dtype=self._dtype, name=name)([value, skip])

    def coarse_head(self, value: Any, level: int) -> Any:
        return self._logits(self._to_logits(value, 1, 1, f"head{level}"), f"logits{level}")

    def head(self, value: Any, stride: int) -> Any:
        value = self._to_logits(value, stride * stride, 3 if stride > 1 else 1, "head")
        if stride > 1:
            value = Unfold(stride, dtype=self._dtype, name="unfold")(value)
        return self._logits(value, "logits")

    def _logits(self, value: Any, name: str) -> Any:
        return layers.Activation("linear", dtype="float32", name=name)(value)

    def _to_logits(self, value: Any, width: int, kernel: int, name: str) -> Any:
        prior = keras.initializers.Constant(-math.log(1 / PRIOR - 1))
        initial = keras.initializers.GlorotUniform(seed=next(self._seeds))
        return layers.Conv2D(
            width,
            kernel,
            padding="same",
            kernel_initializer=initial,
            bias_initializer=prior,
            dtype=self._dtype,
            name=name,
        )(value)


@keras.saving.register_keras_serializable(package="ich")
class Unfold(layers.Layer):
    """Spreads stride x stride channels over stride x stride pixels.

    Input (n, rows, columns, stride**2), output (n, rows * stride, columns * stride, 1).
    """

    def __init__(self, stride: int, **options: Any) -> None:
        super().__init__(**options)
        self.stride = stride

    def call(self, value: Any) -> Any:
        _, rows, columns, _ = value.shape
        value = keras.ops.reshape(value, (-1, rows, columns, self.stride, self.stride))
        value = keras.ops.transpose(value, (0, 1, 3, 2, 4))
        return keras.ops.reshape(value, (-1, rows * self.stride, columns * self.stride, 1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}
