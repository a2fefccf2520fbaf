"""What `ich predict` is given: NIfTI files, DICOM files, zips and folders of either, as one list of scans."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from components.imaging.checks.case import CaseCheck, check_case, check_volume
from components.imaging.dicom.store import Limits
from components.imaging.errors import ScanError, UsageError
from components.imaging.nifti import MAX_VOXELS

if TYPE_CHECKING:  # DICOM costs a second to import, and most scans are NIfTI
    from components.imaging.dicom.read import DicomScan
    from components.imaging.dicom.series import Found, Series

CHECKS: dict[str, Any] = {"max_voxels": MAX_VOXELS, "min_slices": 1, "lesion_labels": None}
"""Settings of the checks: a single slice may be predicted, though not trained on."""

NIFTI = (".nii", ".nii.gz")
_LIMITS = Limits()
_PLAIN_NAMES = ("image", "scan", "ct", "volume")


@dataclass(frozen=True)
class Loaded:
    """A scan that was read and checked.

    Attributes:
        check: What the checks say; its `volume` is the scan.
        chosen: Which series was taken and why; empty for NIfTI.
        series: That series; None for NIfTI.
        dicom: Its slices; None for NIfTI.
    """

    check: CaseCheck
    chosen: str = ""
    series: Series | None = None
    dicom: DicomScan | None = None


@dataclass(frozen=True)
class Input:
    """One scan to predict.

    Attributes:
        case: Name of its results.
        path: File, folder or zip.
        studies: Of DICOM, what was found in `path`, and of that the studies to choose the series from; None for NIfTI.
    """

    case: str
    path: Path
    studies: tuple[Found, tuple[Series, ...]] | None = field(default=None, repr=False)

    @property
    def is_dicom(self) -> bool:
        """It is DICOM."""
        return self.studies is not None

    def load(self, wanted_series: str | None = None) -> Loaded:
        """Reads and checks the scan.

        Args:
            wanted_series: Overrides the choice of the series, see `choose_series`.

        Raises:
            ScanError: There is no series to take, or it cannot be read.
        """
        if self.studies is None:
            return Loaded(check_case(self.path, None, CHECKS))
        from components.imaging.dicom.choose import choose_series
        from components.imaging.dicom.read import read_series

        found, series = self.studies
        chosen, reason = choose_series(series, wanted_series, min_slices=1 if len(series) == 1 else 5)
        scan = read_series(chosen)
        label = Path(f"{self.path}, series {chosen.number or chosen.key}")
        check = check_volume(label, scan.volume, CHECKS, (*found.findings, *scan.findings))
        return Loaded(replace(check, volume=scan.volume), reason, chosen, scan)


def case_name(path: Path) -> str:
    """The case id that a file's name gives; of names that say nothing, the folder's."""
    name = path.name
    for end in (".gz", ".nii", ".zip", ".dcm"):
        name = name.removesuffix(end)
    return path.resolve().parent.name if name.lower() in _PLAIN_NAMES else name or path.resolve().name


def find_inputs(paths: Sequence[Path], out: Path | None = None) -> list[Input]:
    """The scans behind files, folders and zips.

    A folder with NIfTI files below it is a folder of those; another one is DICOM, as a zip is: each study in it is
    one scan. Links to folders are not followed. What lies in `out`, if given, is left aside.

    Args:
        paths: What the user gave.
        out: Folder of the results.

    Returns:
        Each scan once, with a name of its own.

    Raises:
        UsageError: A path is not there, or two scans have the same name.
        ScanError: A folder or zip holds no scan, or too many files.
    """
    given = list({path.resolve(): path for path in paths}.values())
    found = [one for path in given for one in _inputs(path, out)]
    unique = list({one.path.resolve() if one.studies is None else id(one): one for one in found}.values())
    return _named(unique)


def _inputs(path: Path, out: Path | None) -> Iterator[Input]:
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a folder on the way may not be entered
        raise UsageError(f"{path}: no such scan; give a .nii or .nii.gz file, a folder, or a DICOM folder or zip")
    if path.is_file() and path.name.lower().endswith(NIFTI):
        yield Input(case_name(path), path)
        return
    if path.is_dir():
        files = list(_nifti_below(path, out))
        if files:
            yield from (Input(case_name(file), file) for file in files)
            return
    yield from _dicom(path)


def _nifti_below(root: Path, out: Path | None) -> Iterator[Path]:
    count = 0
    outside = None if out is None else out.resolve()
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        count += len(files) + len(folders)
        if count > _LIMITS.files:
            raise ScanError("too-large", f"{root}: over {_LIMITS.files} files and folders; give a smaller folder")
        deep = len(here.relative_to(root).parts) >= _LIMITS.depth
        folders[:] = [] if deep else sorted(name for name in folders if (here / name).resolve() != outside)
        yield from (here / name for name in sorted(files) if name.lower().endswith(NIFTI) and not name.startswith("."))


def _dicom(path: Path) -> Iterator[Input]:
    """One scan a study."""
    from components.imaging.dicom.series import find_series

    found = find_series(path)
    studies: dict[str, list[Series]] = {}
    for series in found.series:
        studies.setdefault(series.study_uid, []).append(series)
    for number, series_of_study in enumerate(studies.values(), start=1):
        name = case_name(path)
        if len(studies) > 1:
            name = _folder_of(series_of_study) or f"{name}_{number}"
        yield Input(name, path, (found, tuple(series_of_study)))


def _folder_of(series: Sequence[Series]) -> str:
    """Name of the deepest folder that holds all of a study; empty where that is the root."""
    folders = {PurePosixPath(plane.name).parent for one in series for plane in one.planes}
    return PurePosixPath(os.path.commonpath(folders)).name


def _named(inputs: list[Input]) -> list[Input]:
    """Cases of the same name get their folder's in front; those that still have one number get refused."""
    counts = Counter(one.case for one in inputs)
    named = [
        replace(one, case=f"{one.path.resolve().parent.name}_{one.case}") if counts[one.case] > 1 else one
        for one in inputs
    ]
    again = Counter(one.case for one in named)
    for one in named:
        if again[one.case] > 1:
            twice = [str(other.path) for other in named if other.case == one.case]
            raise UsageError(
                f"{twice[0]} and {twice[1]}: both would be written as {one.case}; predict them into two folders"
            )
    return named
