"""What lies in a data folder, by name alone."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
TABLES = (".csv",)
DICOM = (".dcm", ".dicom", ".ima")
_FOREIGN = (".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img", ".mgz", ".npy", ".npz", ".nii.bz2", ".nii.zip")
_MAGIC_LOOKED_AT = 20


@dataclass(frozen=True)
class Listing:
    """The files of a folder, as paths relative to it with `/` between the parts, sorted.

    Attributes:
        root: The folder.
        nifti: NIfTI files.
        tables: CSV files.
        dicom: DICOM files, as far as their names or the first of those without an ending tell.
        foreign: Images in formats that are not read.
        others: How many other files there are, by ending.
    """

    root: Path
    nifti: tuple[str, ...]
    tables: tuple[str, ...]
    dicom: tuple[str, ...]
    foreign: tuple[str, ...]
    others: dict[str, int]


def list_folder(root: Path) -> Listing:
    """Lists a folder with all folders below it; what is hidden is left out, as ingestion does.

    Args:
        root: The folder.
    """
    nifti, tables, dicom, foreign, bare = [], [], [], [], []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(root, followlinks=True):
        state = Path(here).stat()
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(here).relative_to(root).as_posix()
        for name in files:
            if name.startswith("."):
                continue
            path = name if base == "." else f"{base}/{name}"
            low = name.lower()
            if name.endswith(NIFTI):
                nifti.append(path)
            elif low.endswith(TABLES):
                tables.append(path)
            elif low.endswith(DICOM):
                dicom.append(path)
            elif low.endswith((*_FOREIGN, *NIFTI)):  # .NII.GZ in capitals, too
                foreign.append(path)
            else:
                ending = Path(low).suffix
                others[ending or "no ending"] += 1
                if not ending or ending[1:].isdigit():  # DICOM files are often named by their UID
                    bare.append(path)
    if not dicom and any(_is_dicom(root / path) for path in sorted(bare)[:_MAGIC_LOOKED_AT]):
        dicom = bare
    found = [tuple(sorted(paths)) for paths in (nifti, tables, dicom, foreign)]
    return Listing(root, found[0], found[1], found[2], found[3], dict(others))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
