"""Small scans for tests: a generated patient, a head of ellipses, and both in any storage order."""

from __future__ import annotations

import itertools
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components.imaging.nifti import Volume
from components.imaging.phantom import Phantom, generate_patient

AXIS_CODES = ["".join(codes) for order in itertools.permutations(("RL", "AP", "SI"))
              for codes in itertools.product(*order)]  # fmt: skip


@lru_cache(maxsize=4)
def patient(index: int = 2) -> Phantom:
    """A tiny generated patient with a bleed inside the brain."""
    return generate_patient(7, index, size="tiny", kinds=("intraparenchymal",), volume_ml=(15, 30))


def volume(data: np.ndarray, affine: np.ndarray) -> Volume:
    """A volume that was never a file."""
    return Volume(data, np.asarray(affine, dtype=np.float64), nib.Nifti1Image(data, affine).header)


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """Writes an unscaled NIfTI-1 file with nibabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(1, 0)
    nib.save(image, path)
    return path


def load(path: Path) -> Any:
    """As nibabel reads it, without leaving the file mapped."""
    return nib.load(path) if path.name.endswith(".gz") else nib.load(path, mmap=False)


def stored_as(data: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels in the same places, stored along other axes; nibabel does it."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    image = nib.Nifti1Image(data, affine).as_reoriented(turn)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    return np.asarray(image.dataobj), image.affine


def lps_affine(spacing_mm: tuple[float, float, float], *, tilt_degrees: float = 0.0) -> np.ndarray:
    """Affine of an LPS volume (columns, rows, slices), spacing in canonical order; a tilt shears it."""
    slices, rows, columns = spacing_mm
    affine = np.diag([-columns, -rows, slices, 1.0])
    affine[1, 2] = slices * np.tan(np.radians(tilt_degrees))
    affine[:3, 3] = [80.0, 95.5, -30.25]
    return affine


def rotated(affine: np.ndarray, degrees: tuple[float, float, float]) -> np.ndarray:
    """The affine turned about the x, y and z axes of the world."""
    x, y, z = np.radians(degrees)
    turn = nib.eulerangles.euler2mat(z, y, x)
    return np.asarray(nib.affines.from_matvec(turn) @ affine)


HEAD_MM = (92.0, 74.0)
"""Half axes of the outside of the head of ellipses: front to back, side to side."""


def ellipse_head(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], center: tuple[float, float] | None = None
) -> np.ndarray:
    """A head of ellipses: 5 mm scalp at 20 HU, 6 mm bone at 1000 HU, brain at 35 HU, air at -1000.

    Args:
        shape: Slices, rows, columns.
        spacing_mm: In the same order.
        center: Row and column of its middle; the middle of the image if not given.

    Returns:
        int16 of `shape`.
    """
    middle = center or ((shape[1] - 1) / 2, (shape[2] - 1) / 2)
    rows = (np.arange(shape[1]) - middle[0])[:, np.newaxis] * spacing_mm[1]
    columns = (np.arange(shape[2]) - middle[1])[np.newaxis] * spacing_mm[2]
    plane = np.full(shape[1:], -1000, np.int16)
    for depth, hu in ((0.0, 20), (5.0, 1000), (11.0, 35)):
        plane[np.hypot(rows / (HEAD_MM[0] - depth), columns / (HEAD_MM[1] - depth)) < 1] = hu
    return np.broadcast_to(plane, shape).copy()


def to_lps(canonical: np.ndarray) -> np.ndarray:
    """An array (slices, rows, columns) in the storage order that `lps_affine` describes."""
    return np.ascontiguousarray(canonical.transpose(2, 1, 0))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks, not both empty."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
