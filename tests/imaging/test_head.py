"""Finding the head: among tables and headrests, off the middle, in few slices, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from components.imaging.geometry import Orientation
from components.imaging.head import PERCENTILES, THINNING_MM, _percentiles, find_head
from tests.imaging.scans import HEAD_MM, ellipse_head, patient

SPACING = (5.0, 0.9, 0.9)
SHAPE = (6, 260, 240)


def with_table(hu: np.ndarray, *, touching: bool) -> np.ndarray:
    """A headrest of foam round the back of the head and a table below: wider than the head, skin of resin at 100 HU."""
    scene = hu.copy()
    back = int(np.flatnonzero((hu > -200).any(axis=(0, 2)))[-1])
    scene[:, back + 2 : back + 12, 60:180] = np.where(
        scene[:, back + 2 : back + 12, 60:180] < -200, -750, scene[:, back + 2 : back + 12, 60:180]
    )
    scene[:, back + 14 : back + 17, :] = 100
    scene[:, back + 30 : back + 33, :] = 100
    scene[:, back + 14 : back + 33, :3] = 100
    if touching:
        # A strap 3.6 mm wide from the table to the scalp, which no thinning misses.
        scene[:, back - 3 : back + 15, 118:122] = 50
    return scene


@pytest.mark.parametrize("touching", [False, True])
def test_the_table_is_not_the_head(touching: bool) -> None:
    alone = find_head(ellipse_head(SHAPE, SPACING, (110.0, 119.5)), SPACING)
    scene = find_head(with_table(ellipse_head(SHAPE, SPACING, (110.0, 119.5)), touching=touching), SPACING)
    assert scene.found
    assert scene.center == alone.center
    np.testing.assert_allclose(scene.area_cm2, alone.area_cm2, rtol=0.02)
    np.testing.assert_allclose(scene.percentiles[:, 2], alone.percentiles[:, 2], atol=1)
    assert scene.brain_mean == alone.brain_mean


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((5.0, 0.9, 0.9), SHAPE), ((0.6, 0.9, 0.9), (40, 260, 240)), ((10.0, 0.45, 0.45), (3, 500, 420)),
     ((5.0, 0.5, 1.0), (4, 420, 200)), ((5.0, 3.0, 2.5), (8, 80, 76))],
)  # fmt: skip
def test_center_and_area_of_ellipses(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    middle = (shape[1] / 2 + 3.3, shape[2] / 2 - 5.6)
    head = find_head(ellipse_head(shape, spacing, middle), spacing)
    assert head.found
    for found, wanted, size in zip(head.center, middle, spacing[1:], strict=True):
        assert abs(found - wanted) * size <= max(2.0, size)
    area = np.pi * HEAD_MM[0] * HEAD_MM[1] / 100
    assert head.area_cm2.shape == shape[:1]
    # Erosion takes a rim of one thinned pixel off.
    np.testing.assert_allclose(head.area_cm2, area, rtol=0.09)
    assert (head.brain_mean, head.brain_sd) == (35.0, 0.0)


def test_thinning_does_not_shift_the_center() -> None:
    """A head in the very middle, in images whose thinned pixels lie evenly about it."""
    step = max(1, round(THINNING_MM / 0.5))
    sizes = [size for size in range(401, 415) if (size - 1) % step % 2 == 0]
    assert len({(size - 1) % step for size in sizes}) > 1
    for size in sizes:
        head = find_head(ellipse_head((2, size, size), (5.0, 0.5, 0.5)), (5.0, 0.5, 0.5))
        assert head.center == ((size - 1) / 2, (size - 1) / 2)


def test_one_slice_has_a_head() -> None:
    head = find_head(ellipse_head((1, 260, 240), SPACING), SPACING)
    assert head.found
    assert head.center == pytest.approx((129.5, 119.5), abs=1.2)
    assert head.brain_mean == 35.0


def test_percentiles_are_those_of_the_head_and_minus_1024_without_one() -> None:
    hu = ellipse_head(SHAPE, SPACING)
    hu[0] = -1000
    hu[1, 120:140, 110:130] = 70
    head = find_head(hu, SPACING)
    assert head.percentiles.shape == (6, len(PERCENTILES))
    assert (head.percentiles[0] == -1024).all()
    assert head.area_cm2[0] == 0
    assert (head.area_cm2[1:] > 150).all()
    # More than half is brain, bone lies above the 90th percentile, scalp below the first tenth.
    np.testing.assert_array_equal(head.percentiles[2], [20, 20, 35, 1000, 1000])
    assert (np.diff(head.percentiles, axis=1) >= 0).all()


@pytest.mark.parametrize(
    "hu",
    [np.full((5, 64, 64), 40), np.full((5, 64, 64), -1000), np.zeros((5, 64, 64)), np.full((1, 1, 1), 40),
     np.full((3, 2, 2), 40)],
    ids=["all tissue in a small field", "air", "water", "one voxel", "two pixels a side"],
)  # fmt: skip
def test_what_is_found_in_constant_images(hu: np.ndarray) -> None:
    """Nothing in air or in too little; a block of tissue has the size of a head, which other checks must judge."""
    head = find_head(hu.astype(np.int16), (5.0, 1.0, 1.0))
    assert head.found == bool(hu.size > 1000 and (hu > -200).all())
    assert head.center == pytest.approx(((hu.shape[1] - 1) / 2, (hu.shape[2] - 1) / 2), abs=1.0)


def test_noisy_air_and_a_phone_on_the_table_are_no_head() -> None:
    hu = np.random.default_rng(0).normal(-1000, 60, (6, 200, 200)).astype(np.int16)
    head = find_head(hu, SPACING)
    assert not head.found
    assert np.isnan(head.brain_mean)
    assert np.isnan(head.brain_sd)
    hu[2:4, 50:60, 50:65] = 200
    assert not find_head(hu, SPACING).found


def test_without_a_skull_the_soft_tissue_is_centred() -> None:
    hu = np.minimum(ellipse_head(SHAPE, SPACING, (100.0, 130.0)), 60).astype(np.int16)
    head = find_head(hu, SPACING)
    assert head.found
    assert head.center == pytest.approx((100.0, 130.0), abs=2.2)


@pytest.mark.parametrize("index", [1, 2])
def test_brain_of_a_generated_patient(index: int) -> None:
    """Against the same definition with SciPy on every pixel, not on thinned ones."""
    phantom = patient(index)
    orientation = Orientation.of(phantom.affine)
    hu = orientation.to_canonical(phantom.hu)
    head = find_head(hu, orientation.spacing_mm)
    cross = ndimage.generate_binary_structure(2, 1)[np.newaxis]
    tissue = ndimage.binary_erosion((hu > 0) & (hu < 80), cross)
    labels, _ = ndimage.label(tissue)
    brain = hu[labels == np.bincount(labels.ravel())[1:].argmax() + 1]
    assert head.found
    assert 20 < head.brain_mean < 45
    assert head.brain_mean == pytest.approx(brain.mean(), abs=1.0)
    assert head.brain_sd == pytest.approx(brain.std(), abs=1.0)


def test_padding_moves_the_center_along_and_changes_nothing_else() -> None:
    hu = ellipse_head((4, 230, 200), SPACING)
    padded = np.pad(hu, ((0, 0), (30, 4), (0, 20)), constant_values=-1000)
    plain, moved = find_head(hu, SPACING), find_head(padded, SPACING)
    assert np.subtract(moved.center, plain.center) == pytest.approx((30, 0), abs=2.1)
    np.testing.assert_allclose(moved.area_cm2, plain.area_cm2, rtol=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.float32])
def test_any_storage_of_the_values_will_do(dtype: type) -> None:
    """A scan whose values are all positive, such as one cut to a brain window, is judged, not wrapped round."""
    hu = np.clip(ellipse_head(SHAPE, SPACING), 0, 100)
    assert find_head(hu.astype(dtype), SPACING).brain_mean == find_head(hu, SPACING).brain_mean


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 500])
def test_percentiles_are_those_of_numpy(count: int, dtype: str) -> None:
    values = np.random.default_rng(count).normal(30, 300, count).astype(dtype)
    np.testing.assert_allclose(_percentiles(values), np.percentile(values.astype(float), PERCENTILES), atol=1e-9)
