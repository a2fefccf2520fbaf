"""Orientation and resampling, against worlds whose coordinates are known and integrals worked out the slow way."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so
from scipy import ndimage

from components.imaging.geometry import AIR_HU, Geometry, Orientation
from tests.imaging.scans import AXIS_CODES, dice, lps_affine, rotated, stored_as

SPACING = (5.0, 0.75, 0.5)
SHAPE = (4, 6, 5)
AFFINES = {
    "straight": lps_affine(SPACING),
    "oblique 10": rotated(lps_affine(SPACING), (10, 0, 0)),
    "oblique 30": rotated(lps_affine(SPACING), (0, -30, 0)),
    "oblique all": rotated(lps_affine(SPACING), (20, 15, -25)),
    "tilted": lps_affine(SPACING, tilt_degrees=25),
    "tilted and oblique": rotated(lps_affine(SPACING, tilt_degrees=-20), (5, 10, 15)),
}


def numbered() -> np.ndarray:
    """Canonical voxels, all different: of shape (slices, rows, columns)."""
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def geometry(
    native: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    *,
    size: int,
    grid_mm: float,
    center: tuple[float, float] | None = None,
) -> Geometry:
    """A grid at the middle of the scan unless said otherwise."""
    middle = center or ((native[1] - 1) / 2, (native[2] - 1) / 2)
    return Geometry(native, spacing_mm, middle, size, grid_mm)


# --- orientation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_every_storage_order_becomes_the_same_array_and_goes_back(affine: np.ndarray) -> None:
    for codes in AXIS_CODES:
        stored, stored_affine = stored_as(numbered().transpose(2, 1, 0), affine, codes)
        orientation = Orientation.of(stored_affine)
        assert orientation.codes == codes
        np.testing.assert_array_equal(orientation.to_canonical(stored), numbered(), codes)
        np.testing.assert_array_equal(orientation.to_stored(numbered()), stored, codes)
        assert orientation.spacing_mm == Orientation.of(affine).spacing_mm, codes
        assert np.shares_memory(orientation.to_canonical(stored), stored), codes


@pytest.mark.parametrize("codes", AXIS_CODES)
def test_rows_run_to_the_back_columns_to_the_left_and_slices_up(codes: str) -> None:
    """Voxels that hold their own world coordinates say which way a canonical axis runs."""
    letters = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine, shape, spacing = np.eye(4), [0, 0, 0], (0.5, 0.75, 5.0)
    affine[:3, :3] = 0
    for axis, letter in enumerate(codes):
        world, sign = letters[letter]
        affine[world, axis] = sign * spacing[world]
        shape[axis] = (5, 6, 4)[world]
    index = np.stack([*np.indices(shape), np.ones(shape)])
    x, y, z = np.tensordot(affine, index, 1)[:3]
    orientation = Orientation.of(affine)
    assert orientation.spacing_mm == SPACING
    x, y, z = (orientation.to_canonical(part) for part in (x, y, z))
    assert x.shape == SHAPE
    assert (np.diff(z, axis=0) == 5.0).all()
    assert (np.diff(y, axis=1) == -0.75).all()
    assert (np.diff(x, axis=2) == -0.5).all()


def test_an_oblique_scan_keeps_its_spacing() -> None:
    for name in ("oblique 10", "oblique 30", "oblique all"):
        assert Orientation.of(AFFINES[name]).spacing_mm == pytest.approx(SPACING, abs=1e-5)


def test_under_gantry_tilt_the_distance_across_slices_counts() -> None:
    """Slices 5 mm apart, each shifted along itself: the volume of a voxel is that of the box, not of its long edge."""
    tilted = AFFINES["tilted"]
    assert np.linalg.norm(tilted[:3, 2]) == pytest.approx(5.0 / np.cos(np.radians(25)))
    assert Orientation.of(tilted).spacing_mm == pytest.approx(SPACING, abs=1e-5)
    assert Orientation.of(AFFINES["tilted and oblique"]).spacing_mm == pytest.approx(SPACING, abs=1e-5)


def test_voxel_volume() -> None:
    assert geometry((10, 20, 30), SPACING, size=8, grid_mm=1.0).voxel_ml == pytest.approx(5 * 0.75 * 0.5 / 1000)


# --- to the grid ----------------------------------------------------------------------------------------------


def test_halving_takes_the_mean_of_four() -> None:
    native = np.array([[[1, 3, 10, 20], [5, 7, 30, 40], [0, 0, -8, 8], [0, 4, 8, -8]]], np.int16)
    grid = geometry((1, 4, 4), (5, 1, 1), size=2, grid_mm=2.0).to_grid(native, outside=0)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(grid, [[[4, 25], [1, 0]]], atol=1e-5)


def test_three_pixels_onto_two() -> None:
    """Grid pixels of 1.5: the first covers pixel 0 and half of pixel 1."""
    native = np.array([[[3.0, 6.0, 12.0]] * 3], np.float32)
    grid = geometry((1, 3, 3), (5, 1, 1), size=2, grid_mm=1.5).to_grid(native, outside=0)
    np.testing.assert_allclose(grid, [[[(3 + 3) / 1.5, (3 + 12) / 1.5]] * 2], rtol=1e-6)


def test_same_spacing_is_identity_and_half_a_pixel_of_shift_interpolates() -> None:
    native = np.arange(16, dtype=np.float32).reshape(1, 4, 4) ** 2
    np.testing.assert_allclose(geometry((1, 4, 4), (5, 1, 1), size=4, grid_mm=1.0).to_grid(native, 0), native)
    shifted = geometry((1, 4, 4), (5, 1, 1), size=2, grid_mm=1.0, center=(1.5, 2.0)).to_grid(native, 0)
    np.testing.assert_allclose(shifted, (native[:, 1:3, 1:3] + native[:, 1:3, 2:4]) / 2, rtol=1e-6)


def test_a_finer_grid_interpolates_linearly() -> None:
    native = np.array([[[0, 10], [20, 30]]], np.float32)
    grid = geometry((1, 2, 2), (5, 1, 1), size=3, grid_mm=0.5).to_grid(native, outside=0)
    np.testing.assert_allclose(grid, [[[0, 5, 10], [10, 15, 20], [20, 25, 30]]], atol=1e-5)


def test_the_two_axes_do_not_mix() -> None:
    """Rows of 0.5 mm are averaged in pairs while columns of 2 mm are interpolated."""
    native = np.array([[[0, 8], [4, 12], [10, 2], [20, 4]]], np.float32)
    grid = geometry((1, 4, 2), (5, 0.5, 2.0), size=2, grid_mm=1.0).to_grid(native, outside=0)
    rows = np.array([[2, 10], [15, 3]])
    np.testing.assert_allclose(grid[0], np.stack([rows @ [0.75, 0.25], rows @ [0.25, 0.75]], axis=1), rtol=1e-6)


def overlap_integral(native: np.ndarray, where: Geometry, outside: float) -> np.ndarray:
    """The same by definition: every native pixel against every grid pixel, the rest of the area is outside."""
    weights = []
    for axis in (1, 2):
        step = where.grid_spacing_mm / where.spacing_mm[axis]
        middles = where.grid_center[axis - 1] + (np.arange(where.grid_size) - (where.grid_size - 1) / 2) * step
        pixels = np.arange(where.native_shape[axis])
        high = np.minimum.outer(middles + step / 2, pixels + 0.5)
        low = np.maximum.outer(middles - step / 2, pixels - 0.5)
        weights.append(np.maximum(high - low, 0) / step)
    inside = np.outer(weights[0].sum(axis=1), weights[1].sum(axis=1))
    return np.einsum("gr,nrc,hc->ngh", weights[0], native, weights[1]) + outside * (1 - inside)


@pytest.mark.parametrize(
    ("native", "spacing", "size", "grid_mm", "center"),
    [
        ((2, 40, 40), (5, 0.45, 0.45), 20, 0.9, None),
        ((2, 37, 41), (5, 0.43, 0.52), 24, 0.9, (17.3, 22.9)),
        ((1, 30, 30), (5, 0.9, 0.9), 16, 0.9, (14.2, 15.7)),
        ((1, 50, 20), (0.6, 0.3, 0.85), 16, 0.9, (30.1, 4.4)),  # partly beside the scan
        ((1, 8, 8), (10, 0.7, 0.7), 32, 1.0, None),  # smaller than the grid
        ((1, 64, 64), (10, 0.3, 0.2), 8, 1.1, (20.0, 40.0)),  # much larger, thinned more than threefold
        ((1, 1, 1), (5, 0.5, 0.5), 3, 1.0, None),
        ((1, 12, 12), (5, 0.5, 0.5), 8, 1.0, (400.0, 400.0)),  # nothing in common
    ],
)
def test_area_weights_equal_the_overlap_integral(
    native: tuple[int, int, int],
    spacing: tuple[float, float, float],
    size: int,
    grid_mm: float,
    center: tuple[float, float] | None,
) -> None:
    hu = np.random.default_rng(0).integers(-1000, 2000, native).astype(np.int16)
    where = geometry(native, spacing, size=size, grid_mm=grid_mm, center=center)
    grid = where.to_grid(hu, outside=AIR_HU)
    assert grid.shape == (native[0], size, size)
    np.testing.assert_allclose(grid, overlap_integral(hu, where, AIR_HU), atol=0.01)


def test_the_integral_above_air_is_preserved() -> None:
    hu = np.random.default_rng(1).integers(-1000, 2000, (2, 61, 47)).astype(np.int16)
    where = geometry((2, 61, 47), (5, 0.43, 0.57), size=32, grid_mm=0.97, center=(29.4, 24.1))
    grid = where.to_grid(hu, outside=AIR_HU)
    wanted = (hu.astype(np.float64) - AIR_HU).sum(axis=(1, 2)) * 0.43 * 0.57
    np.testing.assert_allclose((grid.astype(np.float64) - AIR_HU).sum(axis=(1, 2)) * 0.97**2, wanted, rtol=1e-5)


def test_beside_a_small_scan_lies_air_and_of_a_large_one_the_middle_is_taken() -> None:
    small = geometry((1, 4, 6), (5, 1, 1), size=10, grid_mm=1.0).to_grid(np.full((1, 4, 6), 40, np.int16), AIR_HU)[0]
    inside = np.zeros((10, 10), bool)
    inside[3:7, 2:8] = True
    np.testing.assert_allclose(small[inside], 40, atol=1e-3)
    np.testing.assert_allclose(small[~inside], AIR_HU, atol=1e-3)
    native = np.random.default_rng(2).integers(0, 99, (1, 20, 24)).astype(np.int16)
    large = geometry((1, 20, 24), (5, 1, 1), size=4, grid_mm=1.0).to_grid(native, AIR_HU)
    np.testing.assert_allclose(large, native[:, 8:12, 10:14], atol=1e-4)


def by_sitk(image: np.ndarray, spacing: tuple[float, float], target: tuple[int, int], origin: tuple[float, float],
            target_mm: tuple[float, float]) -> np.ndarray:  # fmt: skip
    """SimpleITK's linear interpolation of one slice; tuples are rows, columns; origins relative to pixel 0."""
    source = sitk.GetImageFromArray(image.astype(np.float64))
    source.SetSpacing(spacing[::-1])
    return sitk.GetArrayFromImage(
        sitk.Resample(source, target[::-1], sitk.Transform(), sitk.sitkLinear, origin[::-1], target_mm[::-1],
                      (1.0, 0.0, 0.0, 1.0), float("nan"))
    )  # fmt: skip


def test_a_finer_grid_agrees_with_simpleitk() -> None:
    native = np.random.default_rng(3).standard_normal((3, 21, 17)).astype(np.float32) * 100
    where = geometry((3, 21, 17), (5, 1.3, 1.1), size=20, grid_mm=0.6, center=(10.4, 7.7))
    origin = (10.4 * 1.3 - 9.5 * 0.6, 7.7 * 1.1 - 9.5 * 0.6)
    for plane, grid in zip(native, where.to_grid(native, outside=0), strict=True):
        np.testing.assert_allclose(grid, by_sitk(plane, (1.3, 1.1), (20, 20), origin, (0.6, 0.6)), atol=1e-3)


def test_of_a_smooth_image_area_means_agree_with_simpleitk() -> None:
    """Where the image hardly bends within a grid pixel, its mean is its value in the middle."""
    native = ndimage.gaussian_filter(np.random.default_rng(4).standard_normal((1, 120, 100)), (0, 8, 8)) * 1000
    where = geometry((1, 120, 100), (5, 0.45, 0.5), size=40, grid_mm=0.9, center=(61.2, 48.9))
    origin = (61.2 * 0.45 - 19.5 * 0.9, 48.9 * 0.5 - 19.5 * 0.9)
    wanted = by_sitk(native[0], (0.45, 0.5), (40, 40), origin, (0.9, 0.9))
    np.testing.assert_allclose(where.to_grid(native, outside=0)[0], wanted, atol=0.01 * np.ptp(wanted))


# --- and back -------------------------------------------------------------------------------------------------


def test_back_on_the_native_grid_agrees_with_simpleitk() -> None:
    where = geometry((2, 50, 44), (5, 0.5, 0.6), size=20, grid_mm=0.9, center=(25.3, 20.1))
    grid = np.random.default_rng(5).random((2, 20, 20)).astype(np.float32)
    native = where.to_native(grid, slice(0, 50), slice(0, 44))
    origin = (-25.3 * 0.5 + 9.5 * 0.9, -20.1 * 0.6 + 9.5 * 0.9)
    for plane, found in zip(grid, native, strict=True):
        wanted = by_sitk(plane, (0.9, 0.9), (50, 44), origin, (0.5, 0.6))
        known = np.isfinite(wanted)
        assert 0.3 < known.mean() < 1
        np.testing.assert_allclose(found[known], wanted[known], atol=1e-5)
        # Farther than half a grid pixel from the outermost centres nothing is known.
        assert (found[~ndimage.binary_dilation(known, iterations=2)] == 0).all()


def test_a_part_of_the_way_back_is_the_part_of_the_whole() -> None:
    where = geometry((2, 50, 44), (5, 0.5, 0.6), size=20, grid_mm=0.9)
    grid = np.random.default_rng(6).random((2, 20, 20)).astype(np.float32)
    whole = where.to_native(grid, slice(0, 50), slice(0, 44))
    np.testing.assert_array_equal(where.to_native(grid, slice(13, 29), slice(7, 8)), whole[:, 13:29, 7:8])
    assert where.to_native(grid, slice(5, 5), slice(0, 44)).shape == (2, 0, 44)


@pytest.mark.parametrize("grid_mm", [0.3, 0.9, 2.0])
@pytest.mark.parametrize("center", [(24.5, 21.5), (3.2, 40.6), (-30.0, 21.5)])
def test_the_native_window_holds_all_that_grid_pixels_reach(grid_mm: float, center: tuple[float, float]) -> None:
    where = geometry((1, 50, 44), (5, 0.5, 0.6), size=16, grid_mm=grid_mm, center=center)
    for first, last in ((0, 1), (0, 16), (5, 9), (15, 16)):
        grid = np.zeros((1, 16, 16), np.float32)
        grid[:, first:last, first:last] = 1
        whole = where.to_native(grid, slice(0, 50), slice(0, 44))
        rows, columns = where.native_window((first, last), (first, last))
        beside = np.ones(whole.shape, bool)
        beside[:, rows, columns] = False
        assert (whole[beside] == 0).all()


def blobs(shape: tuple[int, int, int]) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(8).standard_normal(shape), (0.5, 6, 6))
    return np.asarray(field > np.quantile(field, 0.9))


@pytest.mark.parametrize(
    ("spacing", "grid_mm", "least"),
    [((5.0, 0.45, 0.45), 0.45, 1.0), ((5.0, 0.45, 0.45), 0.9, 0.97), ((0.6, 0.5, 0.4), 0.9, 0.97),
     ((10.0, 0.9, 0.9), 0.6, 0.95)],
)  # fmt: skip
def test_a_mask_survives_the_way_there_and_back(
    spacing: tuple[float, float, float], grid_mm: float, least: float
) -> None:
    mask = blobs((4, 120, 110))
    size = int(np.ceil(120 * max(spacing[1:]) / grid_mm)) + 4
    where = geometry((4, 120, 110), spacing, size=size, grid_mm=grid_mm)
    coverage = where.to_grid(mask, outside=0)
    assert coverage.min() >= 0
    assert coverage.max() <= 1 + 1e-6
    back = where.to_native(coverage, slice(0, 120), slice(0, 110)) >= 0.5
    assert dice(back, mask) >= least


def test_coverage_preserves_the_area_of_a_lesion() -> None:
    mask = blobs((3, 100, 90))
    where = geometry((3, 100, 90), (5, 0.43, 0.51), size=64, grid_mm=0.9, center=(48.2, 45.9))
    areas = where.to_grid(mask, outside=0).astype(np.float64).sum(axis=(1, 2)) * 0.9**2
    np.testing.assert_allclose(areas, mask.sum(axis=(1, 2)) * 0.43 * 0.51, rtol=1e-5)
