"""The layers that the U-Net is put together from, in Keras 3 alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

PRIOR = 0.01
"""Share of lesion pixels that the untrained network predicts, so that the first steps do not unlearn a half."""

GROUP_CHANNELS = 8
"""Channels of one group when `norm` is `group`."""


class Parts:
    """The layers of a U-Net, each with a seed of its own.

    Values are (n, rows, columns, channels) in 2D and (n, slices, rows, columns, channels) in 3D. Where a 3D method is
    told that slices are `thick`, it looks at each slice alone.

    Args:
        config: The section `network` of the configuration.
        seed: Seed of the first layer; each further one has the next.
        precision: Keras dtype policy of everything but the logits.
    """

    def __init__(self, config: Mapping[str, Any], seed: int, precision: str) -> None:
        self.volumes = config["kind"] == "3d"
        self._block = config["block"]
        self._norm = config["norm"]
        self._dropout = config["dropout"]
        self.dtype = keras.DTypePolicy(precision)
        self._seeds = itertools.count(seed)

    def seed(self) -> int:
        """The next layer's seed."""
        return next(self._seeds)

    def extent(self, pixels: int, *, thick: bool) -> tuple[int, ...]:
        """So many pixels a side, in 3D over one slice where slices are thick and else over as many slices."""
        return ((1 if thick else pixels,) if self.volumes else ()) + (pixels, pixels)

    def convolve(self, value: Any, width: int, kernel: int, name: str, *, thick: bool = False, **options: Any) -> Any:
        make = layers.Conv3D if self.volumes else layers.Conv2D
        options = {"use_bias": False, "kernel_initializer": keras.initializers.HeNormal, **options}
        options["kernel_initializer"] = options["kernel_initializer"](seed=self.seed())
        return make(
            width, self.extent(kernel, thick=thick), padding="same", dtype=self.dtype, name=name, **options
        )(value)  # fmt: skip

    def normalise(self, value: Any, name: str) -> Any:
        if self._norm == "batch":
            return layers.BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=self.dtype, name=name)(value)
        width = value.shape[-1]
        groups = width if self._norm == "instance" else math.gcd(width, max(width // GROUP_CHANNELS, 1))
        return layers.GroupNormalization(groups=groups, epsilon=1e-3, dtype=self.dtype, name=name)(value)

    def fold(self, image: Any, width: int, stride: int) -> Any:
        value = self.convolve(image, width, 2 * stride, "stem", thick=True, strides=self.extent(stride, thick=True))
        return self.relu(self.normalise(value, "stem_norm"), "stem_relu")

    def relu(self, value: Any, name: str) -> Any:
        return layers.ReLU(dtype=self.dtype, name=name)(value)

    def block(self, value: Any, width: int, convolutions: int, name: str, *, thick: bool = False) -> Any:
        shortcut = value
        for step in range(convolutions):
            value = self.convolve(value, width, 3, f"{name}_conv{step}", thick=thick)
            value = self.normalise(value, f"{name}_norm{step}")
            if step + 1 < convolutions or self._block == "plain":
                value = self.relu(value, f"{name}_relu{step}")
        if self._block == "residual":
            if shortcut.shape[-1] != width:
                shortcut = self.convolve(shortcut, width, 1, f"{name}_shortcut")
            value = self.relu(layers.Add(dtype=self.dtype, name=f"{name}_add")([value, shortcut]), f"{name}_relu")
        return value

    def pool(self, value: Any, *, thick: bool = False) -> Any:
        make = layers.MaxPooling3D if self.volumes else layers.MaxPooling2D
        return make(self.extent(2, thick=thick), dtype=self.dtype)(value)

    def drop(self, value: Any) -> Any:
        if not self._dropout:
            return value
        make = layers.SpatialDropout3D if self.volumes else layers.SpatialDropout2D
        return make(self._dropout, seed=self.seed(), dtype=self.dtype)(value)

    def up(self, value: Any, width: int, name: str, *, thick: bool = False) -> Any:
        """Narrows at the low resolution, where it is cheap, then repeats pixels."""
        make = layers.UpSampling3D if self.volumes else layers.UpSampling2D
        return make(self.extent(2, thick=thick), dtype=self.dtype, name=f"{name}_repeat")(
            self.convolve(value, width, 1, f"{name}_narrow")
        )

    def join(self, value: Any, skip: Any, name: str) -> Any:
        return layers.Concatenate(dtype=self.dtype, name=name)([value, skip])

    def coarse_head(self, value: Any, level: int) -> Any:
        return self._logits(self._to_logits(value, 1, 1, f"head{level}"), f"logits{level}")

    def head(self, value: Any, stride: int, *, thick: bool = False) -> Any:
        value = self._to_logits(value, stride * stride, 3 if stride > 1 else 1, "head", thick=thick)
        if stride > 1:
            value = Unfold(stride, dtype=self.dtype, name="unfold")(value)
        return self._logits(value, "logits")

    def _logits(self, value: Any, name: str) -> Any:
        return layers.Activation("linear", dtype="float32", name=name)(value)

    def _to_logits(self, value: Any, width: int, kernel: int, name: str, *, thick: bool = False) -> Any:
        return self.convolve(
            value, width, kernel, name, thick=thick, use_bias=True,
            kernel_initializer=keras.initializers.GlorotUniform,
            bias_initializer=keras.initializers.Constant(-math.log(1 / PRIOR - 1)),
        )  # fmt: skip


@keras.saving.register_keras_serializable(package="ich")
class Unfold(layers.Layer):
    """Spreads stride x stride channels over stride x stride pixels.

    Input (n, ..., rows, columns, stride**2), output (n, ..., rows * stride, columns * stride, 1).
    """

    def __init__(self, stride: int, **options: Any) -> None:
        super().__init__(**options)
        self.stride = stride

    def call(self, value: Any) -> Any:
        _, *slices, rows, columns, _ = value.shape
        value = keras.ops.reshape(value, (-1, rows, columns, self.stride, self.stride))
        value = keras.ops.transpose(value, (0, 1, 3, 2, 4))
        return keras.ops.reshape(value, (-1, *slices, rows * self.stride, columns * self.stride, 1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stride": self.stride}
