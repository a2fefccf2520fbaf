"""Small pictures as data URIs, and outlines as SVG paths."""

from __future__ import annotations

import base64
import io

import numpy as np
from contourpy import contour_generator
from PIL import Image

BRAIN_HU = (0.0, 80.0)
"""The brain window in which pages show CT: level 40, width 80."""

_QUALITY = 70


def in_window(hu: np.ndarray, low: float = BRAIN_HU[0], high: float = BRAIN_HU[1]) -> np.ndarray:
    """Grey levels, uint8, of values that are shown black at `low` and white at `high`."""
    span = max(high - low, 1e-6)
    return (np.clip((np.asarray(hu, np.float32) - low) / span, 0.0, 1.0) * 255).astype(np.uint8)


def data_uri(grey: np.ndarray, size: tuple[int, int] | None = None) -> str:
    """A picture as WebP.

    Args:
        grey: uint8 of shape (rows, columns).
        size: Width and height to scale to.
    """
    image = Image.fromarray(grey)
    if size is not None and size != image.size:
        image = image.resize(size, Image.Resampling.BOX if size[0] < image.width else Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def outline_path(coverage: np.ndarray) -> str:
    """The contour of a mask as the `d` of an SVG path, in pixels from the upper left corner; empty of nothing.

    Args:
        coverage: uint8 of shape (rows, columns), 255 times the covered share of each pixel.
    """
    if not coverage.any():
        return ""
    # Half a pixel counts as covered; of a lesion smaller than that, half of what there is.
    level = min(255.0, float(coverage.max())) / 2
    generator = contour_generator(z=np.pad(coverage, 1).astype(np.float64))
    # Padding moved everything by 1, and a pixel's centre lies half a pixel from its corner.
    lines = [np.asarray(line) - 0.5 for line in generator.lines(level)]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line[:-1]) + "Z" for line in lines)


def pixels_path(mask: np.ndarray) -> str:
    """The pixels of a mask as the `d` of an SVG path to fill: a box for each run in a row; empty of nothing.

    Args:
        mask: bool of shape (rows, columns).
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    return "".join(
        f"M{start} {row}h{end - start}v1h{start - end}z" for row, start, end in zip(rows, starts, ends, strict=True)
    )
