"""The picture of a prediction: its size, which slices it shows, and where it is red."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from serving.prediction.overlay import COLOUR, overlay_png

SPACING = (5.0, 0.5, 0.5)
SHAPE = (20, 256, 256)


def picture(
    hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float] = SPACING, **options: int
) -> np.ndarray:
    image = Image.open(io.BytesIO(overlay_png(hu, mask, spacing, **options)))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image)


def red(pixels: np.ndarray) -> np.ndarray:
    return np.asarray((pixels == COLOUR).all(axis=-1))


def head(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(-20, 100, shape).astype(np.int16)


def test_red_goes_round_the_mask_and_nowhere_else() -> None:
    """One slice with lesion, at the picture's own resolution: the ring of pixels that touch the mask."""
    mask = np.zeros(SHAPE, bool)
    mask[7, 100:120, 60:90] = True
    mask[7, 200, 30] = True
    pixels = picture(head(), mask)
    assert pixels.shape == (256, 256, 3)
    np.testing.assert_array_equal(red(pixels), ndimage.binary_dilation(mask[7]) & ~mask[7])


def test_grey_is_the_brain_window_and_the_patients_right_is_on_the_left() -> None:
    hu = np.full(SHAPE, 40, np.int16)
    hu[:, :, :128] = -500
    hu[:, 128:, 128:] = 500
    pixels = picture(hu, np.zeros(SHAPE, bool), tiles=1)[:, :, 0]
    assert (pixels[60:120, 10:120] == 0).all()
    assert (pixels[60:120, 140:] == 127).all()
    assert (pixels[140:, 140:] == 255).all()


@pytest.mark.parametrize(("lesions", "tiles", "wanted"), [(1, 12, (1, 1)), (3, 12, (3, 1)), (5, 12, (4, 2)),
                                                          (20, 12, (4, 3)), (20, 2, (2, 1))])  # fmt: skip
def test_size(lesions: int, tiles: int, wanted: tuple[int, int]) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[:lesions, 100:150, 100:150] = True
    pixels = picture(head(), mask, tiles=tiles)
    assert pixels.shape == (wanted[1] * 256, wanted[0] * 256, 3)
    shown = [red(pixels[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]).any()
             for row in range(wanted[1]) for column in range(wanted[0])]  # fmt: skip
    assert sum(shown) == min(lesions, tiles)


def test_an_empty_mask_shows_slices_all_over_the_scan_without_red() -> None:
    pixels = picture(head(), np.zeros(SHAPE, bool))
    assert pixels.shape == (3 * 256, 4 * 256, 3)
    assert not red(pixels).any()
    assert picture(head((1, 256, 256)), np.zeros((1, 256, 256), bool)).shape == (256, 256, 3)


def test_millimetres_are_square() -> None:
    """100 mm high, 50 mm wide, from 400 rows and 50 columns."""
    shape = (2, 400, 50)
    assert picture(head(shape), np.zeros(shape, bool), (5.0, 0.25, 1.0), tiles=1).shape == (256, 128, 3)


def test_a_lesion_of_one_voxel_in_a_large_scan_is_seen() -> None:
    mask = np.zeros((3, 512, 512), bool)
    mask[1, 300, 201] = True
    where = np.argwhere(red(picture(head((3, 512, 512)), mask)))
    assert len(where)
    assert np.abs(where - (150, 100.5)).max() <= 2
