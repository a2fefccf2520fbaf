"""From HU to the network's channels, as TensorFlow operations that are traced into every graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

REFERENCE_BRAIN_HU = (33.0, 9.0)
"""Mean and standard deviation, in HU, that per-patient normalisation brings every brain to."""

SCALE_LIMITS = (0.5, 2.0)
"""A scan whose brain varies far more or less than the reference is not stretched beyond these factors."""


def normalise_hu(hu: tf.Tensor, brain_mean: tf.Tensor, brain_sd: tf.Tensor) -> tf.Tensor:
    """Shifts and scales each scan so that its brain has the reference mean and deviation.

    Args:
        hu: float32 of shape (n, ...), HU.
        brain_mean: float32 of shape (n,), mean HU of the scan's brain; NaN leaves the slice as it is.
        brain_sd: float32 of shape (n,), its standard deviation in HU.

    Returns:
        float32 of the shape of `hu`.
    """
    mean, sd = REFERENCE_BRAIN_HU
    shape = tf.concat([tf.shape(brain_mean), tf.ones([tf.rank(hu) - 1], tf.int32)], axis=0)
    gain = tf.clip_by_value(sd / tf.maximum(brain_sd, 1e-3), *SCALE_LIMITS)
    known = tf.reshape(tf.math.is_finite(brain_mean) & tf.math.is_finite(brain_sd), shape)
    return tf.where(known, (hu - tf.reshape(brain_mean, shape)) * tf.reshape(gain, shape) + mean, hu)


def apply_windows(hu: tf.Tensor, windows: Sequence[Mapping[str, Any]]) -> tf.Tensor:
    """Each slice through each window, as channels in [0, 1].

    Args:
        hu: float32 of shape (n, slices, size, size), HU.
        windows: Mappings with `level` and `width` in HU.

    Returns:
        float32 of shape (n, size, size, slices * windows); the windows of one slice lie side by side.
    """
    channels = []
    for position in range(hu.shape[1]):
        for window in windows:
            lower = window["level"] - window["width"] / 2
            channels.append(tf.clip_by_value((hu[:, position] - lower) * (1.0 / window["width"]), 0.0, 1.0))
    return tf.stack(channels, axis=-1)


def network_input(
    hu: tf.Tensor,
    brain_mean: tf.Tensor,
    brain_sd: tf.Tensor,
    *,
    windows: Sequence[Mapping[str, Any]],
    normalisation: str,
) -> tf.Tensor:
    """What the network sees of raw HU: normalisation, then windows.

    Args:
        hu: int16 or float32 of shape (n, slices, size, size), HU.
        brain_mean: float32 of shape (n,), used when `normalisation` is `brain`.
        brain_sd: float32 of shape (n,), likewise.
        windows: Mappings with `level` and `width` in HU.
        normalisation: `none` or `brain`.

    Returns:
        float32 of shape (n, size, size, slices * windows) in [0, 1].
    """
    hu = tf.cast(hu, tf.float32)
    if normalisation == "brain":
        hu = normalise_hu(hu, brain_mean, brain_sd)
    return apply_windows(hu, windows)
