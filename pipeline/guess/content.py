"""What a few of the files hold: whether a mask or a scan, which labels, which grid."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components.imaging.errors import ScanError
from components.imaging.nifti import read_volume
from pipeline.guess.pairs import IMAGE_LIKE, MASK_LIKE

_MOST_LABELS = 32
_LARGEST_LABEL = 255
_SHARE_OF_NOTHING = 0.95


@dataclass(frozen=True)
class Masks:
    """What some masks hold.

    Attributes:
        read: How many were read.
        labels: Their labels, without 0.
        empty: How many hold none.
        lesion_slices: Slices with a label, on average over those that were read.
        unreadable: Why the first of those that cannot be read cannot; empty where all can.
    """

    read: int
    labels: tuple[int, ...]
    empty: int
    lesion_slices: float
    unreadable: str


@dataclass(frozen=True)
class Grids:
    """The grids of some scans: medians.

    Attributes:
        read: How many headers were read.
        pixel_mm: Distance of pixels.
        slice_mm: Distance of slices.
        pixels: Pixels a side.
        slices: Slices of a scan.
    """

    read: int
    pixel_mm: float
    slice_mm: float
    pixels: int
    slices: int


def looks_like(root: Path, path: str, known: dict[str, str | None]) -> str | None:
    """Whether a file holds a mask or a scan.

    Args:
        root: The data folder.
        path: The file, relative to it.
        known: Answers so far; the new one is added.

    Returns:
        None where it cannot be told: the file cannot be read, or is empty.
    """
    if path not in known:
        try:
            data = read_volume(root / path).data
        except ScanError:
            known[path] = None
        else:
            known[path] = _kind(data)
    return known[path]


def _kind(data: np.ndarray) -> str | None:
    low, high = float(data.min()), float(data.max())
    if low == high:
        return None
    if low < 0 or high > _LARGEST_LABEL:
        return IMAGE_LIKE
    if len(np.unique(data[::2, ::2])) <= _MOST_LABELS:
        return MASK_LIKE
    if data.dtype.kind == "f" and high <= 1:  # a mask that was resampled, or a scan that was normalised
        return MASK_LIKE if (data == 0).mean() > _SHARE_OF_NOTHING else None
    return IMAGE_LIKE


def read_masks(paths: Sequence[Path]) -> Masks:
    """Reads some masks in full."""
    labels: set[int] = set()
    empty, slices, read, unreadable = 0, 0, 0, ""
    for path in paths:
        try:
            data = read_volume(path).data
        except ScanError as error:
            unreadable = unreadable or str(error)
            continue
        read += 1
        labels |= {int(label) for label in np.unique(np.rint(data[data != 0].astype(np.float32))) if label}
        empty += not data.any()
        axis = int(np.argmin(data.shape))
        slices += int(data.any(axis=tuple({0, 1, 2} - {axis})).sum())
    return Masks(read, tuple(sorted(labels)), empty, slices / max(read, 1), unreadable)


def read_grids(paths: Sequence[Path]) -> Grids | None:
    """Reads some headers; None where none can be read."""
    rows = []
    for path in paths:
        try:
            header: Any = nib.load(path).header
            shape, zooms = header.get_data_shape()[:3], header.get_zooms()[:3]
        except Exception:  # whatever is wrong with a file, `ich check` says
            continue
        # The axis of slices is that of the longest step; where all are equal, that of the fewest.
        axis = max(range(len(shape)), key=lambda index: (round(float(zooms[index]), 2), -shape[index]))
        plane = [index for index in range(len(shape)) if index != axis]
        if len(plane) == 2 and all(0 < float(step) < 100 for step in zooms):
            rows.append((float(zooms[plane[0]]), float(zooms[axis]), max(shape[i] for i in plane), shape[axis]))
    if not rows:
        return None
    pixel, step, pixels, slices = (statistics.median(column) for column in zip(*rows, strict=True))
    return Grids(len(rows), round(pixel, 3), round(step, 3), round(pixels), round(slices))
