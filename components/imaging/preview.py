"""Small pictures of whatever a volume holds, for lists of scans that cannot be used."""

from __future__ import annotations

import numpy as np
from PIL import Image

from components.imaging.geometry import Orientation
from components.imaging.nifti import Volume

TILE_PIXELS = 96
_HEIGHTS = (0.3, 0.5, 0.7)
_SOFT_HU = (-60.0, 140.0)
_AIR_HU = -300


def preview(volume: Volume) -> np.ndarray:
    """Three axial slices side by side, in proportion; in a soft-tissue window if there is air, else stretched.

    Args:
        volume: A volume that may hold anything finite.

    Returns:
        Grey levels, uint8 of shape (96, 288).
    """
    orientation = Orientation.of(volume.affine)
    native = orientation.to_canonical(volume.data)
    planes = [native[round(height * (len(native) - 1))] for height in _HEIGHTS]
    stride = max(1, max(native.shape[1:]) // (4 * TILE_PIXELS))
    thin = np.stack([plane[::stride, ::stride] for plane in planes]).astype(np.float32)
    # What was quarantined is often no HU: only where there is air below tissue is a window meant.
    low, high = _SOFT_HU if float(thin.min()) < _AIR_HU else (float(q) for q in np.percentile(thin, (1, 99)))
    grey = np.clip((thin - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    height_mm, width_mm = (n * mm for n, mm in zip(native.shape[1:], orientation.spacing_mm[1:], strict=True))
    scale = TILE_PIXELS / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    sheet = Image.new("L", (TILE_PIXELS * len(planes), TILE_PIXELS))
    for index, plane in enumerate(grey):
        tile = Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)
        sheet.paste(tile, (index * TILE_PIXELS + (TILE_PIXELS - size[0]) // 2, (TILE_PIXELS - size[1]) // 2))
    return np.asarray(sheet)
