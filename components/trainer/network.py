"""The U-Net, 2D or 3D, in Keras 3 alone, so that it runs on every Keras backend.

After Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (MICCAI 2015), with one
change for speed: a stem of stride 2 folds 2 x 2 pixels into channels, the U works at half the resolution, and the
head unfolds 2 x 2 logits from each position (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). On a CPU the full-resolution level is most of the time
and little of the accuracy.

With deep supervision the coarser levels of the way up give logits too, in training only (Lee et al., "Deeply-Supervised
Nets", AISTATS 2015; as nnU-Net does it: Isensee et al., Nature Methods 2021).

In 3D it is the same network of volumes, with kernels of 1 x 3 x 3 and no pooling across slices while these are thick
against pixels, and of 3 x 3 x 3 below (Cicek et al., "3D U-Net", MICCAI 2016, with the anisotropic kernels of
nnU-Net). The stem folds pixels of one slice only.

`blocks` and `bottleneck` hold the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from components.trainer.blocks import Parts
from components.trainer.bottleneck import BOTTLENECKS

SEEDS = 10_000
"""Seeds that one network may use up, so that networks of neighbouring seeds share none."""


def build_network(
    size: int,
    channels: int,
    config: Mapping[str, Any],
    *,
    slices: int | None = None,
    seed: int = 0,
    precision: str = "float32",
) -> keras.Model:
    """Builds the U-Net.

    Args:
        size: Pixels a side; a multiple of 2 to the depth.
        channels: Channels of the input, slices times windows.
        config: The section `network` of the configuration.
        slices: Slices of a patch where `kind` is `3d`: a multiple of 2 to the number of poolings across slices.
        seed: Seeds the initial weights and dropout.
        precision: Keras dtype policy of everything but the logits.

    Returns:
        A model from (n, size, size, channels) in [0, 1] to logits (n, size, size, 1), float32 under any precision;
        in 3D from (n, slices, size, size, channels) to (n, slices, size, size, 1).
        With deep supervision it has further outputs for training, finest first: logits of the coarser levels of the
        way up. `inference_network` leaves them out.
    """
    stride = config["stem_stride"]
    levels = config["depth"] - int(math.log2(stride))
    filters = [min(config["base_filters"] * 2**level, config["max_filters"]) for level in range(levels + 1)]
    # By level: whether slices are thick there. The first level has half the grid's resolution where the stem folds.
    thick = [level + int(math.log2(stride)) < config["thick_levels"] for level in range(levels + 1)]
    parts = Parts(config, seed * SEEDS, precision)
    image = keras.Input((*((slices,) if parts.volumes else ()), size, size, channels), name="image")
    skips = []
    value = parts.fold(image, filters[0], stride) if stride > 1 else image
    for level, width in enumerate(filters):
        if level:
            value = parts.pool(value, thick=thick[level - 1])
        convolutions = 1 if stride > 1 and level == 0 else 2
        value = parts.block(value, width, convolutions, f"encode{level}", thick=thick[level])
        skips.append(value)
    if config["bottleneck"] in BOTTLENECKS:
        # Seeds of its own, so that every other layer starts as it does without it.
        own = Parts(config, seed * SEEDS + SEEDS // 2, precision)
        value = BOTTLENECKS[config["bottleneck"]](own, value, thick=thick[levels])
    value = parts.drop(value)
    skips.pop()
    coarser: dict[int, Any] = {}
    for level in reversed(range(levels)):
        value = parts.up(value, filters[level], f"up{level}", thick=thick[level])
        value = parts.join(value, skips.pop(), f"join{level}")
        value = parts.block(value, filters[level], config["decoder_convolutions"], f"decode{level}", thick=thick[level])
        if level:
            coarser[level] = value
    logits = parts.head(value, stride, thick=thick[0])
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
