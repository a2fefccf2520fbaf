"""Pictures and outlines: grey levels, contours and runs of pixels by hand."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from components.pages.pictures import data_uri, in_window, outline_path, pixels_path


def decoded(uri: str | None) -> np.ndarray:
    """Grey levels of a data URI."""
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")).astype(int)


def test_the_brain_window() -> None:
    assert in_window(np.array([-1000, 0, 40, 80, 3000])).tolist() == [0, 0, 127, 255, 255]
    assert in_window(np.array([5.0, 5.0]), 5.0, 5.0).tolist() == [0, 0]


def test_a_picture_is_what_was_drawn() -> None:
    grey = np.zeros((40, 60), np.uint8)
    grey[10:30, 20:50] = 200
    shown = decoded(data_uri(grey, (30, 20)))
    assert shown.shape == (20, 30)
    assert shown[10, 17] == pytest.approx(200, abs=6) and shown[2, 2] == pytest.approx(0, abs=6)


def area(path: str) -> float:
    """Area within the closed lines of an SVG path; those that run the other way are holes."""
    total = 0.0
    for line in path.split("Z")[:-1]:
        points = np.array([[float(value) for value in pair] for pair in re.findall(r"([-\d.]+) ([-\d.]+)", line)])
        x, y = points.T
        total += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)


def test_an_outline_follows_the_mask_to_the_edges_of_the_picture() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:14, 20:30] = 255
    path = outline_path(mask)
    xs, ys = zip(*((float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)), strict=True)
    # From edge to edge of the covered pixels, in pixels from the corner of the picture; the far edge is its border.
    assert (min(xs), max(xs), min(ys), max(ys)) == (20.0, 30.0, 4.0, 14.0)
    assert area(path) == pytest.approx(100, rel=0.05)
    assert path.count("M") == path.count("Z") == 1


def test_an_outline_has_holes_parts_and_shows_lesions_below_half_a_pixel() -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[2:14, 2:14] = 255
    mask[6:10, 6:10] = 0
    mask[20:24, 20:24] = 255
    assert outline_path(mask).count("M") == 3
    assert area(outline_path(mask)) == pytest.approx(144 - 16 + 16, rel=0.05)
    faint = np.zeros((9, 9), np.uint8)
    faint[4, 4] = 30
    assert outline_path(faint).count("Z") == 1
    assert outline_path(np.zeros((9, 9), np.uint8)) == ""


def test_pixels_to_fill_are_just_those_of_the_mask() -> None:
    mask = np.random.default_rng(0).random((9, 13)) < 0.5
    found = np.zeros_like(mask)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", pixels_path(mask)):
        found[int(y), int(x) : int(x) + int(width)] = True
    assert np.array_equal(found, mask)
    assert pixels_path(np.ones((2, 3), bool)) == "M0 0h3v1h-3zM0 1h3v1h-3z"
    assert pixels_path(np.zeros((2, 3), bool)) == ""
