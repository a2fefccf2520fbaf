"""A scan made ready for the network: the one preparation that both training and prediction use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.imaging.errors import ScanError
from components.imaging.geometry import AIR_HU, HU_RANGE, Geometry, Orientation
from components.imaging.head import Head, find_head
from components.imaging.nifti import Volume

AIR_BELOW_HU = -400
"""Below this, and away from the head, everything on the model grid becomes air: noise, foam and the table carry nothing
and pack badly."""


@dataclass(frozen=True)
class Scan:
    """A prepared scan.

    Attributes:
        hu: HU on the model grid, little-endian int16 of shape (slices, size, size).
        geometry: Where that grid lies in the scan.
        orientation: How the file stores the scan.
        affine: The file's affine.
        head: What is known of the head.
    """

    hu: np.ndarray
    geometry: Geometry
    orientation: Orientation
    affine: np.ndarray
    head: Head

    def examples(self, context_slices: int) -> np.ndarray:
        """Each slice with its neighbours; the outermost slices are repeated.

        Args:
            context_slices: Neighbours on each side.

        Returns:
            int16 of shape (slices, 2 * context_slices + 1, size, size); a view where there is no context.
        """
        if context_slices == 0:
            return self.hu[:, np.newaxis]
        count = len(self.hu)
        around = np.arange(-context_slices, context_slices + 1)
        return self.hu[np.clip(np.arange(count)[:, np.newaxis] + around, 0, count - 1)]


def prepare_scan(volume: Volume, path: Path, *, size: int, spacing_mm: float, head: Head | None = None) -> Scan:
    """Reorients, finds the head and resamples to the model grid.

    Args:
        volume: The scan as stored, in HU.
        path: Its file, for messages.
        size: Pixels a side of the model grid.
        spacing_mm: Its pixel size.
        head: The scan's head, if it has been looked for already.

    Raises:
        ScanError: All voxels are equal, or there is no head to centre on.
    """
    orientation = Orientation.of(volume.affine)
    native = orientation.to_canonical(volume.data)
    head = head or find_head(native, orientation.spacing_mm)
    if not head.found:
        low, high = volume.data.min(), volume.data.max()
        raise ScanError(
            "no-head",
            f"{path}: no head found; values from {low} to {high}, wanted HU (air -1000, brain about 35); "
            "check that the file is a head CT in HU",
        )
    geometry = Geometry(
        native_shape=(native.shape[0], native.shape[1], native.shape[2]),
        spacing_mm=orientation.spacing_mm,
        grid_center=head.center,
        grid_size=size,
        grid_spacing_mm=spacing_mm,
    )
    hu = geometry.to_grid(native, outside=AIR_HU, box=head.box, finish=_rounded_hu, dtype="<i2")
    return Scan(hu, geometry, orientation, volume.affine, head)


def _rounded_hu(values: np.ndarray) -> np.ndarray:
    """Whole HU within range, without the noise of air; in place, which halves the time of resampling's last step."""
    np.rint(values, out=values)
    np.putmask(values, values < AIR_BELOW_HU, AIR_HU)
    return np.minimum(values, HU_RANGE[1], out=values)
