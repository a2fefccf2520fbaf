"""Random changes to training slices: one affine resampling, the same for image and mask, then intensities.

Everything is stateless: the same seed gives the same slices, whatever ran before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

BEND_POINTS = 6
"""Displacements a side; between them they are interpolated."""

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

CARVED_MARGIN = 5
"""Pixels around a lesion that are carved out with it."""

INTENSITY, NOISE, PLACE, CHOICE, SOFTENED, CONTRAST, BENT, CARVED = range(8)
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
    image, mask = move(image, mask, seed, config)
    if config["elastic_share"] and config["elastic"]:
        image, mask = bend(image, mask, seed, config)
    if config["carve_share"]:
        image, mask = carve(image, mask, seed, config["carve_share"])
    if config["soften_share"]:
        image = soften(image, seed, config["soften_share"])
    if config["gamma"]:
        image = vary_contrast(image, seed, config["gamma"])
    if config["intensity"] or config["noise"]:
        image = vary_intensity(image, seed, config, sensitivity)
    return image, mask


def augment_volumes(
    image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any], sensitivity: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch of patches as `augment` does slices: one draw of each change for a whole patch.

    Args:
        image: float32 of shape (n, slices, size, size, channels) in [0, 1].
        mask: float32 of shape (n, slices, size, size, 1) in [0, 1].
        seed: int32 or int64 of shape (2,).
        config: The section `training.augment` of the configuration.
        sensitivity: As for `augment`.

    Returns:
        Image and mask of the same shapes.
    """
    _, slices, size, _, channels = image.shape
    # What changes places sees the slices as channels, so that they stay on top of each other.
    image, mask = _as_channels(image), _as_channels(mask)
    image, mask = augment(image, mask, seed, {**config, "gamma": 0, "intensity": 0, "noise": 0}, sensitivity)
    image, mask = _as_slices(image, slices, channels), _as_slices(mask, slices, 1)
    # What changes values sees them below each other, so that each has noise of its own.
    tall = tf.reshape(image, [-1, slices * size, size, channels])
    if config["gamma"]:
        tall = vary_contrast(tall, seed, config["gamma"])
    if config["intensity"] or config["noise"]:
        tall = vary_intensity(tall, seed, config, sensitivity)
    return tf.reshape(tall, [-1, slices, size, size, channels]), mask


def _as_channels(volumes: tf.Tensor) -> tf.Tensor:
    """From (n, slices, rows, columns, channels) to (n, rows, columns, slices * channels)."""
    _, slices, rows, columns, channels = volumes.shape
    return tf.reshape(tf.transpose(volumes, [0, 2, 3, 1, 4]), [-1, rows, columns, slices * channels])


def _as_slices(planes: tf.Tensor, slices: int, channels: int) -> tf.Tensor:
    """The inverse of `_as_channels`."""
    _, rows, columns, _ = planes.shape
    return tf.transpose(tf.reshape(planes, [-1, rows, columns, slices, channels]), [0, 3, 1, 2, 4])


def move(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips half of the slices, and rotates, scales and shifts a share of them.

    Resampling is the dearest step between disk and network, so only those slices go through it that need it.

    Args:
        image: float32 of shape (n, size, size, channels).
        mask: float32 of shape (n, size, size, 1).
        seed: Of shape (2,).
        config: The section `training.augment` of the configuration.
    """
    resample = any(config[key] for key in ("rotate_degrees", "scale", "shift")) and config["affine_share"] > 0
    if not resample and not config["flip"]:
        return image, mask
    count = tf.shape(image)[0]
    drawn = tf.random.stateless_uniform([2, count], _stream(seed, CHOICE))
    mirrored = (drawn[0] < 0.5) & config["flip"]
    resampled = (drawn[1] < config["affine_share"]) & resample
    if resample:
        rows = tf.where(resampled)
        transforms = random_transforms(count, image.shape[1], mirrored, _stream(seed, PLACE), config)
        transforms = tf.gather_nd(transforms, rows)
        image, mask = (_replace(pixels, rows, lambda part: warp(part, transforms)) for pixels in (image, mask))
    if config["flip"]:
        rows = tf.where(mirrored & ~resampled)
        image, mask = (_replace(pixels, rows, lambda part: tf.reverse(part, [2])) for pixels in (image, mask))
    return image, mask


def _replace(pixels: tf.Tensor, rows: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Changes some slices of a batch; `rows` of shape (m, 1) says which."""
    return tf.tensor_scatter_nd_update(pixels, rows, change(tf.gather_nd(pixels, rows)))


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


def random_transforms(
    count: tf.Tensor, size: int, mirrored: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any]
) -> tf.Tensor:
    """Draws a rotation, zoom and shift per slice.

    Only left and right are ever exchanged: heads are nearly symmetric that way and no other.

    Args:
        count: Slices in the batch.
        size: Pixels a side.
        mirrored: bool of shape (count,), slices to flip as well.
        seed: Of shape (2,).
        config: `rotate_degrees`, `scale` and `shift`.

    Returns:
        float32 of shape (count, 8), as `warp` takes them.
    """
    draw = tf.random.stateless_uniform([count, 4], seed, -1.0, 1.0)
    angle = draw[:, 0] * (config["rotate_degrees"] * math.pi / 180)
    zoom = 1.0 + draw[:, 1] * config["scale"]
    mirror = tf.where(mirrored, -1.0, 1.0)
    return affine_transforms(angle, zoom, mirror, draw[:, 2:] * (config["shift"] * size), size)


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


def warp(pixels: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
    """Resamples bilinearly; outside is air and no lesion, both 0.

    Args:
        pixels: float32 of shape (n, size, size, channels).
        transforms: float32 of shape (n, 8) from `affine_transforms`.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=transforms,
        output_shape=tf.shape(pixels)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(moved, pixels.shape)


def bend(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, config: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Bends a share of the slices smoothly, image and mask alike.

    After Ronneberger et al., "U-Net" (MICCAI 2015): random displacements on a coarse grid, interpolated between.

    Args:
        image: float32 of shape (n, size, size, channels).
        mask: float32 of shape (n, size, size, 1).
        seed: Of shape (2,).
        config: `elastic_share` and `elastic`.
    """
    stream = _stream(seed, BENT)
    size = image.shape[1]
    rows = tf.where(tf.random.stateless_uniform([tf.shape(image)[0]], stream) < config["elastic_share"])
    shape = [tf.shape(rows)[0], BEND_POINTS, BEND_POINTS, 2]
    coarse = tf.random.stateless_normal(shape, _stream(stream, 1), stddev=config["elastic"] * size)
    shifts = tf.image.resize(coarse, [size, size], "bicubic")
    # Bent once, together: coordinates and weights are half of the cost.
    both = _replace(tf.concat([image, mask], -1), rows, lambda part: displace(part, shifts))
    return both[..., : image.shape[-1]], both[..., image.shape[-1] :]


def displace(pixels: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Takes each pixel from elsewhere, bilinearly; outside is 0.

    Args:
        pixels: float32 of shape (n, size, size, channels).
        shifts: float32 of shape (n, size, size, 2): rows and columns from each pixel to where its value lies.
    """
    size = pixels.shape[1]
    line = tf.range(size, dtype=tf.float32)
    places = tf.stack(tf.meshgrid(line, line, indexing="ij"), -1) + shifts
    base = tf.floor(places)
    part = places - base
    first = tf.cast(base, tf.int32)
    flat = tf.reshape(pixels, [-1, size * size, pixels.shape[-1]])
    found = tf.zeros_like(pixels)
    for down in (0, 1):
        for right in (0, 1):
            row, column = first[..., 0] + down, first[..., 1] + right
            inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
            share = (part[..., 0] if down else 1.0 - part[..., 0]) * (part[..., 1] if right else 1.0 - part[..., 1])
            index = tf.clip_by_value(row, 0, size - 1) * size + tf.clip_by_value(column, 0, size - 1)
            values = tf.gather(flat, tf.reshape(index, [-1, size * size]), axis=1, batch_dims=1)
            found += tf.reshape(values, tf.shape(pixels)) * tf.where(inside, share, 0.0)[..., tf.newaxis]
    return tf.ensure_shape(found, pixels.shape)


def carve(image: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives a share of the slices the lesion of another slice of the batch, with a margin, where it lay there.

    After Zhang et al., "CarveMix" (MICCAI 2021), with one margin for all. Heads lie centred on the grid, so that what
    lay along the skull there lies near it here. A slice whose donor has no lesion stays as it is.

    Args:
        image: float32 of shape (n, size, size, k * channels).
        mask: float32 of shape (n, size, size, k); plane i belongs to the i-th `channels` of the image.
        seed: Of shape (2,).
        share: Share of the slices that are changed.

    Returns:
        Image and mask of the same shapes.
    """
    changed = tf.random.stateless_uniform([tf.shape(image)[0], 1, 1, 1], _stream(seed, CARVED)) < share
    given = tf.roll(mask, 1, 0)
    side = 2 * CARVED_MARGIN + 1
    carved = (tf.nn.max_pool2d(given, side, 1, "SAME") >= 0.5) & changed
    planes = tf.repeat(carved, image.shape[-1] // mask.shape[-1], axis=-1)
    return tf.where(planes, tf.roll(image, 1, 0), image), tf.where(carved, given, mask)


def soften(image: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Blurs half of a share of the slices, as a soft kernel does, and samples the other half at half the resolution.

    Args:
        image: float32 of shape (n, size, size, channels); the size is even.
        seed: Of shape (2,).
        share: Share of the slices that are changed.

    Returns:
        float32 of the same shape.
    """
    drawn = tf.random.stateless_uniform([tf.shape(image)[0]], _stream(seed, SOFTENED))
    image = _replace(image, tf.where(drawn < share / 2), blur)
    return _replace(image, tf.where((drawn >= share / 2) & (drawn < share)), coarsen)


def blur(pixels: tf.Tensor) -> tf.Tensor:
    """Binomial smoothing of 5 x 5 pixels, about a Gaussian of one pixel; edges repeat."""
    padded = tf.pad(pixels, [[0, 0], [2, 2], [2, 2], [0, 0]], "SYMMETRIC")
    rows, columns = pixels.shape[1:3]
    # Sums of shifted slices: TensorFlow's oneDNN convolution fails on no slices, and this is as fast.
    padded = tf.add_n([weight * padded[:, index : index + rows] for index, weight in enumerate(_BINOMIAL)])
    return tf.add_n([weight * padded[:, :, index : index + columns] for index, weight in enumerate(_BINOMIAL)])


def coarsen(pixels: tf.Tensor) -> tf.Tensor:
    """Means of 2 x 2 pixels, interpolated back."""
    small = tf.nn.avg_pool2d(pixels, 2, 2, "VALID")
    return tf.ensure_shape(tf.image.resize(small, pixels.shape[1:3]), pixels.shape)


def vary_contrast(image: tf.Tensor, seed: tf.Tensor, gamma: float) -> tf.Tensor:
    """Raises each slice to a power between 1 / (1 + `gamma`) and 1 + `gamma`, evenly on a logarithmic scale.

    Args:
        image: float32 of shape (n, size, size, channels) in [0, 1].
        seed: Of shape (2,).
        gamma: At least 0.
    """
    drawn = tf.random.stateless_uniform([tf.shape(image)[0], 1, 1, 1], _stream(seed, CONTRAST), -1.0, 1.0)
    # A sixth of the time of tf.pow; black stays black to one part in 10,000.
    return tf.exp(tf.exp(drawn * math.log1p(gamma)) * tf.math.log(tf.maximum(image, 1e-6)))


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
    show = tf.constant([sensitivity], tf.float32)
    drawn = tf.random.stateless_uniform([2, shape[0], 1, 1, 1], _stream(seed, INTENSITY), -1.0, 1.0)
    drawn *= config["intensity"]
    if config["noise"]:
        # One field for all channels: windows are views of the same HU. A matrix product, since broadcasting over so
        # few channels takes twice as long.
        pixels = tf.concat([shape[:3], [1]], 0)
        field = tf.random.stateless_normal(pixels, _stream(seed, NOISE), drawn[1], config["noise"])
        added = tf.reshape(tf.matmul(tf.reshape(field, [-1, 1]), show), shape)
    else:
        added = drawn[1] * show
    return tf.clip_by_value(image * (1.0 + drawn[0]) + added, 0.0, 1.0)


def _stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)
