"""What a report says of a mask: total volume and, component by component, size and place."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from components.imaging.geometry import Orientation

_CORNERS = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])


Component = tuple[np.ndarray, dict[str, Any]]
"""Its voxels' indices, of shape (n, 3), and what is told of it."""


def measures(mask: np.ndarray, affine: np.ndarray, found: list[Component] | None = None) -> dict[str, Any]:
    """Volumes and components, ready for JSON.

    Components (26 neighbours) are listed by falling volume, each with

    - `volume_ml`,
    - `centroid_mm`: in the coordinates of the file's affine, right-anterior-superior,
    - `slices`: first and last, counted from 0 along the file's own slice axis,
    - `largest_diameter_mm`: the longest line within one slice, from outer corner to outer corner of its pixels.

    Args:
        mask: bool of shape (i, j, k), as the scan's file stores it.
        affine: Of the file: voxel index to RAS mm, of shape (4, 4).
        found: What `find_components` says of them, if that is known already.
    """
    orientation = Orientation.of(affine)
    voxel_ml = float(np.prod(orientation.spacing_mm)) / 1000
    components = [told for _, told in (find_components(mask, affine) if found is None else found)]
    return {
        "volume_ml": round(int(np.count_nonzero(mask)) * voxel_ml, 3),
        "component_count": len(components),
        "components": components,
        "shape": [int(size) for size in mask.shape],
        "orientation": orientation.codes,
        "spacing_mm": [round(float(size), 5) for size in np.linalg.norm(affine[:3, :3], axis=0)],
    }


def find_components(mask: np.ndarray, affine: np.ndarray) -> list[Component]:
    """The components with what `measures` tells of each, in its order; arguments as there."""
    orientation = Orientation.of(affine)
    axis = int(np.flatnonzero(np.array(orientation.transform)[:, 0] == 2)[0])
    in_plane = [other for other in range(3) if other != axis]
    pixel_mm = np.linalg.norm(affine[:3, :3], axis=0)[in_plane]
    voxel_ml = float(np.prod(orientation.spacing_mm)) / 1000
    labels, count = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26, return_N=True)
    components: list[Component] = []
    boxes = cc3d.statistics(labels)["bounding_boxes"][1:] if count else []
    for label, box in enumerate(boxes, start=1):
        voxels = np.argwhere(labels[box] == label) + [side.start for side in box]
        slices = voxels[:, axis]
        center = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
        planes = [voxels[slices == index][:, in_plane] for index in np.unique(slices)]
        told = {
            "volume_ml": round(len(voxels) * voxel_ml, 3),
            "centroid_mm": [round(float(value), 2) for value in center],
            "slices": [int(slices.min()), int(slices.max())],
            "largest_diameter_mm": round(max(_diameter(plane, pixel_mm) for plane in planes), 2),
        }
        components.append((voxels, told))
    return sorted(components, key=lambda one: one[1]["volume_ml"], reverse=True)


def _diameter(pixels: np.ndarray, pixel_mm: np.ndarray) -> float:
    """Greatest distance in mm between corners of pixels, of shape (n, 2)."""
    corners = (pixels[:, np.newaxis] + _CORNERS).reshape(-1, 2) * pixel_mm
    return float(pdist(corners[ConvexHull(corners).vertices]).max())
