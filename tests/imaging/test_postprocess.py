"""From probabilities to masks: cutting, dropping specks, and packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from components.imaging.geometry import Geometry
from components.imaging.postprocess import outline, pack_mask, quantise, relevant, unpack_mask

SAME = Geometry((5, 24, 20), (5.0, 1.0, 1.0), (11.5, 9.5), 32, 1.0)
"""A grid with the scan's own pixels: native pixel (r, c) is grid pixel (r + 4, c + 6)."""


def on_grid(native: np.ndarray) -> np.ndarray:
    grid = np.zeros((len(native), 32, 32), np.float32)
    grid[:, 4:28, 6:26] = native
    return grid


def test_quantising_rounds_and_cuts() -> None:
    found = quantise(np.array([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 7.0]))
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.63, 0.9])
def test_on_the_native_grid_the_outline_is_the_threshold(threshold: float) -> None:
    native = np.random.default_rng(0).random(SAME.native_shape).astype(np.float32)
    mask = outline(quantise(on_grid(native)), SAME, threshold=threshold)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.rint(native * 255) >= threshold * 255)


def test_nothing_gives_nothing_and_everything_everything() -> None:
    assert not outline(np.zeros((5, 32, 32), np.uint8), SAME, threshold=0.5, min_component_ml=1).any()
    full = outline(np.full((5, 32, 32), 255, np.uint8), SAME, threshold=0.99, min_component_ml=1)
    assert full.shape == SAME.native_shape
    assert full.all()


@pytest.mark.parametrize("spacing", [(5.0, 0.45, 0.6), (5.0, 1.7, 1.3)], ids=["finer", "coarser"])
def test_the_outline_in_a_window_is_that_of_the_whole(spacing: tuple[float, float, float]) -> None:
    """Working on the part that can hold lesion only must not change it, at the scan's borders too."""
    geometry = Geometry((4, 60, 50), spacing, (27.7, 26.1), 32, 1.1)
    field = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((4, 32, 32)), (0, 2, 2)) * 4
    for shown in ((slice(0, 32), slice(0, 32)), (slice(0, 9), slice(20, 32)), (slice(12, 14), slice(5, 6))):
        part = np.zeros((4, 32, 32))
        part[1:3, *shown] = field[1:3, *shown]
        quantised = quantise(part)
        whole = geometry.to_native(quantised, slice(0, 60), slice(0, 50)) >= 127.5
        np.testing.assert_array_equal(outline(quantised, geometry, threshold=0.5), whole)


def test_specks_are_dropped_by_volume() -> None:
    """Components of 1, 2 and 3 voxels of 5 microlitres; touching at a corner counts as one."""
    native = np.zeros(SAME.native_shape, np.float32)
    native[0, 2, 2] = 1
    native[1, 10, 10] = native[2, 11, 11] = 1
    native[4, 20, 3:6] = 1
    counts = {0.0: 6, 0.005: 6, 0.0051: 5, 0.010: 5, 0.0101: 3, 0.015: 3, 0.016: 0}
    for smallest, voxels in counts.items():
        mask = outline(quantise(on_grid(native)), SAME, threshold=0.5, min_component_ml=smallest)
        assert mask.sum() == voxels, smallest
    kept = outline(quantise(on_grid(native)), SAME, threshold=0.5, min_component_ml=0.0101)
    assert kept[4, 20, 3:6].all()


def test_dropping_specks_agrees_with_scipy() -> None:
    native = np.random.default_rng(2).random(SAME.native_shape) ** 6
    mask = outline(quantise(on_grid(native)), SAME, threshold=0.3)
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    wanted = mask & (np.bincount(labels.ravel())[labels] >= 6)
    assert 0 < wanted.sum() < mask.sum()
    found = outline(quantise(on_grid(native)), SAME, threshold=0.3, min_component_ml=0.03)
    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_packing_is_undone_by_unpacking(rows: int, columns: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.3
    packed = pack_mask(mask)
    assert isinstance(packed, bytes)
    np.testing.assert_array_equal(unpack_mask(packed, rows, columns), mask)


def test_an_empty_mask_packs_into_few_bytes() -> None:
    assert len(pack_mask(np.zeros((512, 512), bool))) < 100
    assert not unpack_mask(pack_mask(np.zeros((3, 5), bool)), 3, 5).any()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("grid_mm", [0.5, 0.9, 1.8])
def test_what_is_not_relevant_changes_no_outline(threshold: float, grid_mm: float) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(3).random((4, 24, 24)), (0, 1.5, 1.5))
    quantised = quantise((smooth - smooth.min()) / np.ptp(smooth))
    geometry = Geometry((4, 40, 36), (5.0, 0.7, 0.7), (20.2, 17.9), 24, grid_mm)
    kept = relevant(quantised, threshold)
    assert np.count_nonzero(kept) < np.count_nonzero(quantised)
    wanted = outline(quantised, geometry, threshold=threshold)
    assert wanted.any()
    assert np.array_equal(outline(kept, geometry, threshold=threshold), wanted)


def test_nothing_is_relevant_where_nothing_reaches_the_threshold() -> None:
    assert not relevant(np.full((1, 4, 4), 100, np.uint8), 0.5).any()
