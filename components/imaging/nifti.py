"""Reading and writing NIfTI: fast inflate, no float64 detour, and a reason for every file that cannot be used."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError

from components.imaging.errors import ScanError

MAX_VOXELS = 512 * 1024 * 1024
_MAX_TRAILING_BYTES = 64 * 1024 * 1024
_SUPPORTED_KINDS = "iuf"
_UNREADABLE: Any = (
    gzip.BadGzipFile, isal_zlib.error, HeaderDataError, OSError, ValueError, KeyError, OverflowError,
)  # fmt: skip
_FREE_TEXT = ("descrip", "aux_file", "intent_name", "db_name", "data_type")


@dataclass(frozen=True)
class Volume:
    """One 3D image as its file stores it.

    Attributes:
        data: Voxels of shape (i, j, k) in the file's own order; int16 or float32 for images, scaled to their values.
        affine: Voxel index to RAS mm, float64 of shape (4, 4).
        header: The file's header.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.nifti1.Nifti1Header


def read_volume(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Reads a NIfTI-1 or -2 file, gzipped or not.

    Integer data without a scale keeps its integers (int16 where they fit), everything else becomes float32.

    Args:
        path: The file.
        max_voxels: More are refused before any memory is taken.

    Raises:
        ScanError: The file is missing, truncated, corrupt, not NIfTI, of more than 3 dimensions, too large, of a
            type that is no number, or its geometry is unusable. The code says which.
    """
    header, body = _open(path, max_voxels)
    shape = _shape(path, header, max_voxels)
    affine = _affine(path, header)
    dtype = header.get_data_dtype()
    if dtype.kind not in _SUPPORTED_KINDS or dtype.itemsize > 8:
        raise ScanError("dtype", f"{path}: voxels are of type {dtype}, wanted integers or floats; convert the file")
    raw = np.frombuffer(body, dtype=dtype, count=int(np.prod(shape))).reshape(shape, order="F")
    return Volume(_scaled(path, raw, header), affine, header)


def _open(path: Path, max_voxels: int) -> tuple[nib.nifti1.Nifti1Header, memoryview]:
    """The header, and the bytes of the voxels."""
    try:
        if path.stat().st_size == 0:
            raise ScanError("empty-file", f"{path}: the file is empty; copy it anew")
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: Any = igzip.GzipFile(fileobj=raw, mode="rb") if zipped else raw
            start = stream.read(4)
            size = int.from_bytes(start, "little"), int.from_bytes(start, "big")
            kind: type[nib.nifti1.Nifti1Header]
            if 348 in size:
                kind = nib.nifti1.Nifti1Header
            elif 540 in size:
                kind = nib.nifti2.Nifti2Header
            else:
                raise ScanError("not-nifti", f"{path}: not a NIfTI file; convert it, for example with dcm2niix")
            length = kind.template_dtype.itemsize
            header_bytes = start + stream.read(length - 4)
            if len(header_bytes) < length:
                raise ScanError("truncated", f"{path}: the file ends within its header; copy the file anew")
            header = kind.from_fileobj(io.BytesIO(header_bytes), check=False)
            _mend(header)
            if not bytes(header["magic"]).startswith((b"n+1", b"n+2")):
                raise ScanError("not-nifti", f"{path}: no single-file NIfTI (magic {bytes(header['magic'])!r})")
            shape = _shape(path, header, max_voxels)
            offset = max(int(header["vox_offset"]), len(header_bytes))
            wanted = int(np.prod(shape)) * header.get_data_dtype().itemsize
            skipped = offset - len(header_bytes)
            if skipped > 64 * 1024 * 1024:
                raise ScanError("not-nifti", f"{path}: header extensions of {skipped} bytes; the header is corrupt")
            if not zipped and path.stat().st_size < offset + wanted:
                raise ScanError("truncated", _truncated(path, wanted, path.stat().st_size - offset))
            stream.read(skipped)
            body = stream.read(wanted)
            if len(body) < wanted:
                raise ScanError("truncated", _truncated(path, wanted, len(body)))
            if zipped:
                # The checksum is verified only when the stream's end is reached.
                trailing = 0
                while chunk := stream.read(1024 * 1024):
                    trailing += len(chunk)
                    if trailing > _MAX_TRAILING_BYTES:
                        raise ScanError(
                            "unreadable",
                            f"{path}: over {_MAX_TRAILING_BYTES} bytes follow the voxels that the header claims; "
                            "the header or the file is corrupt",
                        )
            return header, memoryview(body)
    except FileNotFoundError:
        raise ScanError("missing-file", f"{path}: no such file") from None
    except EOFError:
        raise ScanError("truncated", f"{path}: the gzip stream ends early; copy the file anew") from None
    except _UNREADABLE as error:
        raise ScanError("unreadable", f"{path}: cannot be read ({error}); copy or convert it anew") from None


def _mend(header: nib.nifti1.Nifti1Header) -> None:
    """Reads fields as the standard has it: pixdim 1 to 3 are distances, an unset handedness (qfac) means 1.

    A code of an affine that the standard does not know means none, as in nibabel.
    """
    for name in ("sform_code", "qform_code"):
        if int(header[name]) not in nib.nifti1.xform_codes.value_set():
            header[name] = 0
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1


def _truncated(path: Path, wanted: int, found: int) -> str:
    return f"{path}: found {max(found, 0)} bytes of voxels, the header claims {wanted}; copy the file anew"


def _shape(path: Path, header: nib.nifti1.Nifti1Header, max_voxels: int) -> tuple[int, int, int]:
    dims = [int(size) for size in header["dim"]]
    rank, sizes = dims[0], dims[1:]
    if not 1 <= rank <= 7 or any(size < 1 for size in sizes[: max(rank, 0)]):
        raise ScanError("not-nifti", f"{path}: dimensions {dims} are impossible; the header is corrupt")
    sizes = sizes[:rank]
    extra = [size for size in sizes[3:] if size > 1]
    if rank < 3 or extra:
        raise ScanError("dimensions", f"{path}: shape {tuple(sizes)}, wanted one 3D volume; extract the frame to use")
    voxels = sizes[0] * sizes[1] * sizes[2]
    if voxels > max_voxels:
        raise ScanError("too-large", f"{path}: {voxels} voxels, allowed {max_voxels} (data.max_voxels)")
    return sizes[0], sizes[1], sizes[2]


def _affine(path: Path, header: nib.nifti1.Nifti1Header) -> np.ndarray:
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (ValueError, HeaderDataError) as error:
        raise ScanError("geometry", f"{path}: no usable affine ({error}); convert the scan anew") from None
    if not np.isfinite(affine).all() or not np.isfinite(header["pixdim"][1:4]).all():
        raise ScanError("geometry", f"{path}: the affine holds NaN or infinity; convert the scan anew")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-3).any() or (spacing > 100).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-2:
        raise ScanError(
            "geometry",
            f"{path}: spacing {tuple(spacing.round(4).tolist())} mm, wanted 0.001 to 100 mm along three independent "
            "axes; convert the scan anew",
        )
    return affine


def _scaled(path: Path, raw: np.ndarray, header: nib.nifti1.Nifti1Header) -> np.ndarray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # The standard reads a slope of 0 as "no scaling"; writers also leave NaN there.
    if slope == 0 or not np.isfinite(slope):
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        intercept = 0.0
    if (slope, intercept) == (1.0, 0.0):
        if raw.dtype == np.dtype("<i2") or raw.dtype in (np.uint8, np.int8):
            return raw
        if raw.dtype.kind == "u" and raw.dtype.itemsize == 2:
            return raw.astype(np.int32)
        if raw.dtype.kind in "iu":
            low, high = (int(raw.min()), int(raw.max())) if raw.size else (0, 0)
            return raw.astype(np.int16 if low >= -32768 and high <= 32767 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below, with a reason
        data = raw.astype(np.float32)
        if (slope, intercept) != (1.0, 0.0):
            data *= np.float32(slope)
            data += np.float32(intercept)
    if not np.isfinite(data).all():
        raise ScanError("not-finite", f"{path}: holds NaN or infinite voxels; repair or convert the scan anew")
    return data


def write_mask(path: Path, mask: np.ndarray, like: Volume) -> None:
    """Writes a mask on the grid of a scan: same shape, affine and codes; signed 8-bit, no scaling.

    The file appears whole or not at all.

    Args:
        path: Target, `.nii` or `.nii.gz`.
        mask: bool of the shape of `like.data`.
        like: The scan.
    """
    _write_like(path, mask.astype(np.int8), like, 1.0, b"intracranial hemorrhage mask")


def write_probability(path: Path, steps: np.ndarray, like: Volume) -> None:
    """Writes probabilities on the grid of a scan, as `write_mask` does: unsigned 8-bit, scaled by 1/255.

    Args:
        path: Target, `.nii` or `.nii.gz`.
        steps: 255 times the probability, uint8 of the shape of `like.data`.
        like: The scan.
    """
    _write_like(path, steps, like, 1 / 255, b"probability of hemorrhage")


def _write_like(path: Path, data: np.ndarray, like: Volume, slope: float, description: bytes) -> None:
    header = like.header.copy()
    header.set_data_dtype(data.dtype)
    header["cal_min"], header["cal_max"] = 0, 1
    for name in _FREE_TEXT:
        if name in header:
            header[name] = b""
    header["descrip"] = description
    header.extensions.clear()
    header.set_data_offset(0)  # right behind the header, wherever the scan's own voxels begin
    kind = nib.Nifti2Image if isinstance(header, nib.nifti2.Nifti2Header) else nib.Nifti1Image
    image = kind(data, None, header)  # no affine: the header keeps its own codes
    image.header.set_slope_inter(slope, 0)  # behind the constructor, which unsets it
    content = image.to_bytes()
    write_bytes(path, igzip.compress(content, 2, mtime=0) if path.suffix == ".gz" else content)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
