"""A scan thinned out in-plane: what statistics of the whole scan need, at a small part of its cost."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.imaging.errors import ScanError
from components.imaging.geometry import Orientation
from components.imaging.head import Head, find_head, thinned, thinning
from components.imaging.nifti import Volume

MAX_SLICES = 4096
MAX_KEPT = 64 * 1024 * 1024
"""A scan of 512 x 512 x 1000 at 0.45 mm keeps 7 million pixels."""


@dataclass(frozen=True)
class Sample:
    """Every few pixels of a scan.

    Attributes:
        hu: float32 of shape (slices, rows, columns), canonical orientation.
        spacing_mm: Distance of the pixels kept, in the same order.
        head: What is known of the head.
        shape: Canonical shape of the whole scan.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    head: Head
    shape: tuple[int, ...]

    @property
    def tissue(self) -> np.ndarray:
        """bool of the shape of `hu`: the largest connected piece that is not air."""
        return self.head.tissue

    @property
    def voxel_ml(self) -> float:
        """Volume that one pixel kept stands for, in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def pixel_mm2(self) -> float:
        """Area that one pixel kept stands for, in mm2."""
        return self.spacing_mm[1] * self.spacing_mm[2]

    def digest(self) -> str:
        """Hash of the content, the same however the scan is stored (orientation, type, compression)."""
        content = hashlib.blake2b(str(self.shape).encode(), digest_size=16)
        content.update(np.rint(np.clip(self.hu, -32768, 32767)).astype("<i2").data)
        return content.hexdigest()


def thin_out(volume: Volume, path: Path) -> Sample:
    """Takes every few pixels and finds the head.

    Args:
        volume: The scan as stored.
        path: Its file, for messages.

    Raises:
        ScanError: `geometry`: no head fills so many pixels at this spacing.
    """
    orientation = Orientation.of(volume.affine)
    native = orientation.to_canonical(volume.data)
    slices, *plane = orientation.spacing_mm
    steps, _ = thinning(native.shape, orientation.spacing_mm)
    kept = len(native) * np.prod([size / step for size, step in zip(native.shape[1:], steps, strict=True)])
    if len(native) > MAX_SLICES or kept > MAX_KEPT:
        raise ScanError(
            "geometry",
            f"{path}: {native.shape} voxels (slices, rows, columns) of {orientation.spacing_mm} mm are no head; "
            "convert the scan anew",
        )
    return Sample(
        hu=thinned(native, orientation.spacing_mm).astype(np.float32),
        spacing_mm=(slices, plane[0] * steps[0], plane[1] * steps[1]),
        head=find_head(native, orientation.spacing_mm),
        shape=native.shape,
    )
