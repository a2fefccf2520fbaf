"""Order, gaps and affine of a stack of slices, from their positions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.dicom.header import Plane
from components.imaging.dicom.series import depths
from components.imaging.errors import ScanError

GAP_RATIO = 1.5
"""A step of more than this times the median step: slices are missing, or the spacing changes."""
SPACING_TOLERANCE = 0.1
"""Steps may differ from the median by this share; positions are rounded, tables are not exact."""
DRIFT_MM = 1.0
"""How far a slice may lie beside the line from the first to the last, within its plane."""
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def check_uniform(label: str, planes: Sequence[Plane]) -> None:
    """One matrix size, orientation and pixel size.

    Raises:
        ScanError: `series-mixed`, with how many slices have what.
    """
    kinds = (
        ("matrix sizes", [f"{rows}x{columns}" for rows, columns in (plane.shape for plane in planes)]),
        ("orientations", [_text(plane.orientation, 2) for plane in planes]),
        ("pixel sizes in mm", [_text(plane.spacing, 4) for plane in planes]),
    )
    for what, values in kinds:
        counts = Counter(values).most_common()
        if len(counts) > 1:
            shown = ", ".join(f"{count} slices of {value}" for value, count in counts[:5])
            raise ScanError(
                "series-mixed",
                f"{label}: found {len(counts)} {what} ({shown}), wanted one; export the one stack to use",
            )


def _text(values: tuple[float, ...] | None, digits: int) -> str:
    return "(" + ", ".join(f"{round(value, digits) + 0.0:g}" for value in values or ()) + ")"


def by_position(planes: Sequence[Plane]) -> list[Plane]:
    """Along the normal of the image plane, upwards for axial slices; file name and frame settle what lies together."""
    along = np.round(depths(planes), 3)
    order = sorted(range(len(planes)), key=lambda index: (along[index], planes[index].name, planes[index].frame))
    return [planes[index] for index in order]


def affine_of(planes: Sequence[Plane]) -> np.ndarray:
    """Voxel (column, row, slice) to RAS mm, float64 of shape (4, 4).

    The third axis leads from the first position to the last, so a tilted gantry gives a sheared affine that puts
    every slice where it was acquired (DICOM PS3.3 C.7.6.2.1.1, and the same in NIfTI's RAS). A single slice has its
    thickness along its normal, 1 mm where it has none.

    Args:
        planes: Sorted, of one orientation and pixel size.
    """
    first, last = planes[0], planes[-1]
    assert first.orientation and first.spacing and first.position and last.position  # as `Series.slices` has them
    row, column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    if len(planes) > 1:
        step = (np.asarray(last.position) - np.asarray(first.position)) / (len(planes) - 1)
    else:
        step = np.cross(row, column) * (first.thickness or 1.0)
    affine = np.eye(4)
    affine[:3, :] = np.stack([row * first.spacing[1], column * first.spacing[0], step, first.position], axis=1)
    affine[:3] *= _LPS_TO_RAS[:, np.newaxis]
    return affine + 0.0  # no negative zeros


def stack_findings(label: str, planes: Sequence[Plane]) -> list[Finding]:
    """Missing slices and uneven steps.

    Args:
        label: Names the series in messages.
        planes: Sorted, no two at the same place.

    Raises:
        ScanError: `series-mixed`: slices lie beside each other instead of on one line.
    """
    if len(planes) == 1:
        thickness = planes[0].thickness
        text = f"the slice thickness of {thickness:g} mm" if thickness else "1 mm, as no slice thickness is given"
        return [
            Finding.of(
                "thickness-assumed", f"{label}: found one slice, wanted a stack; spacing is {text}", thickness or 1.0
            )
        ]
    along = depths(planes)
    steps = np.diff(along)
    _check_line(label, planes, along)
    median = float(np.median(steps))
    findings = []
    gaps = np.flatnonzero(steps > GAP_RATIO * median)
    if gaps.size:
        places = ", ".join(
            f"{steps[index]:.2f} mm between slices {index} and {index + 1} ({_file(planes[index])}, "
            f"{_file(planes[index + 1])})"
            for index in gaps[:5]
        )
        findings.append(
            Finding.of(
                "slice-missing",
                f"{label}: found {gaps.size} gaps, wanted steps of about {median:.2f} mm: {places}; counted from 0",
                float(steps.max()),
            )
        )
    uneven = np.abs(steps - median) > SPACING_TOLERANCE * median
    uneven[gaps] = False
    if uneven.any():
        others = np.delete(steps, gaps)
        findings.append(
            Finding.of(
                "slice-spacing",
                f"{label}: steps of {others.min():.2f} to {others.max():.2f} mm, wanted {median:.2f} mm within "
                f"{SPACING_TOLERANCE:.0%}; the mean is used",
                float(np.abs(steps - median)[uneven].max()),
            )
        )
    return findings


def _check_line(label: str, planes: Sequence[Plane], along: np.ndarray) -> None:
    positions = np.asarray([plane.position for plane in planes], np.float64)
    share = (along - along[0]) / (along[-1] - along[0])
    beside = np.linalg.norm(positions - positions[0] - share[:, np.newaxis] * (positions[-1] - positions[0]), axis=1)
    if beside.max() > DRIFT_MM:
        worst = int(beside.argmax())
        raise ScanError(
            "series-mixed",
            f"{label}: {_file(planes[worst])} lies {beside[worst]:.1f} mm beside the line of the slices, wanted "
            f"at most {DRIFT_MM:g} mm; export the one stack to use",
        )


def _file(plane: Plane) -> str:
    return plane.name.rpartition("/")[2]
