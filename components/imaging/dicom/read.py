"""A series as the volume that a NIfTI file gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import nibabel as nib
import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.dicom.header import HeaderError, Plane, quiet
from components.imaging.dicom.pixels import read_planes
from components.imaging.dicom.series import SAME_PLACE_MM, Series, depths
from components.imaging.dicom.stack import affine_of, by_position, check_uniform, stack_findings
from components.imaging.dicom.store import Limits, open_store
from components.imaging.errors import ScanError
from components.imaging.nifti import Volume

_MAX_SHARE_LOST = 0.5
_MIN_MM, _MAX_MM = 1e-3, 100.0


@dataclass(frozen=True)
class DicomScan:
    """A series that was read.

    Attributes:
        volume: HU of shape (columns, rows, slices), its affine, and a header without any text.
        findings: What was dropped, assumed or looks wrong.
        planes: The slice that each index of the last axis is: for references from a segmentation to its source. Their
            identifiers must not be shown or logged.
    """

    volume: Volume
    findings: tuple[Finding, ...]
    planes: tuple[Plane, ...] = field(repr=False)


def read_series(series: Series, limits: Limits | None = None) -> DicomScan:
    """Reads, sorts and rescales the slices of a series.

    Slices are ordered by position, not by number. Scouts and repeated slices are dropped; so are unreadable files,
    with a warning, as long as half of the slices remain.

    Args:
        series: From `find_series`.
        limits: The same bounds.

    Raises:
        ScanError: `no-series` (no slice has a position), `series-mixed`, `series-overlap`, `too-large`, `truncated`,
            `geometry`, or what opening the store raises.
    """
    limits = limits or Limits()
    label = f"{series.path.name}, series {series.number or series.key}"
    planes = series.slices
    if not planes:
        raise ScanError(
            "no-series",
            f"{label}: none of {len(series.planes)} images has position, orientation and pixel size; "
            "use another series",
        )
    findings = _dropped(label, series)
    check_uniform(label, planes)
    rows, columns = planes[0].shape
    if len(planes) * rows * columns > limits.voxels:
        raise ScanError(
            "too-large",
            f"{label}: {len(planes) * rows * columns} voxels, allowed {limits.voxels} (data.max_voxels)",
        )
    planes = by_position(planes)
    images, lost = _read(series, planes, limits)
    if len(lost) > _MAX_SHARE_LOST * len(planes):
        raise ScanError(
            "truncated", f"{label}: {len(lost)} of {len(planes)} slices cannot be read; the first: {lost[0]}"
        )
    findings += [Finding.of("file-skipped", text) for text in lost[:20]]
    kept = [index for index in range(len(planes)) if index in images]
    kept, repeated = _distinct(label, planes, images, kept)
    findings += repeated
    stack = [planes[index] for index in kept]
    findings += stack_findings(label, stack)
    dtype = np.result_type(*{images[index].dtype for index in kept})
    data = np.empty((columns, rows, len(kept)), dtype, order="F")
    for target, index in enumerate(kept):
        data[:, :, target] = images.pop(index).T
    affine = _checked(label, affine_of(stack))
    return DicomScan(Volume(data, affine, _header(data, affine)), tuple(findings), tuple(stack))


def _dropped(label: str, series: Series) -> list[Finding]:
    findings = []
    scouts = sum(plane.localiser for plane in series.planes)
    if scouts:
        findings.append(Finding.of("localiser-dropped", f"{label}: {scouts} scout views were dropped", scouts))
    lost = [plane for plane in series.planes if not plane.localiser and not plane.placed]
    if lost:
        findings.append(
            Finding.of(
                "file-skipped",
                f"{label}: {len(lost)} images without position, orientation or pixel size were dropped, the first "
                f"{PurePosixPath(lost[0].name).name}",
                len(lost),
            )
        )
    unset = sum(not plane.slope or plane.intercept is None for plane in series.slices)
    if unset:
        findings.append(
            Finding.of(
                "scale-unset", f"{label}: {unset} slices without rescale slope or intercept; read as 1 and 0", unset
            )
        )
    return findings


def _read(series: Series, planes: Sequence[Plane], limits: Limits) -> tuple[dict[int, np.ndarray], list[str]]:
    """HU by index of the plane, and what could not be read."""
    by_file: dict[str, list[int]] = defaultdict(list)
    for index, plane in enumerate(planes):
        by_file[plane.name].append(index)
    images: dict[int, np.ndarray] = {}
    lost = []
    with open_store(series.path, limits) as store, quiet():
        for name, indices in by_file.items():
            indices = sorted(indices, key=lambda index: planes[index].frame)
            try:
                stream, _ = store.open(name)
                with stream:
                    found = read_planes(stream, [planes[index] for index in indices])
            except (HeaderError, ValueError) as error:
                lost += [f"{PurePosixPath(name).name}: {error}"] * len(indices)
                continue
            except (OSError, KeyError) as error:
                short = PurePosixPath(name).name
                lost += [f"{short}: cannot be opened any more ({type(error).__name__})"] * len(indices)
                continue
            images.update(zip(indices, found, strict=True))
    return images, lost


def _distinct(
    label: str, planes: Sequence[Plane], images: dict[int, np.ndarray], kept: list[int]
) -> tuple[list[int], list[Finding]]:
    """One plane a place.

    Raises:
        ScanError: `series-overlap`: planes at the same place differ.
    """
    along = depths([planes[index] for index in kept])
    chosen: list[int] = []
    last = -np.inf
    copies = 0
    for index, place in zip(kept, along, strict=True):
        if place - last > SAME_PLACE_MM:
            chosen.append(index)
            last = float(place)
            continue
        before = chosen[-1]
        same_place = np.allclose(planes[index].position or (), planes[before].position or (), atol=SAME_PLACE_MM)
        if not same_place or not np.array_equal(images[index], images[before]):
            places = len(np.unique(np.round(along / SAME_PLACE_MM / 2)))
            raise ScanError(
                "series-overlap",
                f"{label}: {len(kept)} slices at {places} places, and those of the same place differ "
                f"({PurePosixPath(planes[before].name).name}, {PurePosixPath(planes[index].name).name}); wanted one a "
                "place: export one acquisition alone",
            )
        copies += 1
        del images[index]
    findings = []
    if copies:
        findings.append(Finding.of("slice-copies", f"{label}: {copies} repeated slices were dropped", copies))
    return chosen, findings


def _checked(label: str, affine: np.ndarray) -> np.ndarray:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    usable = (spacing > _MIN_MM).all() and (spacing < _MAX_MM).all()
    if not usable or abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.1:
        raise ScanError(
            "geometry",
            f"{label}: spacing {tuple(spacing.round(4).tolist())} mm, wanted {_MIN_MM:g} to {_MAX_MM:g} mm along three "
            "independent axes; export the series anew",
        )
    return affine


def _header(data: np.ndarray, affine: np.ndarray) -> nib.nifti1.Nifti1Header:
    """A header of geometry alone. A sheared affine has no quaternion, so the qform is unset there."""
    header = nib.nifti1.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared = not np.allclose(unit.T @ unit, np.eye(3), atol=1e-4)
    header.set_qform(affine, code=0 if sheared else 1)
    header.set_sform(affine, code=1)
    return header
