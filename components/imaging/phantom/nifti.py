"""Writing a phantom as NIfTI: header, reproducible gzip bytes, and never half a file."""

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from components.imaging.phantom.acquisition import Affine, Storage

HeaderEdit = Callable[[nib.Nifti1Header], None]

PLAIN = Storage("int16", 1.0, 0.0)
SCANNER_CODE = 1


def encode(
    stored: npt.NDArray[np.generic], affine: Affine, storage: Storage | None = None, edit: HeaderEdit | None = None
) -> bytes:
    """One NIfTI-1 file as bytes, not compressed.

    Args:
        stored: The numbers as they lie in the file; their dtype is kept.
        affine: Voxel index to world, RAS mm.
        storage: Slope and intercept for the header; None for a mask.
        edit: Last change to the header, for example to spoil it.
    """
    image = nib.Nifti1Image(stored, affine, dtype=stored.dtype)
    header = image.header
    header.set_xyzt_units("mm")
    header["descrip"] = b"generated head CT"
    orthogonal = np.abs(np.triu(_unit_columns(affine).T @ _unit_columns(affine), 1)).max() < 1e-4
    image.set_sform(affine, SCANNER_CODE)
    # A quaternion holds no shear, so a sheared affine goes into the sform alone.
    image.set_qform(affine if orthogonal else None, SCANNER_CODE if orthogonal else 0)
    # An explicit slope keeps nibabel from choosing its own.
    header.set_slope_inter(storage.slope if storage else 1.0, storage.inter if storage else 0.0)
    raw = bytearray(image.to_bytes())
    if edit is not None:
        edited = nib.Nifti1Header.from_fileobj(io.BytesIO(raw), check=False)
        edit(edited)
        raw[: len(edited.binaryblock)] = edited.binaryblock
    return bytes(raw)


def _unit_columns(affine: Affine) -> Affine:
    columns = affine[:3, :3]
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def write(path: Path, raw: bytes) -> None:
    """Write bytes under `path`, gzipped when it ends in .gz; the file appears only when it is whole."""
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        # No name and no time inside: the same scan gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=1, mtime=0) as stream:
            stream.write(raw)
        raw = buffer.getvalue()
    write_bytes(path, raw)


def write_bytes(path: Path, raw: bytes) -> None:
    """Write bytes as they are, through a temporary name in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(raw)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
