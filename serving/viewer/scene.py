"""What `ich view` shows: a scan, masks on its grid, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.checks.mask import read_lesion
from components.imaging.errors import ScanError, UsageError
from components.imaging.geometry import Orientation
from components.imaging.head import Head
from components.imaging.nifti import Volume, read_volume
from serving.prediction.inputs import CHECKS, find_inputs
from serving.prediction.measures import find_components, measures
from serving.prediction.overlay import COLOUR, LEVEL, WIDTH, Colour


@dataclass(frozen=True)
class Window:
    """An HU window that can be chosen by name.

    Attributes:
        name: What it is for.
        level: Its middle in HU.
        width: Its width in HU.
    """

    name: str
    level: float
    width: float


WINDOWS = (Window("brain", LEVEL, WIDTH), Window("subdural", 50.0, 130.0), Window("bone", 500.0, 2000.0))

COLOURS: tuple[Colour, ...] = (
    COLOUR, (64, 200, 255), (255, 214, 64), (96, 220, 96), (255, 128, 240), (255, 160, 64),
)  # fmt: skip
"""Of the masks in turn; all far from grey."""


@dataclass(frozen=True)
class Mask:
    """A mask on the scan's grid.

    Attributes:
        name: Its file's.
        colour: Which it is drawn in.
        voxels: bool of the scan's stored shape.
        measured: What `measures` says of it.
        places: For each component the middle, in RAS mm, of that voxel of it which is nearest to its centroid: the
            centroid of a crescent lies outside.
    """

    name: str
    colour: Colour
    voxels: np.ndarray
    measured: dict[str, Any]
    places: list[list[float]]

    def summary(self) -> str:
        """Its volume and the number of its components."""
        count = self.measured["component_count"]
        return f"{self.measured['volume_ml']:.1f} ml in {count} component{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Scene:
    """A scan with its masks.

    Attributes:
        name: Of the file, folder or zip that the scan came from.
        case: The same as a name for files.
        volume: The scan.
        head: Where its head is; None where the checks did not get that far.
        masks: Those drawn on it.
        notes: What the checks have to say, and which series was taken; with paths.
    """

    name: str
    case: str
    volume: Volume
    head: Head | None
    masks: tuple[Mask, ...]
    notes: tuple[str, ...]

    @property
    def orientation(self) -> Orientation:
        """How the scan is stored."""
        return Orientation.of(self.volume.affine)


def open_scene(scan: Path, masks: Sequence[Path] = (), series: str | None = None) -> Scene:
    """Reads a scan and masks.

    Args:
        scan: NIfTI file, DICOM file, folder or zip.
        masks: NIfTI files on the scan's grid.
        series: Which of a DICOM study, see `choose_series`.

    Raises:
        UsageError: A path is not there, or `scan` holds several scans.
        ScanError: The scan or a mask cannot be read, or a mask is not on the scan's grid.
    """
    inputs = find_inputs([scan])
    if len(inputs) != 1:
        names = ", ".join(str(one.path if not one.is_dicom else one.case) for one in inputs[:5])
        raise UsageError(f"{scan}: holds {len(inputs)} scans ({names}{', …' if len(inputs) > 5 else ''}); name one")
    loaded = inputs[0].load(series)
    check = loaded.check
    if check.volume is None:
        assert check.error is not None
        raise ScanError(check.error.code, check.error.message)
    notes = [loaded.chosen] if loaded.chosen else []
    notes += [_note(finding) for finding in check.findings if finding.severity != "fixed"]
    drawn = []
    for position, path in enumerate(masks):
        lesion = read_lesion(path, read_volume(path), inputs[0].path, check.volume, CHECKS)
        for finding in lesion.findings:
            if finding.severity == "error":
                raise ScanError(finding.code, finding.message)
            notes.append(_note(finding))
        drawn.append(_measured(path.name, COLOURS[position % len(COLOURS)], lesion.voxels, check.volume.affine))
    return Scene(inputs[0].path.resolve().name, inputs[0].case, check.volume, check.head, tuple(drawn), tuple(notes))


def _note(finding: Finding) -> str:
    return f"{finding.message} [{finding.code}]"


def _measured(name: str, colour: Colour, voxels: np.ndarray, affine: np.ndarray) -> Mask:
    found = find_components(voxels, affine)
    places = []
    for indices, told in found:
        middles = indices @ affine[:3, :3].T + affine[:3, 3]
        nearest = np.linalg.norm(middles - told["centroid_mm"], axis=1).argmin()
        places.append([round(float(value), 3) for value in middles[nearest]])
    return Mask(name, colour, voxels, measures(voxels, affine, found), places)


def nifti(data: np.ndarray, affine: np.ndarray) -> bytes:
    """A plain NIfTI-1 file of nothing but voxels and affine: no text of the scan's own header goes along."""
    kept = data if data.dtype in (np.int16, np.uint8) else data.astype(np.float32)
    image = nib.Nifti1Image(kept, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    return bytes(image.to_bytes())


def page_data(scene: Scene) -> dict[str, Any]:
    """What the page is told, ready for JSON: names, windows, and of each mask what was measured.

    No path and no note, which may name the patient: these are for the terminal.
    """
    orientation = scene.orientation
    slices, rows, columns = orientation.spacing_mm
    shape = orientation.to_canonical(scene.volume.data).shape
    return {
        "name": scene.name,
        "image": "scan.nii",
        "size": f"{shape[2]} × {shape[1]} × {shape[0]} voxels of {columns:.3g} × {rows:.3g} × {slices:.3g} mm",
        "slice_axis": int(np.flatnonzero(np.array(orientation.transform)[:, 0] == 2)[0]),
        "windows": [vars(window) for window in WINDOWS],
        "masks": [
            {
                "name": mask.name,
                "file": mask_file(position),
                "colour": list(mask.colour),
                "volume_ml": mask.measured["volume_ml"],
                "summary": mask.summary(),
                "components": [
                    {
                        "volume_ml": told["volume_ml"],
                        "diameter_mm": told["largest_diameter_mm"],
                        "place_mm": place,
                    }
                    for told, place in zip(mask.measured["components"], mask.places, strict=True)
                ],
            }
            for position, mask in enumerate(scene.masks)
        ],
    }


def mask_file(position: int) -> str:
    """Under which name the page finds a mask."""
    return f"mask-{position}.nii"


def slices_to_show(scene: Scene, limit: int) -> np.ndarray:
    """Which slices a mosaic shows, counted from the lowest: all with blood and their neighbours, else the head's.

    Args:
        scene: The scan.
        limit: Where there are more, every second of them, or every third and so on.
    """
    canonical = [scene.orientation.to_canonical(mask.voxels).any(axis=(1, 2)) for mask in scene.masks]
    blood = np.any(canonical, axis=0) if canonical else np.zeros(1, bool)
    if blood.any():
        wanted = np.convolve(blood, [1, 1, 1], "same") > 0
    elif scene.head is not None and scene.head.found:
        wanted = scene.head.area_cm2 > 0
    else:
        wanted = np.ones(scene.orientation.to_canonical(scene.volume.data).shape[0], bool)
    chosen = np.flatnonzero(wanted)
    return chosen[:: math.ceil(len(chosen) / limit)]
