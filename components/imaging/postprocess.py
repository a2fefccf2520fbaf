"""From the network's probabilities to a mask on the scan's own grid: one way for validation, gate and prediction."""

from __future__ import annotations

from functools import lru_cache

import cc3d
import numpy as np
from isal import isal_zlib
from scipy import ndimage

from components.imaging.geometry import Geometry

LEVELS = 255
"""Probabilities are rounded to so many steps first: what is sent between stages then gives the very same mask."""


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1] of any shape as uint8 in steps of 1/255."""
    return np.rint(np.clip(probabilities, 0.0, 1.0) * LEVELS).astype(np.uint8)


def relevant(quantised: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities without those that no outline can depend on: `outline` gives the same mask for less to keep.

    A native pixel lies between at most 2 x 2 grid pixels and reaches the threshold only if one of them does, so what
    is farther than one pixel from any that does is set to 0.

    Args:
        quantised: uint8 of shape (slices, size, size).
        threshold: Probability from which a voxel is lesion.

    Returns:
        uint8 of the same shape.
    """
    likely = quantised >= threshold * LEVELS
    near = ndimage.binary_dilation(likely, structure=np.ones((1, 3, 3), bool)) if likely.any() else likely
    return np.where(near, quantised, np.uint8(0))


def outline(
    quantised: np.ndarray, geometry: Geometry, *, threshold: float, min_component_ml: float = 0.0
) -> np.ndarray:
    """The lesion mask of a scan.

    Probabilities are interpolated linearly to the native pixels, cut at the threshold, and connected components
    (26 neighbours) below the smallest volume are dropped.

    Args:
        quantised: uint8 of shape (slices, size, size) from `quantise`.
        geometry: The scan's geometry.
        threshold: Probability from which a voxel is lesion.
        min_component_ml: Smallest component that is kept.

    Returns:
        bool of shape `geometry.native_shape`, canonical orientation.
    """
    mask = np.zeros(geometry.native_shape, dtype=bool)
    # Interpolation never exceeds its largest neighbour, so only pixels that reach the threshold matter.
    likely = quantised >= threshold * LEVELS
    slices = np.flatnonzero(likely.any(axis=(1, 2)))
    if slices.size == 0:
        return mask
    first, last = slices[0], slices[-1] + 1
    spans = [np.flatnonzero(likely.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    rows, columns = geometry.native_window(*((int(span[0]), int(span[-1]) + 1) for span in spans))
    native = geometry.to_native(quantised[first:last], rows, columns)
    found = native >= np.float32(threshold * LEVELS)
    if min_component_ml > 0:
        smallest = int(np.ceil(min_component_ml / geometry.voxel_ml - 1e-9))
        found = np.asarray(cc3d.dust(found, threshold=smallest, connectivity=26)) > 0
    mask[first:last, rows, columns] = found
    return mask


def pack_mask(mask: np.ndarray) -> bytes:
    """A bool mask as compressed bits; `unpack_mask` is the inverse."""
    return isal_zlib.compress(np.packbits(mask), 1) if mask.any() else _packed_nothing(mask.size)


@lru_cache(maxsize=8)
def _packed_nothing(size: int) -> bytes:
    """An empty mask, packed: most slices are."""
    return isal_zlib.compress(bytes(-(-size // 8)), 1)


def unpack_mask(data: bytes, rows: int, columns: int) -> np.ndarray:
    """bool of shape (rows, columns) from `pack_mask`."""
    bits = np.frombuffer(isal_zlib.decompress(data), np.uint8)
    return np.unpackbits(bits, count=rows * columns).reshape(rows, columns).astype(bool)
