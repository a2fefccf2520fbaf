"""From a scan's own grid to the model grid and exactly back.

Canonical orientation is LPS seen as (slices, rows, columns): slices from inferior to superior, rows from anterior to
posterior, columns from the patient's right to left, which is how radiologists look at an axial slice. An oblique scan
goes to the nearest axial orientation by flips and transpositions alone, so the way back is exact. A gantry tilt (a
sheared affine) is handled the same way: slices are taken as acquired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike
from scipy import sparse

CANONICAL = "LPS"
AIR_HU = -1024
HU_RANGE = (-1024, 3071)


@dataclass(frozen=True)
class Orientation:
    """How a stored array becomes canonical: transpose and flips, nothing else.

    Attributes:
        codes: Axis codes of the stored array, for example `RAS`.
        transform: nibabel orientation transform from stored to canonical, of shape (3, 2).
        spacing_mm: Canonical spacing along slices, rows, columns.
    """

    codes: str
    transform: tuple[tuple[float, float], ...]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, affine: np.ndarray) -> Orientation:
        """The orientation of an affine (voxel index to RAS mm, shape (4, 4))."""
        return _orientation(np.asarray(affine, np.float64).tobytes())

    @classmethod
    def _of(cls, affine: np.ndarray) -> Orientation:
        stored = nib.orientations.io_orientation(affine)
        wanted = nib.orientations.axcodes2ornt(tuple(CANONICAL))
        transform = nib.orientations.ornt_transform(stored, wanted)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        along = np.empty(3)
        along[transform[:, 0].astype(int)] = spacing
        # Rounded, so that the orientation in which the same scan is stored leaves no trace in the last bits.
        columns, rows = (round(float(value), 5) for value in along[:2])
        # Between slices the distance across them counts, also under gantry tilt: voxel volumes come out right.
        slices = round(float(abs(np.linalg.det(affine[:3, :3])) / (along[0] * along[1])), 5)
        codes = "".join(nib.orientations.ornt2axcodes(stored))
        return cls(codes, tuple((float(a), float(f)) for a, f in transform), (slices, rows, columns))

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """A view of shape (slices, rows, columns) on a stored array of shape (i, j, k)."""
        return nib.orientations.apply_orientation(stored, np.array(self.transform)).transpose(2, 1, 0)

    def to_stored(self, canonical: np.ndarray) -> np.ndarray:
        """The exact inverse of `to_canonical`."""
        ornt = np.array(self.transform)
        result = canonical.transpose(2, 1, 0)
        for axis in range(3):
            if ornt[axis, 1] == -1:
                result = np.flip(result, int(ornt[axis, 0]))
        return result.transpose([int(axis) for axis in ornt[:, 0]])


@lru_cache(maxsize=64)
def _orientation(affine: bytes) -> Orientation:
    """Each scan's is asked for six times, and nibabel takes a third of a millisecond over it."""
    return Orientation._of(np.frombuffer(affine, np.float64).reshape(4, 4))


@dataclass(frozen=True)
class Geometry:
    """Where the model grid lies in a scan.

    Attributes:
        native_shape: Canonical shape of the scan: slices, rows, columns.
        spacing_mm: Its spacing in the same order.
        grid_center: Row and column, in native coordinates, of the centre of the model grid.
        grid_size: Pixels a side of the model grid.
        grid_spacing_mm: Pixel size of the model grid.
    """

    native_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    grid_center: tuple[float, float]
    grid_size: int
    grid_spacing_mm: float

    @property
    def voxel_ml(self) -> float:
        """Volume of a native voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def to_grid(
        self,
        native: np.ndarray,
        outside: float,
        *,
        box: tuple[slice, slice] | None = None,
        finish: Callable[[np.ndarray], np.ndarray] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """Resamples slices in-plane to the model grid, each grid pixel the area-weighted mean of what it covers.

        Where the grid is finer than the scan, this interpolates linearly instead.

        Args:
            native: Of shape (n, rows, columns).
            outside: Value of what lies outside the scan or the box.
            box: Native rows and columns to look at; all by default.
            finish: Applied to each slice's float32 values while they are in the processor's cache.
            dtype: Type of the result; `finish` must return values that fit it.

        Returns:
            `dtype` of shape (n, grid_size, grid_size).
        """
        rows, columns = box or (slice(0, native.shape[1]), slice(0, native.shape[2]))
        (row_matrix, row_cover, row_span), (column_matrix, column_cover, column_span) = (
            _area_weights(
                self.native_shape[axis],
                self.grid_size,
                self.grid_spacing_mm / self.spacing_mm[axis],
                self.grid_center[axis - 1],
                wanted.start,
                wanted.stop,
            )
            for axis, wanted in ((1, rows), (2, columns))
        )
        grid = np.full((native.shape[0], self.grid_size, self.grid_size), outside, dtype)
        if row_matrix.nnz == 0 or column_matrix.nnz == 0:
            return grid
        uncovered = np.float32(outside) * (1.0 - np.outer(row_cover, column_cover)).astype(np.float32)
        border = uncovered if outside and uncovered.any() else None
        # Few weights a row, so sparse products; slice by slice, so that all of it stays in the processor's cache.
        for index, plane in enumerate(native):
            narrowed = row_matrix @ np.asarray(plane[rows, columns], dtype=np.float32)
            values = (column_matrix @ np.ascontiguousarray(narrowed.T)).T
            if border is not None:
                values = values + border
            grid[index, row_span, column_span] = finish(values) if finish else values
        return grid

    def to_native(self, grid: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Interpolates a part of the model grid linearly at native pixel centres.

        Args:
            grid: Of shape (n, grid_size, grid_size).
            rows: Native rows wanted.
            columns: Native columns wanted.

        Returns:
            float32 of shape (n, rows, columns); 0 outside the grid.
        """
        row_matrix, column_matrix = (
            _interpolation(
                self.native_shape[axis],
                self.grid_size,
                self.spacing_mm[axis] / self.grid_spacing_mm,
                self.grid_center[axis - 1],
            )[wanted]
            for axis, wanted in ((1, rows), (2, columns))
        )
        native = np.empty((grid.shape[0], row_matrix.shape[0], column_matrix.shape[0]), np.float32)
        for index, plane in enumerate(grid):
            widened = row_matrix @ np.asarray(plane, dtype=np.float32)
            native[index] = (column_matrix @ np.ascontiguousarray(widened.T)).T
        return native

    def native_window(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[slice, slice]:
        """The native rows and columns that some grid rows and columns (first, last + 1) can reach."""
        found = []
        for axis, (first, last) in ((1, rows), (2, columns)):
            step = self.grid_spacing_mm / self.spacing_mm[axis]
            middle = (self.grid_size - 1) / 2
            low = self.grid_center[axis - 1] + (first - 1 - middle) * step
            high = self.grid_center[axis - 1] + (last - middle) * step
            limit = self.native_shape[axis]
            found.append(slice(int(np.clip(np.floor(low), 0, limit)), int(np.clip(np.ceil(high) + 1, 0, limit))))
        return found[0], found[1]


@lru_cache(maxsize=64)
def _area_weights(
    length: int, size: int, step: float, center: float, first: int, last: int
) -> tuple[sparse.csr_matrix, np.ndarray, slice]:
    """Weights of some native pixels in the grid pixels that they reach, along one axis.

    Args:
        length: Native pixels.
        size: Grid pixels.
        step: Grid pixel size in native pixels.
        center: Native coordinate of the grid's centre.
        first: First native pixel to look at.
        last: One after the last.

    Returns:
        Matrix of shape (reached, last - first), the covered share of each reached grid pixel, and which these are.
    """
    matrix = _all_area_weights(length, size, step, center)[:, first:last]
    reached = np.flatnonzero(np.diff(matrix.indptr))
    span = slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)
    matrix = matrix[span]
    cover = np.asarray(matrix.sum(axis=1)).ravel()
    return matrix, np.where(cover > 1 - 1e-5, 1.0, cover), span


def _all_area_weights(length: int, size: int, step: float, center: float) -> sparse.csr_matrix:
    """Weights of all native pixels in all grid pixels: a matrix of shape (size, length)."""
    middles = center + (np.arange(size) - (size - 1) / 2) * step
    if step < 1:
        return _linear(middles, length)
    low, high = middles - step / 2, middles + step / 2
    rows, columns, weights = [], [], []
    reach = int(np.ceil(step)) + 2
    for offset in range(reach):
        # Native pixel p covers the interval from p - 0.5 to p + 0.5.
        pixel = np.floor(low + 0.5).astype(int) + offset
        overlap = np.minimum(high, pixel + 0.5) - np.maximum(low, pixel - 0.5)
        keep = (overlap > 1e-9) & (pixel >= 0) & (pixel < length)
        rows.append(np.flatnonzero(keep))
        columns.append(pixel[keep])
        weights.append(overlap[keep] / step)
    return sparse.csr_matrix(
        (np.concatenate(weights).astype(np.float32), (np.concatenate(rows), np.concatenate(columns))),
        shape=(size, length),
    )


def _linear(positions: np.ndarray, length: int) -> sparse.csr_matrix:
    """Linear interpolation at `positions` in pixels 0 .. length - 1, whose own area reaches half a pixel beyond."""
    inside = (positions > -0.5) & (positions < length - 0.5)
    clamped = np.clip(positions, 0, length - 1)
    left = np.minimum(np.floor(clamped).astype(int), max(length - 2, 0))
    right = np.minimum(left + 1, length - 1)
    part = clamped - left
    index = np.flatnonzero(inside)
    return sparse.csr_matrix(
        (
            np.concatenate([1 - part[index], part[index]]).astype(np.float32),
            (np.concatenate([index, index]), np.concatenate([left[index], right[index]])),
        ),
        shape=(len(positions), length),
    )


@lru_cache(maxsize=64)
def _interpolation(length: int, size: int, step: float, center: float) -> sparse.csr_matrix:
    """Matrix of shape (length, size) that interpolates grid values at native pixel centres."""
    positions = (np.arange(length) - center) * step + (size - 1) / 2
    return _linear(positions, size)
