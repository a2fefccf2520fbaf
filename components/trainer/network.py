"""The 2D U-Net, in Keras 3 alone, so that it runs on every Keras backend.

After Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (MICCAI 2015), with one
change for speed: a stem of stride 2 folds 2 x 2 pixels into channels, the U works at half the resolution, and the
head unfolds 2 x 2 logits from each position (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016). On a CPU the full-resolution level is most of the time
and little of the accuracy.

With deep supervision the coarser levels of the way up give logits too, in training only (Lee et al., "Deeply-Supervised
Nets", AISTATS 2015; as nnU-Net does it: Isensee et al., Nature Methods 2021).

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
    parts = Parts(config, seed * SEEDS, precision)
    image = keras.Input((size, size, channels), name="image")
    skips = []
    value = parts.fold(image, filters[0], stride) if stride > 1 else image
    for level, width in enumerate(filters):
        if level:
            value = parts.pool(value)
        convolutions = 1 if stride > 1 and level == 0 else 2
        value = parts.block(value, width, convolutions, f"encode{level}")
        skips.append(value)
    if config["bottleneck"] in BOTTLENECKS:
        # Seeds of its own, so that every other layer starts as it does without it.
        value = BOTTLENECKS[config["bottleneck"]](Parts(config, seed * SEEDS + SEEDS // 2, precision), value)
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
