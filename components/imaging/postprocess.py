"""From the network's probabilities to a mask on the scan's own grid: one way for validation, gate and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import cc3d
import numpy as np
from isal import isal_zlib
from scipy import ndimage

from components.imaging.errors import IchError
from components.imaging.geometry import Geometry
from components.imaging.skull import inside_skull

LEVELS = 255
"""Probabilities are rounded to so many steps first: what is sent between stages then gives the very same mask."""

IN_PLANE = np.pad(ndimage.generate_binary_structure(2, 1)[np.newaxis], ((1, 1), (0, 0), (0, 0)))
"""A pixel and its four neighbours within the slice, none in the next."""


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """How probabilities become a mask; `outline` does the steps in the order of these.

    Attributes:
        threshold: Probability from which a voxel is lesion.
        fill_holes: Whether what lesion encloses within a slice becomes lesion.
        core_threshold: A component is kept only if one of its voxels has this probability (hysteresis: Canny 1986);
            the threshold itself keeps all.
        min_component_ml: Smallest component that is kept.
        hu_range: A component whose mean HU lies outside is dropped; None keeps all.
        head_only: A component of which more than half lies outside the skull is dropped (see `inside_skull`); models
            from before there was such a thing keep all.
    """

    threshold: float
    fill_holes: bool = False
    core_threshold: float
    min_component_ml: float = 0.0
    hu_range: tuple[float, float] | None = None
    head_only: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= self.core_threshold < 1:
            raise ValueError(
                f"threshold {self.threshold} and core_threshold {self.core_threshold}: wanted above 0, below 1 and "
                "the core's not below the other"
            )
        if self.min_component_ml < 0:
            raise ValueError(f"min_component_ml: found {self.min_component_ml}, wanted 0 or more")
        if self.hu_range is not None and not self.hu_range[0] < self.hu_range[1]:
            raise ValueError(f"hu_range: found {list(self.hu_range)}, wanted a lower and a higher HU")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Postprocess:
        """Reads what `to_dict` wrote, or the section `postprocess` of the configuration; ignores further keys.

        Args:
            values: By name; a `core_threshold` of None is the threshold.

        Raises:
            ValueError: A value is missing, of a wrong type or out of range.
        """
        try:
            later = {"head_only": values.get("head_only", False)}
            known: dict[str, Any] = {item.name: {**values, **later}[item.name] for item in fields(cls)}
            if known["core_threshold"] is None:
                known["core_threshold"] = known["threshold"]
            if known["hu_range"] is not None:
                low, high = known["hu_range"]
                known["hu_range"] = (float(low), float(high))
            return cls(**known)
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from None
        except TypeError as error:
            raise ValueError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """The values by name, ready for JSON."""
        return {**asdict(self), "hu_range": None if self.hu_range is None else list(self.hu_range)}

    @property
    def needs_hu(self) -> bool:
        """Whether the scan's HU play a part."""
        return self.hu_range is not None or self.head_only


@dataclass(frozen=True)
class Components:
    """What decides which connected components (26 neighbours) of a scan are kept; one value a component.

    Attributes:
        voxels: Native voxels, with those of filled holes; int64.
        peak: Highest probability, in steps of 1/255; float32.
        hu: Mean HU, of the model grid's nearest pixels, over the voxels that reach the threshold themselves;
            float64, or None where HU are not known.
        inside: Share of the same voxels that lies inside the skull, float64; None where that is not known.
    """

    voxels: np.ndarray
    peak: np.ndarray
    hu: np.ndarray | None
    inside: np.ndarray | None = None

    def kept(self, post: Postprocess, voxel_ml: float) -> np.ndarray:
        """Which components are kept, bool; the mask must have been cut and filled as `post` says."""
        smallest = int(np.ceil(post.min_component_ml / voxel_ml - 1e-9))
        keep = (self.voxels >= smallest) & (self.peak >= _steps(post.core_threshold))
        if post.hu_range is not None:
            if self.hu is None:
                raise ValueError(f"hu_range {list(post.hu_range)}: the scan's HU must be given")
            keep &= (self.hu >= post.hu_range[0]) & (self.hu <= post.hu_range[1])
        if post.head_only:
            if self.inside is None:
                raise ValueError("head_only: what lies inside the skull must be given")
            keep &= self.inside >= 0.5
        return np.asarray(keep)


@dataclass(frozen=True)
class Native:
    """Interpolated probabilities where they can reach a threshold.

    Attributes:
        place: Slices, rows and columns of the scan.
        values: Probabilities there in steps of 1/255, float32.
        hu: HU of the model grid's nearest pixels there, int16, or None.
        inside: Whether these pixels lie inside the skull, bool, or None.
    """

    place: tuple[slice, slice, slice]
    values: np.ndarray
    hu: np.ndarray | None
    inside: np.ndarray | None = None


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1] of any shape as uint8 in steps of 1/255.

    Raises:
        IchError: One is not a number.
    """
    if undefined := int(np.count_nonzero(np.isnan(probabilities))):
        raise IchError(
            f"the model gives {undefined} of {np.size(probabilities)} probabilities that are not numbers, wanted 0 to "
            "1: it is broken; use another version, or train it again"
        )
    return np.rint(np.clip(probabilities, 0.0, 1.0) * LEVELS).astype(np.uint8)


def near_lesion(quantised: np.ndarray, threshold: float) -> np.ndarray:
    """The only grid pixels that an outline can depend on, whatever its settings above the threshold.

    A native pixel lies between at most 2 x 2 grid pixels and reaches the threshold only if one of them does, so what
    is farther than one pixel from any that does plays no part.

    Args:
        quantised: uint8 of shape (slices, size, size).
        threshold: Probability from which a voxel is lesion.

    Returns:
        bool of the same shape.
    """
    likely = np.asarray(quantised >= threshold * LEVELS)
    return ndimage.binary_dilation(likely, structure=np.ones((1, 3, 3), bool)) if likely.any() else likely


def relevant(values: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Probabilities or HU where `near_lesion` says so, 0 elsewhere: the same outline for less to keep."""
    return np.where(near, values, values.dtype.type(0))


def skull_for(post: Postprocess, hu: np.ndarray | None, spacing_mm: float) -> np.ndarray | None:
    """What `outline` wants to know of the skull: nothing, unless `post.head_only` is set.

    Args:
        post: The settings.
        hu: All HU on the model grid, of shape (slices, size, size).
        spacing_mm: Pixel size of the grid.
    """
    return inside_skull(hu, spacing_mm) if post.head_only and hu is not None else None


def outline(
    quantised: np.ndarray,
    geometry: Geometry,
    post: Postprocess,
    hu: np.ndarray | None = None,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """The lesion mask of a scan.

    Probabilities are interpolated linearly to the native pixels and cut at the threshold, holes are filled, and
    connected components (26 neighbours) that `post` refuses are dropped.

    Args:
        quantised: uint8 of shape (slices, size, size) from `quantise`.
        geometry: The scan's geometry.
        post: The settings.
        hu: HU on the model grid, int16 of the same shape; needed where `post.hu_range` is set.
        inside: What lies inside the skull, bool of the same shape; needed where `post.head_only` is set.

    Returns:
        bool of shape `geometry.native_shape`, canonical orientation.

    Raises:
        ValueError: HU or the skull are needed and not given.
    """
    mask = np.zeros(geometry.native_shape, dtype=bool)
    native = to_native(
        quantised,
        geometry,
        post.threshold,
        hu if post.hu_range is not None else None,
        inside if post.head_only else None,
    )
    if native is None:
        return mask
    keeps_all = post.core_threshold == post.threshold and post.min_component_ml == 0 and not post.needs_hu
    if keeps_all:
        reached = native.values >= _steps(post.threshold)
        mask[native.place] = filled(reached) if post.fill_holes else reached
        return mask
    labels, components = find_components(native, post.threshold, fill_holes=post.fill_holes)
    mask[native.place] = np.concatenate([[False], components.kept(post, geometry.voxel_ml)])[labels]
    return mask


def to_native(
    quantised: np.ndarray,
    geometry: Geometry,
    threshold: float,
    hu: np.ndarray | None = None,
    inside: np.ndarray | None = None,
) -> Native | None:
    """Interpolates to native pixels, but only in the box that holds all that can reach the threshold.

    Args:
        quantised: uint8 of shape (slices, size, size) from `quantise`.
        geometry: The scan's geometry.
        threshold: Lowest probability of interest.
        hu: HU on the model grid, int16 of the same shape.
        inside: What lies inside the skull, bool of the same shape.

    Returns:
        The box, or None where nothing of the scan can reach the threshold.
    """
    # Interpolation never exceeds its largest neighbour, so only pixels that reach the threshold matter.
    likely = quantised >= threshold * LEVELS
    slices = np.flatnonzero(likely.any(axis=(1, 2)))
    if slices.size == 0:
        return None
    between = slice(int(slices[0]), int(slices[-1]) + 1)
    spans = [np.flatnonzero(likely.any(axis=axes)) for axes in ((0, 2), (0, 1))]
    rows, columns = geometry.native_window(*((int(span[0]), int(span[-1]) + 1) for span in spans))
    values = geometry.to_native(quantised[between], rows, columns)
    if values.size == 0:
        return None
    row_pixels, column_pixels = _nearest(geometry, 1, rows)[:, np.newaxis], _nearest(geometry, 2, columns)
    below, within = (None if plane is None else plane[between][:, row_pixels, column_pixels] for plane in (hu, inside))
    return Native((between, rows, columns), values, below, within)


def count_marked(marked: np.ndarray, mask: np.ndarray, geometry: Geometry) -> int:
    """Voxels of a mask whose nearest pixel on the model grid is marked.

    Args:
        marked: bool of shape (slices, size, size).
        mask: bool of shape `geometry.native_shape`.
        geometry: The scan's geometry.
    """
    _, rows, columns = geometry.native_shape
    row_pixels = _nearest(geometry, 1, slice(0, rows))[:, np.newaxis]
    column_pixels = _nearest(geometry, 2, slice(0, columns))
    # Slice by slice: a model that outlines everything must not take memory for a second scan.
    return sum(
        int(np.count_nonzero(marks[row_pixels, column_pixels] & plane))
        for marks, plane in zip(marked, mask, strict=True)
        if plane.any() and marks.any()
    )


def find_components(native: Native, threshold: float, *, fill_holes: bool) -> tuple[np.ndarray, Components]:
    """The connected components (26 neighbours) of what reaches a threshold.

    Args:
        native: From `to_native` with a threshold no higher than this one.
        threshold: Probability from which a voxel is lesion.
        fill_holes: Whether holes are filled before.

    Returns:
        Labels from 1 in the box of `native`, and what is known of each component.
    """
    reached = native.values >= _steps(threshold)
    labels, count = cc3d.connected_components(
        filled(reached) if fill_holes else reached, connectivity=26, return_N=True
    )
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    own = labels[reached]
    peak = np.zeros(count + 1, np.float32)
    np.maximum.at(peak, own, native.values[reached])

    def mean(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        # Whole numbers, so the order of summing leaves no trace.
        total = np.bincount(own, weights=values[reached].astype(np.float64), minlength=count + 1)
        return np.asarray((total / np.maximum(np.bincount(own, minlength=count + 1), 1))[1:])

    return labels, Components(voxels, peak[1:], mean(native.hu), mean(native.inside))


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask with what it encloses within a slice.

    A hole is a part of the background (4 neighbours) that does not reach the border of the array, so an array that
    holds the whole lesion gives what the whole slice would give.

    Args:
        mask: bool of shape (slices, rows, columns).

    Returns:
        bool of the same shape.
    """
    background, count = ndimage.label(~mask, IN_PLANE)
    outside = np.zeros(count + 1, bool)
    for edge in (background[:, 0], background[:, -1], background[:, :, 0], background[:, :, -1]):
        outside[edge.ravel()] = True
    outside[0] = False  # lesion
    return ~outside[background]


def _steps(probability: float) -> np.float32:
    """A probability on the scale of interpolated, quantised ones."""
    return np.float32(probability * LEVELS)


def _nearest(geometry: Geometry, axis: int, wanted: slice) -> np.ndarray:
    """The grid pixel next to each native row (axis 1) or column (axis 2)."""
    step = geometry.spacing_mm[axis] / geometry.grid_spacing_mm
    positions = (np.arange(wanted.start, wanted.stop) - geometry.grid_center[axis - 1]) * step
    return np.clip(np.rint(positions + (geometry.grid_size - 1) / 2), 0, geometry.grid_size - 1).astype(np.intp)


def own_hu(image: bytes, size: int, context_slices: int) -> np.ndarray:
    """The slice's own HU in an example's `image`, int16 of shape (size, size), without its neighbours."""
    count = size * size
    return np.frombuffer(image, "<i2", count, 2 * count * context_slices).reshape(size, size)


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
