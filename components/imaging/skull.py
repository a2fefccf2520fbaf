"""What on the model grid cannot be blood: bone and air, and what lies outside the skull.

Everything is decided slice by slice, so that it is the same for a whole scan, a part of it and a single slice.
"""

from __future__ import annotations

import cc3d
import numpy as np

from components.imaging.head import TISSUE_HU

BONE_HU = 150
"""Acute clots have 50 to 90 HU and hardly ever reach 100; trabecular bone starts well above this."""
CLIPPED_HU = 95
"""Bone of a slice that was clipped at the upper end of a window, where nothing reaches `_UNCLIPPED_HU`."""
_UNCLIPPED_HU = 300
_POOL_MM = 1.8  # twice the usual grid: half the gaps are closed by it, and it is a quarter of the work
_LEAST_SHARE = 0.7  # of the head; bone to bone it is 0.8 to 0.9 of skin to skin


def is_bone(hu: np.ndarray) -> np.ndarray:
    """Bone, metal and dense calcification.

    Args:
        hu: HU on the model grid, of shape (slices, size, size).

    Returns:
        bool of the same shape.
    """
    highest = hu.max(axis=(1, 2), keepdims=True, initial=-1024)
    return np.asarray(hu >= np.where(highest >= _UNCLIPPED_HU, BONE_HU, CLIPPED_HU))


def no_tissue(hu: np.ndarray) -> np.ndarray:
    """Bone or air, of the same arguments as `is_bone`."""
    return is_bone(hu) | (hu < TISSUE_HU)


def inside_skull(hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The skull and what it encloses.

    Bone is closed over gaps of some 5 mm (sutures, foramina, the thin squama between thick slices), and what cannot
    be reached from outside the slice is inside. Where that is less than 70 % of the head, the skull is open there
    (orbits and sinuses, a craniectomy, a cut-off field of view) or not to be seen, and all that lies within the skin
    is taken instead. The bone itself counts as inside, so that blood at the inner table is never cut.

    Args:
        hu: HU on the model grid, of shape (slices, size, size).
        spacing_mm: Pixel size.

    Returns:
        bool of the same shape.
    """
    if not len(hu):
        return np.zeros(hu.shape, bool)
    factor = max(1, round(_POOL_MM / spacing_mm))
    bone, tissue = _pooled(is_bone(hu), factor), _pooled(hu > TISSUE_HU, factor)
    head = ~_reached(tissue)
    closed = _eroded(~_reached(_dilated(bone)))
    head_area, closed_area = head.sum(axis=(1, 2)), closed.sum(axis=(1, 2))
    sealed = closed_area >= _LEAST_SHARE * head_area
    inside = np.where(sealed[:, np.newaxis, np.newaxis], closed, _dilated(head))
    size = hu.shape[1]
    return np.asarray(inside.repeat(factor, axis=1).repeat(factor, axis=2)[:, :size, :size])


def _pooled(mask: np.ndarray, factor: int) -> np.ndarray:
    """Any of each block of factor x factor pixels."""
    short = -mask.shape[1] % factor
    padded = np.pad(mask, ((0, 0), (0, short), (0, short))) if short else mask
    blocks = range(factor)
    result = np.zeros((len(mask), padded.shape[1] // factor, padded.shape[2] // factor), bool)
    for row in blocks:
        for column in blocks:
            result |= padded[:, row::factor, column::factor]
    return result


def _reached(walls: np.ndarray) -> np.ndarray:
    """What is reached from outside each slice without passing a wall, over edges."""
    # All slices side by side in one picture, with a way around each of them: one labelling instead of many.
    around = np.pad(~walls, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels = cc3d.connected_components(around.reshape(-1, around.shape[2]), connectivity=4)
    return np.asarray((labels == labels[0, 0]).reshape(around.shape)[:, 1:-1, 1:-1])


def _dilated(mask: np.ndarray) -> np.ndarray:
    """By one pixel in-plane, over edges and corners."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return np.asarray(rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:])


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The inverse of `_dilated`; what lies beyond the slice counts as inside."""
    return ~_dilated(~mask)
