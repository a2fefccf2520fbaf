"""A picture to look at: axial slices in the brain window with the outline on them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

LEVEL, WIDTH = 40.0, 80.0
COLOUR = (255, 64, 64)
_TILE = 256
_LINE = 20
_GREY = (200, 200, 200)

Colour = tuple[int, int, int]


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
    return mosaic_png(hu, [(mask, COLOUR)], spacing_mm, spread(pool, tiles))


def spread(slices: np.ndarray, tiles: int) -> np.ndarray:
    """At most so many of the slices, evenly spaced, the first and the last among them."""
    return np.asarray(slices[np.unique(np.linspace(0, len(slices) - 1, min(tiles, len(slices))).round().astype(int))])


def mosaic_png(
    hu: np.ndarray,
    masks: Sequence[tuple[np.ndarray, Colour]],
    spacing_mm: tuple[float, float, float],
    slices: np.ndarray,
    *,
    window: tuple[float, float] = (LEVEL, WIDTH),
    across: int = 4,
    caption: Sequence[tuple[str, Colour]] = (),
) -> bytes:
    """A mosaic of the slices that are named, radiological view, with the outline of each mask in its colour.

    Args:
        hu: HU of shape (slices, rows, columns), canonical orientation.
        masks: Of the same shape, bool, each with its colour; later ones are drawn over earlier ones.
        spacing_mm: Spacing in the same order.
        slices: Which.
        window: Level and width in HU.
        across: Tiles in a row.
        caption: Lines above the tiles, each with its colour.

    Returns:
        A PNG file.
    """
    height, width = hu.shape[1] * spacing_mm[1], hu.shape[2] * spacing_mm[2]
    size = max(1, round(_TILE * width / max(height, width))), max(1, round(_TILE * height / max(height, width)))
    across = min(len(slices), across)
    down = -(-len(slices) // across)
    top = len(caption) * _LINE
    sheet = Image.new("RGB", (across * size[0], top + down * size[1]))
    for line, (text, colour) in enumerate(caption):
        ImageDraw.Draw(sheet).text((4, line * _LINE + 2), text, fill=colour, font=ImageFont.load_default(14))
    for position, index in enumerate(slices):
        tile = _tile(hu[index], [(mask[index], colour) for mask, colour in masks], size, window)
        ImageDraw.Draw(tile).text((4, 2), f"slice {index + 1}/{len(hu)}", fill=_GREY)
        sheet.paste(tile, (position % across * size[0], top + position // across * size[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile(
    hu: np.ndarray, masks: Sequence[tuple[np.ndarray, Colour]], size: tuple[int, int], window: tuple[float, float]
) -> Image.Image:
    level, width = window
    grey = np.clip((hu.astype(np.float32) - (level - width / 2)) / width, 0, 1)
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    pixels = np.asarray(image).copy()
    for mask, colour in masks:
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        # An eighth of a pixel's area, so that a lesion of one voxel does not vanish in the smaller picture.
        inside = np.asarray(small) >= 32
        pixels[ndimage.binary_dilation(inside) & ~inside] = colour
    return Image.fromarray(pixels)
