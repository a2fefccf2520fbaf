"""The `preprocessing_fn` that TFX Transform traces; it has no analyzers, so no pass over the data is needed."""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf

from components.transform.windows import network_input
from schema import features as f

CONFIG_KEY = "ich"
"""Key of `custom_config` that holds the JSON of the sections grid, windows and normalisation."""


def decode_image(image: tf.Tensor, size: int, slices: int) -> tf.Tensor:
    """Raw bytes to HU.

    Args:
        image: string of shape (n,), each `slices * size * size` little-endian int16.
        size: Pixels a side.
        slices: Slices in one example, 2k + 1.

    Returns:
        int16 of shape (n, slices, size, size), HU.
    """
    # The batch size is spelt out: an image of the wrong size is an error, and never taken for several images.
    return tf.reshape(tf.io.decode_raw(image, tf.int16, little_endian=True), [tf.shape(image)[0], slices, size, size])


def decode_mask(mask: tf.Tensor, size: int) -> tf.Tensor:
    """Coverage bytes to float32 of shape (n, size, size, 1) in [0, 1]."""
    coverage = tf.reshape(tf.io.decode_raw(mask, tf.uint8), [tf.shape(mask)[0], size, size, 1])
    return tf.cast(coverage, tf.float32) * (1.0 / 255.0)


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Turns raw slice examples into the network's input and target.

    Args:
        inputs: Raw features of a batch, as `schema/schema.pbtxt` declares them.
        custom_config: Holds the configuration under `CONFIG_KEY`.

    Returns:
        `image_xf` of shape (n, size, size, channels) and `mask_xf` of shape (n, size, size, 1).
    """
    config = json.loads(custom_config[CONFIG_KEY])
    size = config["grid"]["size"]
    hu = decode_image(_flat(inputs[f.IMAGE]), size, 2 * config["grid"]["context_slices"] + 1)
    return {
        f.IMAGE_XF: network_input(
            hu,
            _flat(inputs[f.BRAIN_HU_MEAN]),
            _flat(inputs[f.BRAIN_HU_SD]),
            windows=config["windows"],
            normalisation=config["normalisation"],
        ),
        f.MASK_XF: decode_mask(_flat(inputs[f.MASK]), size),
    }


def _flat(feature: tf.Tensor) -> tf.Tensor:
    """A scalar feature as (n,), whether it came as (n,) or (n, 1)."""
    return tf.reshape(feature, [-1])
