"""A network that looks at patches, applied to a whole scan: overlapping windows, blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

SIGMA = 1 / 8
"""Standard deviation of the blending weights, as a share of the window."""

Forward = Callable[[tf.Tensor], tf.Tensor]
"""Float32 to float32 of the same shape but one channel."""


def scan_probability(forward: Forward, scan: tf.Tensor, patch: Sequence[int], overlap: float) -> tf.Tensor:
    """What a network of patches makes of a whole scan.

    After nnU-Net (Isensee et al., Nature Methods 2021): windows lie evenly along each axis and overlap by at least
    `overlap`; where several cover a voxel, each counts the more the nearer the voxel is to its centre. Windows run one
    after another, so memory is that of one window and the scan.

    Args:
        forward: From one window, float32 of shape (1, *patch, channels), to probabilities (1, *patch, 1).
        scan: float32 of shape (slices, rows, columns, channels), every size but the channels' may be unknown. A scan
            that is smaller than a window has air, 0, around it.
        patch: Slices, rows and columns of a window.
        overlap: Share of a window, in [0, 1), that the next one covers too.

    Returns:
        float32 of shape (slices, rows, columns, 1).
    """
    size = tf.shape(scan)[:3]
    before, missing = centred_padding(size, patch)
    padded = tf.pad(scan, tf.concat([tf.stack([before, missing - before], 1), [[0, 0]]], 0))
    whole = tf.shape(padded)[:3]
    starts, shares = zip(*(_along(whole[axis], length, overlap) for axis, length in enumerate(patch)), strict=True)
    counts = [tf.shape(places)[0] for places in starts]

    def blend(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        which = (number // (counts[1] * counts[2]), number // counts[2] % counts[1], number % counts[2])
        corner = tf.stack([places[index] for places, index in zip(starts, which, strict=True)])
        window = tf.slice(padded, tf.concat([corner, [0]], 0), [*patch, scan.shape[-1]])
        weight = tf.einsum("i,j,k->ijk", *(share[index] for share, index in zip(shares, which, strict=True)))
        found = forward(window[tf.newaxis])[0, ..., 0] * weight
        # Rows and columns are filled up with nothing, slices are added where they belong.
        sides = tf.stack([corner[1:], whole[1:] - corner[1:] - list(patch[1:])], 1)
        found = tf.pad(found, tf.concat([[[0, 0]], sides], 0))
        rows = corner[0] + tf.range(patch[0])
        return number + 1, tf.tensor_scatter_nd_add(total, rows[:, tf.newaxis], found)

    _, total = tf.while_loop(
        lambda number, _: number < counts[0] * counts[1] * counts[2],
        blend,
        (tf.constant(0), tf.zeros(whole)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None, None])),
        parallel_iterations=1,
    )
    return tf.ensure_shape(tf.slice(total, before, size)[..., tf.newaxis], [*scan.shape[:3], 1])


def centred_padding(size: Any, patch: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """How much of a patch a smaller scan leaves empty.

    Args:
        size: int32 of shape (axes,).
        patch: As many sizes.

    Returns:
        int32 of the same shape each: what lies before the scan, and what is missing in all.
    """
    missing = tf.maximum(tf.constant(list(patch)) - size, 0)
    return missing // 2, missing


def _along(size: tf.Tensor, length: int, overlap: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Windows along one axis.

    Args:
        size: int32, at least `length`.
        length: Of a window.
        overlap: Least share that two neighbours have in common.

    Returns:
        Where they start, int32 of shape (windows,), and what each counts at each of its places, float32 of shape
        (windows, length), which sum to 1 at each place of the axis.
    """
    room = size - length
    step = max(round(length * (1 - overlap)), 1)
    gaps = -(-room // step)
    evenly = tf.cast(tf.range(gaps + 1) * room, tf.float64) / tf.cast(tf.maximum(gaps, 1), tf.float64)
    starts = tf.cast(tf.round(evenly), tf.int32)
    away = (tf.range(length, dtype=tf.float32) - (length - 1) / 2) / (length * SIGMA)
    weight = tf.tile(tf.exp(-0.5 * away**2)[tf.newaxis], [gaps + 1, 1])
    places = starts[:, tf.newaxis] + tf.range(length)
    total = tf.math.unsorted_segment_sum(tf.reshape(weight, [-1]), tf.reshape(places, [-1]), size)
    return starts, weight / tf.gather(total, places)
