"""Stored pixels to HU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from components.imaging.dicom.header import HeaderError, Plane
from components.imaging.geometry import AIR_HU


def read_planes(stream: BinaryIO, planes: Sequence[Plane]) -> list[np.ndarray]:
    """Decodes the planes of one file to HU; call within `quiet`.

    Stored values are not inverted under MONOCHROME1: that says how to show them after all transformations (DICOM PS3.3
    C.7.6.3.1.2), not what they are. Padding (C.7.5.1.1.2) becomes air.

    Args:
        stream: The file.
        planes: Its wanted planes.

    Returns:
        int16 of shape (rows, columns) where HU are whole numbers that fit, else float32; one a plane.

    Raises:
        HeaderError: Pixels cannot be decoded, or have another shape than the header says.
    """
    try:
        dataset = dcmread(stream, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # no preamble: pydicom told the encoding from the bytes
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        frames = list(iter_pixels(dataset, indices=[plane.frame for plane in planes], raw=True))
        padding = _padding(dataset)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt bytes, and may quote the header
        raise HeaderError(f"its pixels cannot be decoded ({type(error).__name__}); copy or convert it anew") from None
    if len(frames) != len(planes):
        raise HeaderError(f"found {len(frames)} frames of pixels, wanted {len(planes)}; copy it anew")
    for frame, plane in zip(frames, planes, strict=True):
        if frame.shape != plane.shape:
            raise HeaderError(f"pixels are of shape {frame.shape}, the header claims {plane.shape}; convert it anew")
    return [_hu(frame, plane, padding) for frame, plane in zip(frames, planes, strict=True)]


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that mean "no pixel"."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    signed, bits = bool(dataset.get("PixelRepresentation")), int(dataset.get("BitsAllocated") or 16)
    ends = []
    for number in (value, dataset.get("PixelPaddingRangeLimit", value)):
        # Writers confuse the signed and the unsigned form of the same bits.
        stored = int(number) % (1 << bits)
        ends.append(stored - (1 << bits) if signed and stored >> (bits - 1) else stored)
    return min(ends), max(ends)


def _hu(stored: np.ndarray, plane: Plane, padding: tuple[int, int] | None) -> np.ndarray:
    # A slope of 0 or none is read as 1, as in NIfTI; `read_series` says so.
    slope, intercept = plane.slope or 1.0, plane.intercept or 0.0
    whole = slope.is_integer() and intercept.is_integer()
    values = stored.astype(np.float64) * slope + intercept
    if padding is not None:
        values[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    if whole and values.min() >= -32768 and values.max() <= 32767:
        return values.astype(np.int16)
    return values.astype(np.float32)
