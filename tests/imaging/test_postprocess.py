"""From probabilities to masks: cutting, dropping specks, and packing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from components.imaging.errors import IchError
from components.imaging.geometry import Geometry
from components.imaging.postprocess import (
    Postprocess,
    count_marked,
    near_lesion,
    outline,
    own_hu,
    pack_mask,
    quantise,
    relevant,
    unpack_mask,
)
from tests.models import postprocess

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
    mask = outline(quantise(on_grid(native)), SAME, postprocess(threshold))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.rint(native * 255) >= threshold * 255)


def test_nothing_gives_nothing_and_everything_everything() -> None:
    assert not outline(np.zeros((5, 32, 32), np.uint8), SAME, postprocess(min_component_ml=1)).any()
    full = outline(np.full((5, 32, 32), 255, np.uint8), SAME, postprocess(0.99, min_component_ml=1))
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
        np.testing.assert_array_equal(outline(quantised, geometry, postprocess()), whole)


def test_specks_are_dropped_by_volume() -> None:
    """Components of 1, 2 and 3 voxels of 5 microlitres; touching at a corner counts as one."""
    native = np.zeros(SAME.native_shape, np.float32)
    native[0, 2, 2] = 1
    native[1, 10, 10] = native[2, 11, 11] = 1
    native[4, 20, 3:6] = 1
    counts = {0.0: 6, 0.005: 6, 0.0051: 5, 0.010: 5, 0.0101: 3, 0.015: 3, 0.016: 0}
    for smallest, voxels in counts.items():
        mask = outline(quantise(on_grid(native)), SAME, postprocess(min_component_ml=smallest))
        assert mask.sum() == voxels, smallest
    kept = outline(quantise(on_grid(native)), SAME, postprocess(min_component_ml=0.0101))
    assert kept[4, 20, 3:6].all()


def test_dropping_specks_agrees_with_scipy() -> None:
    native = np.random.default_rng(2).random(SAME.native_shape) ** 6
    mask = outline(quantise(on_grid(native)), SAME, postprocess(0.3))
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    wanted = mask & (np.bincount(labels.ravel())[labels] >= 6)
    assert 0 < wanted.sum() < mask.sum()
    found = outline(quantise(on_grid(native)), SAME, postprocess(0.3, min_component_ml=0.03))
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


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "core": {"core_threshold": 0.9},
    "size": {"min_component_ml": 0.04},
    "holes": {"fill_holes": True},
    "hu": {"hu_range": (-100.0, 110.0)},
    "head": {"head_only": True},
    "all": {"core_threshold": 0.8, "min_component_ml": 0.012, "fill_holes": True, "hu_range": (-200.0, 120.0),
            "head_only": True},
}  # fmt: skip
INSIDE = np.zeros((4, 24, 24), bool)
"""A skull that cuts through components."""
INSIDE[:, 2:21, 3:13] = True


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with holes, cores and specks, and HU, of shape (4, 24, 24)."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((4, 24, 24)), (0.3, 1, 1))
    hu = rng.integers(-1024, 1100, smooth.shape).astype("<i2")
    return quantise(1.4 * ((smooth - smooth.min()) / np.ptp(smooth)) ** 2), hu


def by_the_book(quantised: np.ndarray, hu: np.ndarray, geometry: Geometry, post: Postprocess) -> np.ndarray:
    """The definition step by step on the whole native grid, with SciPy and loops."""
    _, rows, columns = geometry.native_shape
    values = geometry.to_native(quantised, slice(0, rows), slice(0, columns))
    reached = values >= np.float32(post.threshold * 255)
    whole = np.stack([ndimage.binary_fill_holes(plane) for plane in reached]) if post.fill_holes else reached
    labels, count = ndimage.label(whole, np.ones((3, 3, 3)))
    nearest = []
    for axis in (1, 2):
        pixels = np.arange(geometry.grid_size) - (geometry.grid_size - 1) / 2
        places = geometry.grid_center[axis - 1] + pixels * geometry.grid_spacing_mm / geometry.spacing_mm[axis]
        nearest.append([np.abs(places - index).argmin() for index in range(geometry.native_shape[axis])])
    mask = np.zeros(geometry.native_shape, bool)
    for label in range(1, count + 1):
        component = labels == label
        below = [int(hu[z, nearest[0][r], nearest[1][c]]) for z, r, c in np.argwhere(component & reached)]
        good = values[component].max() >= post.core_threshold * 255
        good &= component.sum() * geometry.voxel_ml >= post.min_component_ml
        if post.head_only:
            within = [INSIDE[z, nearest[0][r], nearest[1][c]] for z, r, c in np.argwhere(component & reached)]
            good &= 2 * sum(within) >= len(within)
        if post.hu_range:
            good &= post.hu_range[0] <= sum(below) / len(below) <= post.hu_range[1]
        mask |= component & bool(good)
    return mask


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("grid_mm", [0.5, 0.9, 1.8])
@pytest.mark.parametrize("threshold", [0.35, 0.5])
def test_every_setting_is_as_defined_and_needs_the_relevant_pixels_only(
    threshold: float, grid_mm: float, name: str
) -> None:
    """Also where the grid cuts the lesion and where the scan does."""
    post = postprocess(threshold, **SETTINGS[name])
    geometry = Geometry((4, 40, 36), (5.0, 0.7, 0.71), (20.2, 17.9), 24, grid_mm)
    changed = 0
    for seed in range(6):
        quantised, hu = blobs(seed)
        near = near_lesion(quantised, threshold)
        assert not near.all()
        wanted = by_the_book(quantised, hu, geometry, post)
        np.testing.assert_array_equal(outline(quantised, geometry, post, hu, INSIDE), wanted)
        kept = [relevant(values, near) for values in (quantised, hu, INSIDE)]
        np.testing.assert_array_equal(outline(kept[0], geometry, post, kept[1], kept[2]), wanted)
        changed += int((wanted != outline(quantised, geometry, postprocess(threshold))).sum())
    assert (changed > 0) == (name != "plain")


@settings(max_examples=80, derandomize=True, deadline=None, database=None)
@given(
    seed=st.integers(0, 999),
    threshold=st.floats(0.05, 0.9),
    core=st.floats(0, 1),
    smallest=st.sampled_from([0.0, 0.005, 0.02]),
    holes=st.booleans(),
    span=st.sampled_from([None, (-100.0, 30.0), (20.0, 110.0)]),
    spacing=st.floats(0.3, 2.5),
    head=st.booleans(),
)
def test_what_is_not_relevant_changes_no_outline(
    seed: int,
    threshold: float,
    core: float,
    smallest: float,
    holes: bool,
    span: tuple[float, float] | None,
    spacing: float,
    head: bool,
) -> None:
    quantised, hu = blobs(seed)
    core = threshold + core * (0.95 - threshold)
    post = postprocess(
        threshold, core_threshold=core, min_component_ml=smallest, fill_holes=holes, hu_range=span,
        head_only=head,
    )  # fmt: skip
    geometry = Geometry((4, 30, 26), (5.0, spacing, 0.8), (14.5, 11.0), 24, 0.9)
    near = near_lesion(quantised, threshold)
    wanted = outline(quantised, geometry, post, hu, INSIDE)
    kept = [relevant(values, near) for values in (quantised, hu, INSIDE)]
    np.testing.assert_array_equal(outline(kept[0], geometry, post, kept[1], kept[2]), wanted)


def test_nothing_is_relevant_where_nothing_reaches_the_threshold() -> None:
    assert not near_lesion(np.full((1, 4, 4), 100, np.uint8), 0.5).any()


def test_a_grid_beside_the_scan_outlines_nothing() -> None:
    beside = Geometry((2, 24, 20), (5.0, 1.0, 1.0), (500.0, 9.5), 32, 1.0)
    assert not outline(np.full((2, 32, 32), 255, np.uint8), beside, postprocess(min_component_ml=1)).any()


def test_a_component_is_kept_whole_if_its_core_is_sure() -> None:
    native = np.zeros(SAME.native_shape, np.float32)
    native[1, 2:6, 2:6] = 0.4
    native[2, 6, 6] = 0.8  # touches it at a corner of the next slice
    native[1, 12:16, 2:6] = 0.6
    native[4, 2:6, 2:6] = 0.4
    found = {core: outline(quantise(on_grid(native)), SAME, postprocess(0.3, core_threshold=core)) for core in
             (0.3, 0.5, 0.7, 0.9)}  # fmt: skip
    assert [int(mask.sum()) for mask in found.values()] == [49, 33, 17, 0]
    assert found[0.7][1, 2:6, 2:6].all()
    assert found[0.7][2, 6, 6]


def test_holes_are_filled_within_slices_and_nowhere_else() -> None:
    native = np.zeros(SAME.native_shape, np.float32)
    native[1, 2:9, 2:9] = 1
    native[1, 3:8, 3:8] = 0  # 25 pixels of a hole
    native[1, 5, 5] = 1  # with an island
    native[2, 2:9, 2:9] = 1
    native[2, 3:8, 3:9] = 0  # open to one side
    native[3, 15, 15:17] = native[3, 16, 14] = native[3, 17, 15:17] = native[3, 16, 17] = 1  # closed by corners
    native[4, :, 0] = native[4, 0, :] = 1
    native[4, -1, :] = 1  # open towards the scan's border
    mask = outline(quantise(on_grid(native)), SAME, postprocess(fill_holes=True))
    assert mask[1, 2:9, 2:9].all()
    assert mask[1].sum() == 49
    np.testing.assert_array_equal(mask[2], native[2] > 0)
    assert mask[3].sum() == 6 + 2
    np.testing.assert_array_equal(mask[4], native[4] > 0)


def test_a_filled_hole_counts_for_the_smallest_volume() -> None:
    native = np.zeros(SAME.native_shape, np.float32)
    native[1, 2:5, 2:5] = 1
    native[1, 3, 3] = 0
    for fill_holes, voxels in ((False, 0), (True, 9)):
        post = postprocess(min_component_ml=0.045, fill_holes=fill_holes)  # 9 voxels of 5 microlitres
        assert outline(quantise(on_grid(native)), SAME, post).sum() == voxels


def test_components_of_the_wrong_hu_are_dropped() -> None:
    """Means by hand: 60, 30 and 90; bounds are within the range."""
    native = np.zeros(SAME.native_shape, np.float32)
    native[1, 2, 2:4] = native[2, 10, 10] = native[3, 15, 15] = 1
    hu = np.full((5, 32, 32), -1024, "<i2")
    hu[1, 6, 8:10] = [40, 80]
    hu[2, 14, 16], hu[3, 19, 21] = 30, 90
    voxels = {(20, 100): 4, (60, 90): 3, (59.5, 60.5): 2, (30, 30.5): 1, (61, 89): 0, None: 4}
    for span, count in voxels.items():
        assert outline(quantise(on_grid(native)), SAME, postprocess(hu_range=span), hu).sum() == count, span
    with pytest.raises(ValueError, match=r"hu_range \[20.0, 100.0\]: the scan's HU must be given"):
        outline(quantise(on_grid(native)), SAME, postprocess(hu_range=(20, 100)))


def test_components_mostly_outside_the_skull_are_dropped_whole() -> None:
    """3, 2 and 1 voxels of 4 inside; one that stays is not cut at the skull, so that none at the inner table is."""
    native = np.zeros(SAME.native_shape, np.float32)
    inside = np.zeros((5, 32, 32), bool)
    for row, within in ((4, 3), (8, 2), (12, 1)):
        native[1, row, 2:6] = 1
        inside[1, row + 4, 8 : 8 + within] = True
    mask = outline(quantise(on_grid(native)), SAME, postprocess(head_only=True), inside=inside)
    assert mask.sum() == 8
    assert mask[1, 4, 2:6].all() and mask[1, 8, 2:6].all()
    with pytest.raises(ValueError, match="head_only: what lies inside the skull must be given"):
        outline(quantise(on_grid(native)), SAME, postprocess(head_only=True))


def test_a_probability_that_is_no_number_is_an_error() -> None:
    with pytest.raises(IchError, match=r"gives 2 of 6 probabilities that are not numbers, wanted 0 to 1"):
        quantise(np.array([[0.1, np.nan, 0.2], [1.0, 0.0, np.nan]], np.float32))
    assert quantise(np.array([np.inf, -np.inf], np.float32)).tolist() == [255, 0]


def test_marked_voxels_are_counted_at_the_nearest_pixel() -> None:
    geometry = Geometry((3, 40, 36), (5.0, 0.7, 0.71), (20.2, 17.9), 24, 1.8)
    rng = np.random.default_rng(3)
    marked, mask = rng.random((3, 24, 24)) < 0.3, rng.random((3, 40, 36)) < 0.4
    mask[1] = False
    places = []
    for axis in (1, 2):
        pixels = geometry.grid_center[axis - 1] + (np.arange(24) - 11.5) * 1.8 / geometry.spacing_mm[axis]
        places.append([int(np.abs(pixels - index).argmin()) for index in range(geometry.native_shape[axis])])
    wanted = sum(bool(marked[z, places[0][r], places[1][c]]) for z, r, c in np.argwhere(mask))
    assert 0 < count_marked(marked, mask, geometry) == wanted < mask.sum()


def test_the_own_slice_is_the_middle_one() -> None:
    planes = np.arange(5 * 16, dtype="<i2").reshape(5, 4, 4) - 30
    np.testing.assert_array_equal(own_hu(planes.tobytes(), 4, 2), planes[2])
    np.testing.assert_array_equal(own_hu(planes[:1].tobytes(), 4, 0), planes[0])


def test_settings_are_written_and_read() -> None:
    post = postprocess(0.4, core_threshold=0.6, min_component_ml=0.3, fill_holes=True, hu_range=[20, 110])
    assert Postprocess.from_dict(json.loads(json.dumps(post.to_dict()))) == post
    assert Postprocess.from_dict({**post.to_dict(), "core_threshold": None, "tune": True}).core_threshold == 0.4
    assert hash(post) == hash(Postprocess.from_dict(post.to_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.0}, "threshold 0.0"),
        ({"core_threshold": 0.4}, "core_threshold 0.4: wanted"),
        ({"core_threshold": 1.0}, "core_threshold 1.0"),
        ({"min_component_ml": -1.0}, "min_component_ml: found -1.0"),
        ({"hu_range": [90, 40]}, r"hu_range: found \[90.0, 40.0\]"),
        ({"hu_range": [90]}, "not enough values"),
        ({"threshold": "much"}, "not supported"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Postprocess.from_dict({**postprocess().to_dict(), **change})


def test_models_from_before_there_was_a_head_mask_have_none() -> None:
    values = postprocess().to_dict()
    assert values.pop("head_only") is False
    assert Postprocess.from_dict(values) == postprocess()


@pytest.mark.parametrize("name", sorted(set(postprocess().to_dict()) - {"head_only"}))
def test_a_missing_setting_is_named(name: str) -> None:
    values = postprocess().to_dict()
    del values[name]
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Postprocess.from_dict(values)
