"""Checks of the header as it lies in the file, before reading mends it and before any voxel is read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError

from components.imaging.checks.finding import Finding
from components.imaging.errors import ScanError

MAX_DEFLATE_RATIO = 1032
"""Deflate cannot pack better: a match of 258 bytes takes at least two bits (zlib's technical notes)."""

MAX_MEMORY_GIB = 2.0
_SLACK_BYTES = 64 * 1024
_CORRUPT: Any = (OSError, EOFError, isal_zlib.error, ValueError, KeyError, HeaderDataError)


@dataclass(frozen=True)
class RawHeader:
    """A header as stored.

    Attributes:
        fields: The header, unmended.
        zipped: Whether the file is gzipped.
        file_bytes: Size of the file.
    """

    fields: nib.nifti1.Nifti1Header
    zipped: bool
    file_bytes: int


def read_header(path: Path) -> RawHeader | None:
    """Reads a header alone; None where there is none to read, which reading the volume explains."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            start = (igzip.GzipFile(fileobj=raw, mode="rb") if zipped else raw).read(540)
        sizes = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
        kind = nib.nifti1.Nifti1Header if 348 in sizes else nib.nifti2.Nifti2Header if 540 in sizes else None
        if kind is None or len(start) < kind.template_dtype.itemsize:
            return None
        return RawHeader(kind.from_fileobj(io.BytesIO(start), check=False), zipped, path.stat().st_size)
    except _CORRUPT:
        return None


def refuse_claim(path: Path, header: RawHeader, data: Mapping[str, Any]) -> None:
    """Refuses a header that claims more than the file can hold or memory may take, before anything is allocated.

    Raises:
        ScanError: `truncated` or `too-large`.
    """
    dims = [int(size) for size in header.fields["dim"]]
    if not 1 <= dims[0] <= 7:
        return  # reading says what is wrong
    voxels = 1
    for size in dims[1 : min(dims[0], 3) + 1]:
        voxels *= max(size, 0)
    try:
        dtype = header.fields.get_data_dtype()
    except _CORRUPT:
        return
    if voxels > data["max_voxels"]:
        raise ScanError("too-large", f"{path}: {voxels} voxels, allowed {data['max_voxels']} (data.max_voxels)")
    stored = voxels * dtype.itemsize
    possible = header.file_bytes * (MAX_DEFLATE_RATIO if header.zipped else 1) + _SLACK_BYTES
    if stored > possible:
        raise ScanError(
            "truncated",
            f"{path}: the header claims {stored} bytes of voxels, a file of {header.file_bytes} bytes holds at most "
            f"{possible}; copy the file anew",
        )
    allowed = data.get("max_memory_gib", MAX_MEMORY_GIB) * 2**30
    wanted = stored + (0 if dtype in (np.dtype("<i2"), np.uint8, np.int8) else 4 * voxels)
    if wanted > allowed:
        raise ScanError(
            "too-large",
            f"{path}: reading it takes {wanted / 2**30:.1f} GiB, allowed {allowed / 2**30:.1f} (data.max_memory_gib)",
        )


def header_findings(path: Path, header: RawHeader) -> Iterator[Finding]:
    """What reading mends silently."""
    fields = header.fields
    if int(fields["dim"][0]) > 3:
        shape = tuple(int(size) for size in fields["dim"][1 : int(fields["dim"][0]) + 1])
        yield Finding.of("single-frame", f"{path}: shape {shape}")
    dtype = fields.get_data_dtype()
    if dtype.itemsize == 8:
        yield Finding.of("wide-dtype", f"{path}: voxels are {dtype.name}")
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not np.isfinite(slope) or not np.isfinite(intercept):
        yield Finding.of("scale-unset", f"{path}: slope {slope:g}, intercept {intercept:g}")
    spacing = [float(size) for size in fields["pixdim"][1:4]]
    if min(spacing) < 0:
        yield Finding.of("negative-spacing", f"{path}: pixdim {spacing}")
