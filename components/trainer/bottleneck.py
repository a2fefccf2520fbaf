"""Long-range context at the lowest resolution of the U-Net, where it is cheap; in Keras 3 alone.

Both kinds are added to what comes in, after a last projection that starts at 0: an untrained network is the plain one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from components.trainer.blocks import Parts

KERNEL = 7
"""Pixels a side of the large kernel."""

BLOCKS = 2
"""Large kernels one after the other: they see 13 pixels a side, at a depth of 4 more than 200 of the grid's."""

EXPANSION = 4
"""Channels between the two projections of a large-kernel block, over those of the network."""

HEAD_CHANNELS = 32
"""Channels of one attention head."""


def large_kernel(parts: Parts, value: Any, *, thick: bool = False) -> Any:
    """Residual blocks with a depthwise kernel of 7 x 7, in 3D followed by one of 7 across slices.

    After Liu et al., "A ConvNet for the 2020s" (CVPR 2022): depthwise convolution, normalisation (the network's own
    kind), projection to four times the channels, GELU, and projection back.

    Args:
        parts: Makes the layers.
        value: Of shape (n, rows, columns, channels), in 3D (n, slices, rows, columns, channels), all but n known.
        thick: Whether slices are too thick here to look across them.

    Returns:
        Of the same shape.
    """
    width = value.shape[-1]
    for number in range(BLOCKS):
        name = f"large{number}"
        branch = _depthwise(parts, value, f"{name}_depthwise", thick=thick)
        branch = parts.normalise(branch, f"{name}_norm")
        branch = _project(parts, branch, EXPANSION * width, f"{name}_expand", bias=True)
        branch = layers.Activation("gelu", dtype=parts.dtype, name=f"{name}_gelu")(branch)
        value = _added(parts, value, _project(parts, branch, width, f"{name}_project", bias=True, zero=True), name)
    return value


def attention(parts: Parts, value: Any, *, thick: bool = False) -> Any:
    """Self-attention between all positions.

    The non-local block of Wang et al., "Non-local Neural Networks" (CVPR 2018), with the several heads of Vaswani et
    al., "Attention Is All You Need" (NeurIPS 2017) and the learned positions of Dosovitskiy et al., "An Image is Worth
    16x16 Words" (ICLR 2021). What is attended to is normalised (in the network's own way), what is added to is not.

    Args:
        parts: Makes the layers.
        value: Of shape (n, rows, columns, channels), in 3D (n, slices, rows, columns, channels), all but n known: each
            position is one token.
        thick: Whether slices are thick here; it makes no difference.

    Returns:
        Of the same shape.
    """
    _, *place, width = value.shape
    tokens = math.prod(place)
    heads = math.gcd(width, max(width // HEAD_CHANNELS, 1))
    branch = ops.reshape(parts.normalise(value, "attention_norm"), (-1, tokens, width))
    branch = Positions(seed=parts.seed(), dtype=parts.dtype, name="attention_positions")(branch)
    # Without bias: one of the keys would change nothing.
    branch = _project(parts, branch, 3 * width, "attention_in")
    query, key, content = (
        ops.reshape(part, (-1, tokens, heads, width // heads)) for part in ops.split(branch, 3, axis=-1)
    )
    branch = ops.reshape(ops.dot_product_attention(query, key, content), (-1, tokens, width))
    branch = _project(parts, branch, width, "attention_out", bias=True, zero=True)
    return _added(parts, value, ops.reshape(branch, (-1, *place, width)), "attention")


BOTTLENECKS: dict[str, Callable[..., Any]] = {"large_kernel": large_kernel, "attention": attention}
"""By the configuration's `network.bottleneck`; `plain` adds none."""


@keras.saving.register_keras_serializable(package="ich")
class Positions(layers.Layer):
    """Adds a learned vector to each token.

    Input and output (n, tokens, channels); tokens and channels are known.
    """

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed

    def build(self, shape: Any) -> None:
        initial = keras.initializers.RandomNormal(stddev=0.02, seed=self.seed)
        self.positions = self.add_weight(shape=tuple(shape[1:]), initializer=initial, name="positions")

    def call(self, value: Any) -> Any:
        return value + ops.cast(self.positions, value.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def _depthwise(parts: Parts, value: Any, name: str, *, thick: bool) -> Any:
    """Depthwise convolution; of volumes in two steps, since Keras has none of three axes: in-plane, then across."""
    options = {"padding": "same", "use_bias": False, "dtype": parts.dtype}
    in_plane = layers.DepthwiseConv2D(
        KERNEL, depthwise_initializer=_unit_variance(parts, KERNEL**2), name=name, **options
    )
    if not parts.volumes:
        return in_plane(value)
    _, slices, rows, columns, width = value.shape
    value = ops.reshape(in_plane(ops.reshape(value, (-1, rows, columns, width))), (-1, slices, rows, columns, width))
    if thick:
        return value
    across = layers.DepthwiseConv1D(
        KERNEL, depthwise_initializer=_unit_variance(parts, KERNEL), name=f"{name}_across", **options
    )
    lines = ops.reshape(ops.transpose(value, (0, 2, 3, 1, 4)), (-1, slices, width))
    return ops.transpose(ops.reshape(across(lines), (-1, rows, columns, slices, width)), (0, 3, 1, 2, 4))


def _unit_variance(parts: Parts, inputs: int) -> Any:
    """For sums of so many inputs; Keras counts those of a depthwise kernel as if every channel took part."""
    return keras.initializers.RandomNormal(stddev=1 / math.sqrt(inputs), seed=parts.seed())


def _project(parts: Parts, value: Any, width: int, name: str, *, bias: bool = False, zero: bool = False) -> Any:
    initial = keras.initializers.Zeros() if zero else keras.initializers.GlorotUniform(seed=parts.seed())
    return layers.Dense(width, use_bias=bias, kernel_initializer=initial, dtype=parts.dtype, name=name)(value)


def _added(parts: Parts, value: Any, branch: Any, name: str) -> Any:
    return layers.Add(dtype=parts.dtype, name=f"{name}_add")([value, branch])
