"""Random changes to training slices: one affine resampling of image and mask together, then intensities.

Everything is stateless: the same seed gives the same slices, whatever ran before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

INTENSITY, NOISE, PLACE = 0, 1, 2
"""Each kind of change draws from a stream of its own, so that switching one off leaves the others as they are."""


def augment(
    image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any], sensitivity: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch.

    Args:
        image: float32 of shape (n, size, size, channels) in [0, 1].
        mask: float32 of shape (n, size, size, 1) in [0, 1].
        seed: int32 or int64 of shape (2,).
        config: The section `training.augment` of the configuration.
        sensitivity: How much each channel shows of a change in HU, 1 for the narrowest window.

    Returns:
        Image and mask of the same shapes.
    """
    if any(config[key] for key in ("flip", "rotate_degrees", "scale", "shift")):
        transforms = random_transforms(tf.shape(image)[0], image.shape[1], _stream(seed, PLACE), config)
        image, mask = warp(image, mask, transforms)
    if config["intensity"] or config["noise"]:
        image = vary_intensity(image, seed, config, sensitivity)
    return image, mask


def channel_sensitivity(windows: Sequence[Mapping[str, Any]], slices: int) -> list[float]:
    """How much each channel shows of a change in HU, relative to the narrowest window.

    Args:
        windows: Mappings with `width` in HU.
        slices: Slices in one input, 2k + 1.

    Returns:
        A number in (0, 1] per channel.
    """
    narrowest = min(window["width"] for window in windows)
    return [narrowest / window["width"] for window in windows] * slices


def random_transforms(count: tf.Tensor, size: int, seed: tf.Tensor, config: Mapping[str, Any]) -> tf.Tensor:
    """Draws a flip, rotation, zoom and shift per slice.

    Only left and right are exchanged: heads are nearly symmetric that way and no other.

    Args:
        count: Slices in the batch.
        size: Pixels a side.
        seed: Of shape (2,).
        config: `flip`, `rotate_degrees`, `scale` and `shift`.

    Returns:
        float32 of shape (count, 8): output to input pixels, as `warp` takes them.
    """
    draw = tf.random.stateless_uniform([count, 5], seed, -1.0, 1.0)
    angle = draw[:, 0] * (config["rotate_degrees"] * math.pi / 180)
    zoom = 1.0 + draw[:, 1] * config["scale"]
    mirror = tf.where(draw[:, 2] < 0, -1.0, 1.0) if config["flip"] else tf.ones([count])
    shift = draw[:, 3:] * (config["shift"] * size)
    return affine_transforms(angle, zoom, mirror, shift, size)


def affine_transforms(angle: tf.Tensor, zoom: tf.Tensor, mirror: tf.Tensor, shift: tf.Tensor, size: int) -> tf.Tensor:
    """Projective coefficients of a rotation, zoom and mirroring about the centre, then a shift.

    Args:
        angle: float32 of shape (n,), radians; positive turns the picture clockwise as seen with rows downwards.
        zoom: float32 of shape (n,), above 1 enlarges.
        mirror: float32 of shape (n,), -1 exchanges left and right, else 1.
        shift: float32 of shape (n, 2), columns and rows in pixels that the picture moves.
        size: Pixels a side.

    Returns:
        float32 of shape (n, 8): a0, a1, a2, b0, b1, b2, 0, 0, where output (x, y) takes its value from input
        (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    middle = (size - 1) / 2
    cosine, sine = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    a0, a1, b0, b1 = mirror * cosine, mirror * sine, -sine, cosine
    x, y = middle + shift[:, 0], middle + shift[:, 1]
    none = tf.zeros_like(angle)
    return tf.stack([a0, a1, middle - a0 * x - a1 * y, b0, b1, middle - b0 * x - b1 * y, none, none], axis=1)


def warp(image: tf.Tensor, mask: tf.Tensor, transforms: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Resamples image and mask bilinearly with the same transforms; outside is air and no lesion.

    Args:
        image: float32 of shape (n, size, size, channels).
        mask: float32 of shape (n, size, size, 1).
        transforms: float32 of shape (n, 8) from `affine_transforms`.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.concat([image, mask], axis=-1),
        transforms=transforms,
        output_shape=tf.shape(image)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    moved = tf.ensure_shape(moved, [None, image.shape[1], image.shape[2], image.shape[3] + 1])
    return moved[..., :-1], moved[..., -1:]


def vary_intensity(
    image: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any], sensitivity: Sequence[float]
) -> tf.Tensor:
    """A gain and an offset per slice and noise per pixel, as a change in HU shows in each window.

    Args:
        image: float32 of shape (n, size, size, channels) in [0, 1].
        seed: Of shape (2,).
        config: `intensity` and `noise`.
        sensitivity: As for `augment`.

    Returns:
        float32 of the same shape in [0, 1].
    """
    shape = tf.shape(image)
    show = tf.constant(sensitivity, tf.float32)
    if config["intensity"]:
        drawn = tf.random.stateless_uniform([2, shape[0], 1, 1, 1], _stream(seed, INTENSITY), -1.0, 1.0)
        drawn *= config["intensity"]
        image = image * (1.0 + drawn[0]) + drawn[1] * show
    if config["noise"]:
        # One field for all channels: windows are views of the same HU.
        field = tf.random.stateless_normal([shape[0], shape[1], shape[2], 1], _stream(seed, NOISE))
        image = image + field * (config["noise"] * show)
    return tf.clip_by_value(image, 0.0, 1.0)


def _stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)
