"""Checks of a mask against its scan: its grid, its labels, where its lesion lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from components.imaging.checks.finding import Finding
from components.imaging.errors import ScanError
from components.imaging.geometry import Orientation
from components.imaging.nifti import Volume

TOLERANCE_VOXELS = 0.25
"""Further away, a mask is not that of the scan's voxels."""

EXACT_MM = 1e-4
"""Nearer than this, two affines are the same up to float32."""

RESAMPLED_VOXELS = 1.5
"""Up to here `data.resample_masks` lets a mask be resampled: what rounding of a grid does."""

OUTSIDE_BELOW_HU = -200
MAX_OUTSIDE = 0.5
MAX_STRAY = 0.05
MAX_LESION_ML = 300.0
MAX_MASK_ML = 700.0
"""Half of what a skull holds: the mask outlines something else."""
MAX_LABEL = 255


@dataclass(frozen=True)
class Lesion:
    """A mask that was understood.

    Attributes:
        voxels: bool of the scan's stored shape.
        findings: What was noticed.
    """

    voxels: np.ndarray
    findings: tuple[Finding, ...]


def read_lesion(path: Path, mask: Volume, image_path: Path, image: Volume, data: Mapping[str, Any]) -> Lesion:
    """The lesion that a mask draws on a scan.

    Args:
        path: The mask's file, for messages.
        mask: As read.
        image_path: The scan's file, for messages.
        image: As read, in HU or not.
        data: The configuration's section `data`: `lesion_labels`, `resample_masks`.

    Raises:
        ScanError: `mask-shape`, `mask-affine` or `mask-values`.
    """
    findings: list[Finding] = []
    if _is_copy(mask.data, image.data):
        return Lesion(np.zeros(image.data.shape, bool), (Finding.of("mask-is-image", f"{path}: equals {image_path}"),))
    stored = _on_grid(path, mask, image_path, image, bool(data.get("resample_masks")), findings)
    voxels = _lesion_voxels(path, stored, data.get("lesion_labels"), findings)
    return Lesion(voxels, tuple(findings))


def lesion_findings(path: Path, voxels: np.ndarray, image: Volume, *, expected: bool) -> list[Finding]:
    """Checks of where a lesion lies and how large it is.

    Args:
        path: The mask's file, for messages.
        voxels: bool of the scan's stored shape.
        image: The scan in HU.
        expected: Whether a scan without lesion is an error (`data.expect_lesions`).
    """
    hu = _flat(image.data)[np.flatnonzero(_flat(voxels))]
    if hu.size == 0:
        return [Finding.of("mask-empty", f"{path}: no lesion (data.expect_lesions)")] if expected else []
    found = []
    outside = float((hu < OUTSIDE_BELOW_HU).mean())
    if outside > MAX_STRAY:
        code, allowed = ("mask-outside", MAX_OUTSIDE) if outside > MAX_OUTSIDE else ("mask-stray", MAX_STRAY)
        text = f"{path}: {outside:.0%} of the lesion is air, wanted at most {allowed:.0%}"
        found.append(Finding.of(code, text, outside))
    size = hu.size * float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000
    if size > MAX_MASK_ML:
        found.append(Finding.of("mask-brain", f"{path}: {size:.0f} ml, wanted at most {MAX_MASK_ML:.0f}", size))
    elif size > MAX_LESION_ML:
        found.append(Finding.of("mask-large", f"{path}: {size:.0f} ml, wanted at most {MAX_LESION_ML:.0f}", size))
    return found


def _on_grid(
    path: Path, mask: Volume, image_path: Path, image: Volume, resample: bool, findings: list[Finding]
) -> np.ndarray:
    """The mask's values in the scan's stored order."""
    orientations = [Orientation.of(volume.affine) for volume in (mask, image)]
    (shape, affine), (wanted_shape, wanted_affine) = (
        _canonical_grid(volume, orientation) for volume, orientation in zip((mask, image), orientations, strict=True)
    )
    smallest = float(np.linalg.norm(image.affine[:3, :3], axis=0).min())
    apart = _corners_apart(shape, affine, wanted_shape, wanted_affine)
    if shape == wanted_shape and apart <= TOLERANCE_VOXELS * smallest:
        if apart > EXACT_MM:
            findings.append(Finding.of("mask-affine-rounded", f"{path}: {apart:.4f} mm away from {image_path}", apart))
        if orientations[0].transform == orientations[1].transform:
            return mask.data
        return orientations[1].to_stored(orientations[0].to_canonical(mask.data))
    near = all(abs(a - b) <= 1 for a, b in zip(shape, wanted_shape, strict=True))
    if resample and near and apart <= RESAMPLED_VOXELS * float(np.linalg.norm(image.affine[:3, :3], axis=0).max()):
        findings.append(
            Finding.of("mask-resampled", f"{path}: grid {shape}, {apart:.2f} mm away from {image_path}", apart)
        )
        step = np.linalg.inv(mask.affine) @ image.affine
        return np.asarray(
            ndimage.affine_transform(mask.data, step[:3, :3], step[:3, 3], output_shape=image.data.shape, order=0)
        )
    if shape != wanted_shape:
        raise ScanError(
            "mask-shape",
            f"{path}: shape {mask.data.shape}, wanted {image.data.shape} as {image_path}; "
            "draw or resample the mask on the scan's grid",
        )
    raise ScanError(
        "mask-affine",
        f"{path}: lies up to {apart:.2f} mm away from {image_path}, allowed {TOLERANCE_VOXELS * smallest:.2f} mm; "
        "copy the scan's affine if the voxels correspond, else resample the mask",
    )


def _canonical_grid(volume: Volume, orientation: Orientation) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape along (columns, rows, slices) and affine of the canonical order."""
    turned = nib.orientations.inv_ornt_aff(np.array(orientation.transform), volume.data.shape)
    shape = orientation.to_canonical(np.broadcast_to(np.uint8(0), volume.data.shape)).shape[::-1]
    return shape, volume.affine @ turned


def _corners_apart(
    shape: tuple[int, ...], affine: np.ndarray, wanted_shape: tuple[int, ...], wanted_affine: np.ndarray
) -> float:
    """The largest distance along an axis between corresponding corners, in mm."""
    ends = [
        grid @ np.array([[x, y, z, 1] for x in (0, n[0] - 1) for y in (0, n[1] - 1) for z in (0, n[2] - 1)]).T
        for n, grid in ((shape, affine), (wanted_shape, wanted_affine))
    ]
    return float(np.abs(ends[0] - ends[1]).max())


def _flat(stored: np.ndarray) -> np.ndarray:
    """Voxels in the order in which files hold them: no copy of what was just read, and much faster to index."""
    return stored.ravel(order="F")


def _is_copy(mask: np.ndarray, image: np.ndarray) -> bool:
    if mask.shape != image.shape or not np.array_equal(mask[::9, ::9], image[::9, ::9]):
        return False
    return bool(mask.any()) and np.array_equal(mask, image)


def _lesion_voxels(path: Path, stored: np.ndarray, labels: list[int] | None, findings: list[Finding]) -> np.ndarray:
    """The voxels of `stored` whose label is blood, bool of its shape."""
    flat = _flat(stored)
    marked = np.asarray(flat != 0)
    places = np.flatnonzero(marked)
    values = flat[places]
    kept = _is_lesion(path, values, labels, findings)
    marked[places[~kept]] = False
    return marked.reshape(stored.shape, order="F")


def _is_lesion(path: Path, values: np.ndarray, labels: list[int] | None, findings: list[Finding]) -> np.ndarray:
    """Which of the values, all but 0, are blood."""
    everything = np.ones(values.shape, bool)
    if values.size == 0:
        return everything
    if values.dtype.kind == "f":
        whole = np.rint(values)
        fractions = float((np.abs(values - whole) > 1e-3).mean())
        if fractions:
            low, high = float(values.min()), float(values.max())
            if low < 0 or high > 1.001:
                raise ScanError(
                    "mask-values", f"{path}: fractions from {low:g} to {high:g}, wanted labels or shares from 0 to 1"
                )
            findings.append(Finding.of("mask-soft", f"{path}: {fractions:.0%} of the marked voxels hold fractions"))
            return np.asarray(values > 0.5)
        findings.append(Finding.of("mask-float", f"{path}: labels are stored as {values.dtype.name}"))
        values = whole
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > MAX_LABEL:
        raise ScanError(
            "mask-values", f"{path}: labels from {low:g} to {high:g}, wanted 0 to {MAX_LABEL}; is it a mask?"
        )
    found = [int(label) for label in np.flatnonzero(np.bincount(values.astype(np.uint8))) if label]
    if found == [255]:
        findings.append(Finding.of("mask-255", f"{path}: the only label is 255"))
        return everything if labels is None or 255 in labels or 1 in labels else ~everything
    if labels is None:
        if len(found) > 1:
            findings.append(Finding.of("mask-classes", f"{path}: labels {found}, all taken as blood", len(found)))
        return np.asarray(values != 0)  # traces of rounding in a float mask are no label
    return np.isin(values, labels)
