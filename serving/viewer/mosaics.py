"""The scene as PNG files: axial slices in every window, with outlines."""

from __future__ import annotations

from pathlib import Path

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes
from serving.prediction.overlay import mosaic_png
from serving.viewer.scene import WINDOWS, Scene, slices_to_show

MAX_SLICES = 60
ACROSS = 6


def write_mosaics(scene: Scene, folder: Path) -> list[Path]:
    """Writes one picture a window: the slices with blood and their neighbours; without blood, the whole head.

    Args:
        scene: What.
        folder: Where; made if need be.

    Returns:
        The files.

    Raises:
        UsageError: The folder cannot be written.
    """
    orientation = scene.orientation
    hu = orientation.to_canonical(scene.volume.data)
    masks = [(orientation.to_canonical(mask.voxels), mask.colour) for mask in scene.masks]
    slices = slices_to_show(scene, MAX_SLICES)
    written = []
    for window in WINDOWS:
        title = (
            f"{scene.name}, {window.name} (W {window.width:g}, L {window.level:g}); the patient's right is on the left"
        )
        picture = mosaic_png(
            hu,
            masks,
            orientation.spacing_mm,
            slices,
            window=(window.level, window.width),
            across=ACROSS,
            caption=[(title, (255, 255, 255)), *((f"{one.name}: {one.summary()}", one.colour) for one in scene.masks)],
        )
        path = folder / f"{scene.case}_{window.name}.png"
        try:
            write_bytes(path, picture)
        except OSError as error:
            raise UsageError(f"{folder}: cannot write there ({error.strerror}); give another --png") from None
        written.append(path)
    return written
