"""A picture to look at: axial slices in the brain window with the outline on them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

LEVEL, WIDTH = 40.0, 80.0
COLOUR = (255, 64, 64)
_TILE = 256


def overlay_png(hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], tiles: int = 12) -> bytes:
    """A mosaic of slices, radiological view (the patient's right on the left).

    Slices with lesion come first in choice, spread over its extent; without lesion, slices spread over the scan.

    Args:
        hu: HU of shape (slices, rows, columns), canonical orientation.
        mask: bool of the same shape.
        spacing_mm: Spacing in the same order.
        tiles: At most so many slices.

    Returns:
        A PNG file.
    """
    lesion = np.flatnonzero(mask.any(axis=(1, 2)))
    pool = lesion if lesion.size else np.arange(len(hu))
    chosen = pool[np.unique(np.linspace(0, len(pool) - 1, min(tiles, len(pool))).round().astype(int))]
    height, width = hu.shape[1] * spacing_mm[1], hu.shape[2] * spacing_mm[2]
    size = max(1, round(_TILE * width / max(height, width))), max(1, round(_TILE * height / max(height, width)))
    across = min(len(chosen), 4)
    down = -(-len(chosen) // across)
    sheet = Image.new("RGB", (across * size[0], down * size[1]))
    for position, index in enumerate(chosen):
        tile = _tile(hu[index], mask[index], size)
        ImageDraw.Draw(tile).text((4, 2), f"slice {index + 1}/{len(hu)}", fill=(200, 200, 200))
        sheet.paste(tile, (position % across * size[0], position // across * size[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(hu: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    grey = np.clip((hu.astype(np.float32) - (LEVEL - WIDTH / 2)) / WIDTH, 0, 1)
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    # An eighth of a pixel's area, so that a lesion of one voxel does not vanish in the smaller picture.
    inside = np.asarray(small) >= 32
    edge = ndimage.binary_dilation(inside) & ~inside
    pixels = np.asarray(image).copy()
    pixels[edge] = COLOUR
    return Image.fromarray(pixels)
