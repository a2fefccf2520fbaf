"""Checks of where voxels lie: spacing, directions, and two affines that should be one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.geometry import Orientation
from components.imaging.nifti import Volume

PIXEL_MM = (0.1, 5.0)
SLICE_MM = (0.1, 20.0)
"""Allowed spacings: wider than any scanner's and than coarse test scans, narrower than a wrong unit."""

THICK_RATIO = 1.5
"""A scan whose slices are this much thicker than its pixels has one direction of acquisition."""

SHEAR_DEGREES = 0.5
PLANE_SHEAR_DEGREES = 1.0


def geometry_findings(path: Path, volume: Volume) -> Iterator[Finding]:
    """Checks of the affine and the header's geometry.

    Args:
        path: The scan, for messages.
        volume: As read, its header mended.
    """
    orientation = Orientation.of(volume.affine)
    slices, rows, columns = orientation.spacing_mm
    for name, size, (low, high) in (
        ("rows", rows, PIXEL_MM), ("columns", columns, PIXEL_MM), ("slices", slices, SLICE_MM),
    ):  # fmt: skip
        if not low <= size <= high:
            yield Finding.of("spacing", f"{path}: spacing along {name} is {size:g} mm, wanted {low} to {high}", size)
    if min(rows, columns) > 0 and max(rows, columns) > THICK_RATIO * max(slices, min(rows, columns)):
        yield Finding.of(
            "non-axial",
            f"{path}: spacing (slices, rows, columns) is {orientation.spacing_mm} mm; the thick direction is not along "
            "the body",
            max(rows, columns),
        )
    shear = _shear_degrees(volume.affine, orientation)
    if shear[1] > PLANE_SHEAR_DEGREES:
        yield Finding.of("sheared-plane", f"{path}: rows and columns are {shear[1]:.1f} degrees off 90", shear[1])
    if shear[0] > SHEAR_DEGREES:
        yield Finding.of("sheared", f"{path}: slices are offset by {shear[0]:.1f} degrees", shear[0])
    yield from _forms(path, volume, sheared=max(shear) > SHEAR_DEGREES)


def _shear_degrees(affine: np.ndarray, orientation: Orientation) -> tuple[float, float]:
    """How far the slices' direction and the two directions in the plane are off right angles, in degrees."""
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    to_canonical = [int(axis) for axis, _ in orientation.transform]
    columns, rows, slices = (units[:, to_canonical.index(axis)] for axis in range(3))
    sines = np.abs([slices @ rows, slices @ columns, rows @ columns])
    degrees = np.degrees(np.arcsin(np.clip(sines, 0, 1)))
    return float(degrees[:2].max()), float(degrees[2])


def _forms(path: Path, volume: Volume, *, sheared: bool) -> Iterator[Finding]:
    header = volume.header
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes == (0, 0):
        axes = "".join(nib.orientations.aff2axcodes(volume.affine))
        yield Finding.of("codes-unset", f"{path}: sform_code and qform_code are 0; read as {axes}")
    if 0 in codes:
        return
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return  # reading used the sform; a broken quaternion of a file that has one is no one's position
    if not np.isfinite(qform).all():
        return
    units = [form[:3, :3] / np.maximum(np.linalg.norm(form[:3, :3], axis=0), 1e-9) for form in (sform, qform)]
    angles = np.degrees(np.arccos(np.clip((units[0] * units[1]).sum(axis=0), -1, 1)))
    if angles.max() > 45:
        found = " and ".join("".join(nib.orientations.aff2axcodes(form)) for form in (sform, qform))
        yield Finding.of("forms-disagree", f"{path}: sform and qform say {found}", float(angles.max()))
        return
    size = np.array(volume.data.shape) - 1
    corners = np.array([[x, y, z, 1] for x in (0, size[0]) for y in (0, size[1]) for z in (0, size[2])]).T
    apart = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    # A quaternion cannot hold a shear, so beside a sheared sform it always differs.
    if not sheared and apart > 0.5 * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        yield Finding.of("forms-offset", f"{path}: sform and qform lie up to {apart:.1f} mm apart", apart)
