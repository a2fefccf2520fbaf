"""The series of a folder or zip, from headers alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.dicom.header import Header, HeaderError, Plane, quiet, read_header
from components.imaging.dicom.store import Limits, open_store
from components.imaging.errors import ScanError

SAME_PLACE_MM = 0.01
"""Planes closer than this lie at the same place; written positions are rounded to a thousandth or so."""
_MAX_LISTED = 20


@dataclass(frozen=True)
class Series:
    """One series, or one acquisition of a series that holds several.

    Attributes:
        path: The folder, zip or file it was found in.
        key: Its place in the list, `#1` and on: a name for series without a number.
        modality: For example CT.
        number: Series number as text; empty where there is none.
        kernel: Convolution kernel; empty where there is none.
        image_type: Upper-case values of ImageType.
        contrast: A contrast agent is named.
        planes: Its slices, unordered, scouts included.
        description: Free text of the scanner. Only to be matched, never shown: people write names into it.
        study_uid: Only for references from a segmentation to its source, as are the other two; never shown or logged.
        series_uid: Likewise, and to select the series.
        frame_of_reference_uid: Likewise.
    """

    path: Path = field(repr=False)
    key: str
    modality: str
    number: str
    kernel: str
    image_type: tuple[str, ...]
    contrast: bool
    planes: tuple[Plane, ...] = field(repr=False)
    description: str = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)

    @property
    def slices(self) -> list[Plane]:
        """Its planes without scouts and without those that have no geometry."""
        return [plane for plane in self.planes if plane.placed and not plane.localiser]

    @property
    def tilt_degrees(self) -> float | None:
        """Angle between most planes' normal and the patient's long axis; None without slices."""
        if not self.slices:
            return None
        orientation, _ = Counter(plane.orientation for plane in self.slices).most_common(1)[0]
        normal = np.cross(orientation[:3], orientation[3:])  # type: ignore[index]  # slices have one
        return float(np.degrees(np.arccos(np.clip(abs(normal[2]), 0, 1))))

    @property
    def step_mm(self) -> float | None:
        """Median distance between slices; the thickness of a single one."""
        places = np.unique(np.round(depths(self.slices), 2)) if self.slices else np.empty(0)
        if len(places) > 1:
            return round(float(np.median(np.diff(places))), 3)
        return self.slices[0].thickness if self.slices else None


@dataclass(frozen=True)
class Found:
    """What a folder or zip holds.

    Attributes:
        series: Every image series.
        skipped: Files that are no DICOM images.
        findings: Of code `file-skipped`, one a file that is DICOM but unreadable; at most 20, the last says how many
            more.
    """

    series: tuple[Series, ...]
    skipped: int
    findings: tuple[Finding, ...]


def depths(planes: Sequence[Plane]) -> np.ndarray:
    """Distance in mm of each plane from the origin along the normal of the first, float64 of shape (planes,)."""
    orientation = np.asarray(planes[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray([plane.position for plane in planes], np.float64) @ normal


def find_series(path: Path, limits: Limits | None = None) -> Found:
    """Groups the images below a folder, in a zip, or of one file by series; pixels are not read.

    A series that holds several acquisitions of the same place, such as a repeated or dynamic scan, becomes one
    series for each.

    Args:
        path: Folder, zip or file.
        limits: Bounds on number, depth and size.

    Raises:
        ScanError: `missing-file`, `not-dicom`, `unsafe-archive`, `too-large`, or `unreadable`.
    """
    limits = limits or Limits()
    groups: dict[str, list[Header]] = defaultdict(list)
    bad: list[str] = []
    skipped = 0
    with open_store(path, limits) as store, quiet():
        for name in store.names():
            short = PurePosixPath(name).name
            try:
                stream, size = store.open(name)
                with stream:
                    header = read_header(stream, size, name)
            except (HeaderError, ValueError) as error:
                bad.append(f"{short}: {error}")
                continue
            except OSError as error:
                bad.append(f"{short}: cannot be opened ({type(error).__name__}); check its permissions")
                continue
            if header is None:
                skipped += 1
            else:
                groups[header.series_uid].append(header)
    if not groups:
        reason = f"; the first of {len(bad)} unreadable ones: {bad[0]}" if bad else ""
        raise ScanError(
            "not-dicom",
            f"{path.name}: found {skipped + len(bad)} files, none a readable DICOM image{reason}; give the folder or "
            "zip of a study (links are not followed)",
        )
    parts = [(headers[0], part) for headers in groups.values() for part in _acquisitions(headers)]
    parts.sort(key=lambda item: (_number(item[0].number), item[0].series_uid))
    series = tuple(
        Series(
            path=path,
            key=f"#{index}",
            modality=first.modality,
            number=first.number,
            kernel=first.kernel,
            image_type=first.image_type,
            contrast=first.contrast,
            planes=tuple(planes),
            description=first.description,
            study_uid=first.study_uid,
            series_uid=first.series_uid,
            frame_of_reference_uid=first.frame_of_reference_uid,
        )
        for index, (first, planes) in enumerate(parts, start=1)
    )
    if len(bad) > _MAX_LISTED:
        bad = [*bad[: _MAX_LISTED - 1], f"{path.name}: {len(bad) - _MAX_LISTED + 1} more files cannot be read"]
    return Found(series, skipped, tuple(Finding.of("file-skipped", text) for text in bad))


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() else (1 << 31, text)


def _acquisitions(headers: list[Header]) -> list[list[Plane]]:
    """All planes, or one list an acquisition where these repeat each other's places and each is most of a stack."""
    planes = [plane for header in headers for plane in header.planes]
    places = Counter(_place(plane) for plane in planes)
    if len(planes) == len(places):
        return [planes]
    by_acquisition: dict[tuple[str, str], list[Plane]] = defaultdict(list)
    for plane in planes:
        by_acquisition[plane.acquisition].append(plane)
    stacks = [by_acquisition[key] for key in sorted(by_acquisition)]
    whole = all(
        len({_place(plane) for plane in stack}) == len(stack) and 2 * len(stack) > len(places) for stack in stacks
    )
    return stacks if whole and len(stacks) > 1 else [planes]


def _place(plane: Plane) -> tuple[object, ...]:
    position = plane.position or (0.0, 0.0, float(plane.frame))
    return plane.shape, plane.orientation, tuple(round(value / SAME_PLACE_MM) for value in position), plane.localiser
