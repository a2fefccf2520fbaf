"""One case's examples: parsed back through the curated schema, scalars worked out by hand, masks that do not fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

import schema
from components.imaging.errors import ScanError
from components.imaging.postprocess import unpack_mask
from components.nifti_example_gen.examples import CaseRecord, read_case, slice_examples
from components.nifti_example_gen.layout import Case
from schema import features as f
from tests.imaging.scans import ellipse_head, lps_affine, rotated, save, stored_as, to_lps

SPACING = (5.0, 2.0, 2.5)
SHAPE = (6, 100, 72)
AFFINE = rotated(lps_affine(SPACING), (3, -4, 10))
DATA: dict[str, Any] = {"max_voxels": 10_000_000, "min_slices": 1, "lesion_labels": None}
GRID = {"size": 64, "spacing_mm": 4.0, "context_slices": 0}


def lesion() -> np.ndarray:
    """Canonical labels: 12 voxels of label 1 in slice 2, 20 of label 2 in slice 3."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 40:43, 30:34] = 1
    mask[3, 40:44, 30:35] = 2
    return mask


def put(folder: Path, mask: np.ndarray | None = None, affine: np.ndarray = AFFINE, codes: str | None = None) -> Case:
    """A head with blood, and a mask that may be stored otherwise."""
    hu = ellipse_head(SHAPE, SPACING, (50.5, 34.0))
    hu[lesion() > 0] = 70
    stored = to_lps(lesion() if mask is None else mask)
    if codes is not None:
        stored, affine = stored_as(stored, affine, codes)
    return Case("c1", "p1", save(folder / "image.nii.gz", to_lps(hu), AFFINE), save(folder / "m.nii", stored, affine))


def ingest(case: Case, **options: Any) -> tuple[list[dict[str, Any]], CaseRecord, Any]:
    """Parsed examples, the record, and the scan."""
    grid = {**GRID, **{key: value for key, value in options.items() if key in GRID}}
    data = {**DATA, **{key: value for key, value in options.items() if key in DATA}}
    ingested = read_case(case, data, grid)
    scan = ingested.scan
    records, record = slice_examples(case, "train", ingested, grid["context_slices"])
    parsed = tf.io.parse_example(records, feature_spec())
    rows = [{name: values[index].numpy() for name, values in parsed.items()} for index in range(len(records))]
    return rows, record, scan


def feature_spec() -> dict[str, Any]:
    """What TFX derives from the curated schema."""
    text = Path(str(schema.__file__)).with_name("schema.pbtxt").read_text()
    parsed = text_format.Parse(text, schema_pb2.Schema())
    spec: dict[str, Any] = tft.tf_metadata.schema_utils.schema_as_feature_spec(parsed).feature_spec
    return spec


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], CaseRecord, Any]:
    return ingest(put(tmp_path_factory.mktemp("one")))


def test_examples_hold_every_feature_of_the_schema_and_no_other(tmp_path: Path) -> None:
    ingested = read_case(put(tmp_path), DATA, GRID)
    for raw in slice_examples(put(tmp_path), "val", ingested, 0)[0]:
        assert set(tf.train.Example.FromString(raw).features.feature) == set(feature_spec())


def test_a_slice_with_and_without_lesion_each(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    rows, record, _ = one
    assert [row[f.SLICE_INDEX] for row in rows] == list(range(6))
    assert [row[f.LESION_PIXELS] for row in rows] == [0, 0, 12, 20, 0, 0]
    for row in rows:
        assert (row[f.CASE_ID], row[f.PATIENT_ID], row[f.ORIENTATION]) == (b"c1", b"p1", b"LPS")
        assert row[f.SLICE_COUNT] == 6
        assert row[f.NATIVE_SHAPE].tolist() == list(SHAPE)
        np.testing.assert_allclose(row[f.SPACING_MM], SPACING, rtol=1e-5)
        assert (row[f.SLICE_SPACING_MM], row[f.PIXEL_SPACING_MM]) == pytest.approx((5.0, 2.0))
        np.testing.assert_allclose(row[f.AFFINE].reshape(4, 4), AFFINE, rtol=1e-5)
        np.testing.assert_allclose(row[f.GRID_CENTER], (50.5, 34.0), atol=1.0)
    assert (record.case_id, record.patient_id, record.split) == ("c1", "p1", "train")
    assert (record.slices, record.lesion_slices, record.size_bin) == (6, 2, "small")


def test_lesion_scalars_by_hand(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    rows, record, _ = one
    # A pixel is 2.0 x 2.5 mm = 0.05 cm², a voxel 25 mm³; 32 voxels are 0.8 ml.
    assert [row[f.LESION_AREA_CM2] for row in rows] == pytest.approx([0, 0, 0.6, 1.0, 0, 0], rel=1e-4)
    assert {round(float(row[f.LESION_VOLUME_ML]), 4) for row in rows} == {0.8}
    assert {row[f.SIZE_BIN] for row in rows} == {b"small"}
    assert record.lesion_ml == pytest.approx(0.8)


def test_head_scalars_are_those_of_the_head(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    rows, _, scan = one
    for index, row in enumerate(rows):
        assert row[f.HEAD_AREA_CM2] == pytest.approx(scan.head.area_cm2[index])
        assert [row[name] for name in f.HEAD_HU_PERCENTILES] == pytest.approx(scan.head.percentiles[index].tolist())
        assert row[f.HEAD_HU_P50] == 35
        assert row[f.BRAIN_HU_MEAN] == pytest.approx(scan.head.brain_mean)
        assert 35 <= row[f.BRAIN_HU_MEAN] < 36
        assert row[f.BRAIN_HU_SD] == pytest.approx(scan.head.brain_sd)


def test_the_record_describes_the_scan_without_pixels(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    rows, record, scan = one
    assert record.spacing_mm == pytest.approx(SPACING, abs=1e-4)
    assert record.native_shape == list(SHAPE)
    assert record.orientation == scan.orientation.codes
    assert record.brain_hu_mean == pytest.approx(scan.head.brain_mean, abs=1e-3)
    assert record.brain_hu_sd == pytest.approx(scan.head.brain_sd, abs=1e-3)
    for name in f.HEAD_HU_PERCENTILES:
        in_head = [float(row[name]) for row in rows if row[f.HEAD_AREA_CM2] > 0]
        assert record.head_hu[name] == pytest.approx(sorted(in_head)[len(in_head) // 2], abs=1.0)


def test_pixels(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    rows, _, scan = one
    for index, row in enumerate(rows):
        image = np.frombuffer(row[f.IMAGE], "<i2").reshape(1, 64, 64)
        np.testing.assert_array_equal(image[0], scan.hu[index])
        coverage = np.frombuffer(row[f.MASK], np.uint8).reshape(64, 64)
        # 255 is a whole grid pixel of 16 mm²: the lesion keeps its area but for rounding.
        assert coverage.sum() / 255 * 0.16 == pytest.approx(float(row[f.LESION_AREA_CM2]), abs=0.02)
        native = unpack_mask(row[f.NATIVE_MASK], *row[f.NATIVE_SHAPE][1:])
        np.testing.assert_array_equal(native, lesion()[index] > 0)


def test_image_and_mask_lie_on_each_other(one: tuple[list[dict[str, Any]], CaseRecord, Any]) -> None:
    row = one[0][3]
    # The middle of the grid, where there is brain and blood only.
    image = np.frombuffer(row[f.IMAGE], "<i2").reshape(64, 64)[20:44, 24:40]
    share = np.frombuffer(row[f.MASK], np.uint8).reshape(64, 64)[20:44, 24:40] / 255
    assert 0 < share.sum() * 0.16 <= 1.02
    np.testing.assert_allclose(image, 35 + share * (70 - 35), atol=0.6)


def test_context_repeats_the_ends(tmp_path: Path) -> None:
    rows, _, scan = ingest(put(tmp_path), context_slices=2)
    for index, slices in {0: [0, 0, 0, 1, 2], 3: [1, 2, 3, 4, 5], 5: [3, 4, 5, 5, 5]}.items():
        image = np.frombuffer(rows[index][f.IMAGE], "<i2").reshape(5, 64, 64)
        np.testing.assert_array_equal(image, scan.hu[slices])


def test_no_lesion(tmp_path: Path) -> None:
    rows, record, _ = ingest(put(tmp_path, np.zeros(SHAPE, np.uint8)))
    assert (record.lesion_slices, record.lesion_ml, record.size_bin) == (0, 0, "none")
    assert {row[f.SIZE_BIN] for row in rows} == {b"none"}
    assert not any(np.frombuffer(row[f.MASK], np.uint8).any() for row in rows)


@pytest.mark.parametrize(
    ("volume_ml", "name"),
    [(0, "none"), (0.01, "small"), (4.99, "small"), (5.0, "medium"), (24.9, "medium"), (25.0, "large"), (900, "large")],
)
def test_size_bins(volume_ml: float, name: str) -> None:
    assert f.size_bin(volume_ml) == name


# --- labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "pixels"), [(None, [12, 20]), ([1], [12, 0]), ([2], [0, 20]), ([1, 2], [12, 20]), ([3], [0, 0])]
)
def test_lesion_labels(tmp_path: Path, labels: list[int] | None, pixels: list[int]) -> None:
    rows, _, _ = ingest(put(tmp_path), lesion_labels=labels)
    assert [row[f.LESION_PIXELS] for row in rows][2:4] == pixels


# --- masks that fit, and those that do not ----------------------------------------------------------------------


@pytest.mark.parametrize("codes", ["RAS", "SLA", "PIR", "AIL"])
def test_a_mask_stored_otherwise_on_the_same_voxels_is_accepted(
    tmp_path: Path, codes: str, one: tuple[list[dict[str, Any]], CaseRecord, Any]
) -> None:
    rows, record, _ = ingest(put(tmp_path, codes=codes))
    assert replace(record, findings=[]) == replace(one[1], findings=[])
    assert [item["code"] for item in record.findings] == [item["code"] for item in one[1].findings]
    assert [row[f.NATIVE_MASK] for row in rows] == [row[f.NATIVE_MASK] for row in one[0]]


def moved(x: float, y: float, z: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += (x, y, z)
    return affine


def refused(case: Case, **options: Any) -> ScanError:
    with pytest.raises(ScanError) as caught:
        read_case(case, {**DATA, **options}, GRID)
    return caught.value


def test_a_mask_elsewhere_is_refused_with_the_distance(tmp_path: Path) -> None:
    error = refused(put(tmp_path, affine=moved(0, 25, 0)))
    assert error.code == "mask-affine"
    assert "25.00 mm away" in str(error)
    assert str(tmp_path / "m.nii") in str(error)


@pytest.mark.parametrize("place", [(0.4, 0, 0), (0, -0.4, 0.2)])
def test_a_mask_moved_by_a_fraction_of_a_voxel_is_accepted(tmp_path: Path, place: tuple[float, float, float]) -> None:
    read_case(put(tmp_path, affine=moved(*place)), DATA, GRID)


MISPLACED: dict[str, Callable[[], np.ndarray]] = {
    "by half a voxel": lambda: moved(1.0, 0, 0),
    "by a slice": lambda: moved(0, 0, 5.0),
    "turned": lambda: rotated(AFFINE, (0, 0, 2)),
    "stretched": lambda: AFFINE @ np.diag([1.02, 1, 1, 1]),
    "mirrored": lambda: AFFINE @ np.array([[-1, 0, 0, SHAPE[2] + 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("affine", MISPLACED.values(), ids=MISPLACED)
def test_a_mask_on_other_voxels_is_refused(tmp_path: Path, affine: Callable[[], np.ndarray]) -> None:
    assert refused(put(tmp_path, affine=affine())).code == "mask-affine"


@pytest.mark.parametrize("cut", [(0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_a_mask_of_another_shape_is_refused(tmp_path: Path, cut: tuple[int, int, int]) -> None:
    part = lesion()[tuple(slice(0, size - less) for size, less in zip(SHAPE, cut, strict=True))]
    error = refused(put(tmp_path, part))
    assert error.code == "mask-shape"
    assert "(72, 100, 6)" in str(error)


def test_a_transposed_mask_is_refused_though_its_voxels_are_as_many(tmp_path: Path) -> None:
    case = put(tmp_path)
    save(case.mask, np.ascontiguousarray(to_lps(lesion()).transpose(1, 0, 2)), AFFINE)
    assert refused(case).code == "mask-shape"


def test_few_slices_and_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    case = put(tmp_path)
    error = refused(case, min_slices=7)
    assert error.code == "few-slices"
    assert "6 slices, wanted at least 7" in str(error)
    assert refused(case, max_voxels=1000).code == "too-large"
    case.mask.write_bytes(case.mask.read_bytes()[:400])
    assert refused(case).code == "truncated"
    case.mask.unlink()
    assert refused(case).code == "missing-file"


def test_the_digest_follows_the_pixels_and_nothing_else(tmp_path: Path) -> None:
    first = ingest(put(tmp_path / "a"))[1]
    again = ingest(put(tmp_path / "b", codes="RAS"))[1]
    other = ingest(put(tmp_path / "c", np.roll(lesion(), 1, axis=1)))[1]
    assert first.digest == again.digest
    assert first.digest != other.digest
    renamed = Case("c2", "p2", tmp_path / "a" / "image.nii.gz", tmp_path / "a" / "m.nii")
    assert ingest(renamed)[1].digest == first.digest
    assert len({len(record.digest) for record in (first, other)}) == 1


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        runs.append(slice_examples(put(tmp_path), "train", read_case(put(tmp_path), DATA, GRID), 1)[0])
    assert runs[0] == runs[1]
    assert all(a != b for a, b in itertools.combinations(runs[0], 2))
