"""Pictures of files that may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.imaging.nifti import read_volume
from components.imaging.preview import preview
from components.pages.pictures import data_uri


def thumbnail(path: Path, *, max_voxels: int) -> str | None:
    """A data URI of three axial slices of a file; None where the file shows nothing.

    Args:
        path: A file that may be anything.
        max_voxels: A larger one is not read.
    """
    try:
        return data_uri(preview(read_volume(path, max_voxels=max_voxels)))
    except Exception:  # the file was refused already; whatever is wrong with it must not cost the report
        return None


def thumbnails(images: Mapping[str, str], *, max_voxels: int, most: int) -> dict[str, str]:
    """Pictures of the first `most` of some files by case; files that show nothing are left out."""
    made = {case: thumbnail(Path(path), max_voxels=max_voxels) for case, path in list(images.items())[:most] if path}
    return {case: uri for case, uri in made.items() if uri}
