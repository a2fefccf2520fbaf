"""Where the head is in a scan, and what its brain looks like, from thinned-out pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np

THINNING_MM = 2.5
"""Pixels are taken about this far apart in-plane: enough to find a head, a small part of the work."""

TISSUE_HU = -200
BONE_HU = 300
BRAIN_HU = (0, 80)
_MIN_BONE_ML = 20.0
_MARGIN_MM = 10.0
_MIN_BRAIN_ML = 20.0
_MIN_HEAD_CM2 = 25.0  # of the largest slice; a head has 100 to 250, and a single thin slice is a scan too
PERCENTILES = (1.0, 5.0, 50.0, 95.0, 99.0)


@dataclass(frozen=True)
class Head:
    """What is known of a scan's head.

    Attributes:
        center: Row and column of the middle of the skull's bounding box, in native pixels.
        box: Native rows and columns that hold the whole head, with a margin; all where none was found.
        area_cm2: Head area per slice, float64 of shape (slices,).
        percentiles: HU percentiles `PERCENTILES` inside the head per slice, of shape (slices, 5); -1024 without head.
        brain_mean: Mean HU of the brain; NaN when no brain was found.
        brain_sd: Its standard deviation in HU; NaN likewise.
        found: Whether there is a head at all.
        tissue: bool of the shape of the thinned-out scan (`thinned`): the largest connected piece that is not air.
    """

    center: tuple[float, float]
    box: tuple[slice, slice]
    area_cm2: np.ndarray
    percentiles: np.ndarray
    brain_mean: float
    brain_sd: float
    found: bool
    tissue: np.ndarray


def thinning(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> tuple[list[int], list[int]]:
    """Steps and offsets, of rows and of columns, that keep pixels about `THINNING_MM` apart."""
    steps = [max(1, round(THINNING_MM / spacing)) for spacing in spacing_mm[1:]]
    return steps, [(size - 1) % step // 2 for size, step in zip(shape[1:], steps, strict=True)]


def thinned(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Every few pixels of each slice, in an array of their own; arguments as of `find_head`."""
    steps, offsets = thinning(hu.shape, spacing_mm)
    return np.ascontiguousarray(hu[:, offsets[0] :: steps[0], offsets[1] :: steps[1]])


def find_head(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> Head:
    """Finds the head in a scan.

    Args:
        hu: HU of shape (slices, rows, columns), canonical orientation.
        spacing_mm: Spacing in the same order.

    Returns:
        The head; its centre is that of the skull, else of the soft tissue, else of the image.
    """
    steps, offsets = thinning(hu.shape, spacing_mm)
    thin = thinned(hu, spacing_mm)
    pixel_cm2 = spacing_mm[1] * steps[0] * spacing_mm[2] * steps[1] / 100.0
    voxel_ml = pixel_cm2 * spacing_mm[0] / 10.0

    tissue = _largest(_eroded(thin > TISSUE_HU))
    bone = _largest(thin > BONE_HU)
    area_cm2 = tissue.sum(axis=(1, 2)) * pixel_cm2
    found = area_cm2.max() >= _MIN_HEAD_CM2
    anchor = bone if bone.sum() * voxel_ml >= _MIN_BONE_ML else tissue
    middles = [(low + high) / 2 for low, high in _extent(anchor, steps, offsets, hu.shape)]
    # The scalp counts as well as the skull, and either may be what was found best.
    box = []
    for axis, (low, high) in enumerate(_extent(tissue | bone, steps, offsets, hu.shape), start=1):
        margin = _MARGIN_MM / spacing_mm[axis] + steps[axis - 1]
        box.append(slice(max(0, int(low - margin)), min(hu.shape[axis], int(high + margin) + 1)))

    percentiles = np.full((len(thin), len(PERCENTILES)), -1024.0)
    for index, (plane, inside) in enumerate(zip(thin, tissue, strict=True)):
        if inside.any():
            percentiles[index] = _percentiles(plane[inside])
    brain = _largest(_eroded((thin > BRAIN_HU[0]) & (thin < BRAIN_HU[1])))
    values = thin[brain].astype(np.float64)
    enough = values.size * voxel_ml >= _MIN_BRAIN_ML
    return Head(
        center=(middles[0], middles[1]),
        box=(box[0], box[1]),
        area_cm2=area_cm2,
        percentiles=percentiles,
        brain_mean=float(values.mean()) if enough else float("nan"),
        brain_sd=float(values.std()) if enough else float("nan"),
        found=bool(found),
        tissue=tissue,
    )


def _percentiles(values: np.ndarray) -> np.ndarray:
    """`numpy.percentile(values, PERCENTILES)`, whose fixed cost a call is six times that of sorting a thinned slice."""
    ordered = np.sort(values)
    position = np.array(PERCENTILES) / 100 * (ordered.size - 1)
    below = position.astype(int)
    low, high = (ordered[index].astype(np.float64) for index in (below, np.minimum(below + 1, ordered.size - 1)))
    return low + (high - low) * (position - below)


def _extent(
    mask: np.ndarray, steps: list[int], offsets: list[int], shape: tuple[int, ...]
) -> list[tuple[float, float]]:
    """First and last native row and column of a thinned mask; the whole image of an empty one."""
    found = []
    for axis, step, offset in zip((1, 2), steps, offsets, strict=True):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if hit.size:
            found.append((float(hit[0] * step + offset), float(hit[-1] * step + offset)))
        else:
            found.append((0.0, float(shape[axis] - 1)))
    return found


def _eroded(mask: np.ndarray) -> np.ndarray:
    """In-plane erosion by the 4-neighbourhood: cuts thin bridges such as those to the table."""
    result = np.zeros_like(mask)
    inner = mask[:, 1:-1, 1:-1]
    result[:, 1:-1, 1:-1] = inner & mask[:, :-2, 1:-1] & mask[:, 2:, 1:-1] & mask[:, 1:-1, :-2] & mask[:, 1:-1, 2:]
    return result


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component, or nothing of nothing."""
    if not mask.any():
        return mask
    labels = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
