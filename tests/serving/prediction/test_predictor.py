"""A model in this process: what it predicts, measured by hand, and which model is taken."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.imaging.errors import IchError, ScanError, UsageError
from components.imaging.postprocess import outline, quantise
from serving.prediction.predictor import Predictor, find_model
from serving.signatures import BATCH
from tests.cases import SHAPE, Sample, cuboid
from tests.imaging.scans import save
from tests.models import Arithmetic, export, postprocess, unloadable

VOXEL_ML = 5.0 * 3.0 * 3.0 / 1000
# On the grid of 6 mm, whose pixels cover 2 x 2 native ones, these have straight edges.
LARGE = cuboid((1, 3), (26, 38), (26, 38))
SMALL = cuboid((4, 5), (40, 44), (28, 34))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model without post-processing."""
    folder = tmp_path_factory.mktemp("models") / "1700000000"
    export(folder)
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return Sample("s", [LARGE, SMALL]).save(tmp_path / "s.nii.gz")


def test_probabilities_are_those_of_numpy(model: Path) -> None:
    prepared = Sample("s", [LARGE, SMALL]).scan()
    found = Predictor(model).answer(prepared).probabilities
    assert found.dtype == np.float32
    assert found.shape == (SHAPE[0], 32, 32)
    np.testing.assert_allclose(found, Arithmetic().numpy(prepared.examples(0)), atol=1e-6)
    assert 0 < (found > 0.5).mean() < 0.2


def test_the_mask_and_its_measures_by_hand(model: Path, scan: Path) -> None:
    prediction = Predictor(model).predict(scan)
    wanted = np.zeros(SHAPE, bool)
    wanted[LARGE] = wanted[SMALL] = True
    # Between grid pixels the probability falls from 0.99 to 0.002 in 2 native pixels: edges may move by one.
    inner, outer = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for slices, rows, columns in (LARGE, SMALL):
        inner[slices, rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = True
        outer[slices, rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1] = True
    assert not (inner & ~prediction.mask).any()
    assert not (prediction.mask & ~outer).any()

    report = prediction.report
    assert report["component_count"] == 2
    sizes = [int(prediction.mask[1:3].sum()), int(prediction.mask[4].sum())]
    assert [one["volume_ml"] for one in report["components"]] == [round(size * VOXEL_ML, 3) for size in sizes]
    assert report["volume_ml"] == round(sum(sizes) * VOXEL_ML, 3)
    assert report["volume_ml"] == pytest.approx((2 * 144 + 24) * VOXEL_ML, rel=0.25)
    assert report["shape"] == [64, 64, 5]
    assert report["orientation"] == "LPS"
    assert report["spacing_mm"] == [3.0, 3.0, 5.0]
    assert (report["model"], report["model_version"]) == ("ich", "1700000000")
    assert set(report["seconds"]) == {"prepare", "network", "postprocess"}
    json.dumps(report)
    assert prediction.stored_mask.shape == (64, 64, 5)
    assert prediction.stored_mask[30, 30, 1]  # columns, rows, slices


@pytest.mark.parametrize(("constant", "count"), [(0.0, 0), (1.0, 1)])
def test_nothing_and_everything(tmp_path: Path, scan: Path, constant: float, count: int) -> None:
    export(tmp_path / "model", Arithmetic(constant=constant))
    prediction = Predictor(tmp_path / "model").predict(scan)
    assert prediction.mask.any() == bool(count)
    if count:
        assert prediction.mask.all()  # the grid of 192 mm covers the scan of 192 mm
    report = prediction.report
    assert report["component_count"] == count
    assert report["volume_ml"] == round(count * 64 * 64 * 5 * VOXEL_ML, 3)
    assert [one["volume_ml"] for one in report["components"]] == [report["volume_ml"]] * count


def test_post_processing_comes_from_the_contract(tmp_path: Path, scan: Path) -> None:
    export(tmp_path / "model", threshold=0.9, min_component_ml=2.0)
    predictor = Predictor(tmp_path / "model")
    prediction = predictor.predict(scan)
    assert prediction.report["component_count"] == 1  # the small one is dropped
    prepared = Sample("s", [LARGE, SMALL]).scan()
    settings = postprocess(0.9, min_component_ml=2.0)
    wanted = outline(quantise(Arithmetic().numpy(prepared.examples(0))), prepared.geometry, settings)
    np.testing.assert_array_equal(prediction.mask, wanted)
    assert prediction.mask.sum() < Predictor(_loose(tmp_path)).predict(scan).mask[1:3].sum()


@pytest.mark.parametrize(("hu_range", "count"), [([60.0, 80.0], 2), ([72.0, 90.0], 0)])
def test_hu_are_those_of_the_scan(tmp_path: Path, scan: Path, hu_range: list[float], count: int) -> None:
    """Both lesions are of 70 HU; a voxel at an edge may look at the brain beside it."""
    export(tmp_path / "model", hu_range=hu_range)
    assert Predictor(tmp_path / "model").predict(scan).report["component_count"] == count


@pytest.mark.parametrize(("head_only", "count"), [(False, 2), (True, 1)])
def test_a_swelling_of_the_scalp_is_dropped_where_the_contract_says_so(
    tmp_path: Path, head_only: bool, count: int
) -> None:
    swollen = Sample("s", [LARGE, cuboid((1, 4), (28, 36), (4, 6))])
    export(tmp_path / "model", head_only=head_only)
    found = Predictor(tmp_path / "model").predict(swollen.save(tmp_path / "s.nii.gz"))
    assert found.report["component_count"] == count
    assert found.mask[LARGE].all()


def test_a_model_without_numbers_outlines_nothing_and_says_so(tmp_path: Path, scan: Path) -> None:
    export(tmp_path / "model", Arithmetic(undefined=True))
    with pytest.raises(IchError, match=r"model: the model gives 5 of 5120 probabilities that are not numbers"):
        Predictor(tmp_path / "model").predict(scan)


def _loose(folder: Path) -> Path:
    export(folder / "loose", threshold=0.1)
    return folder / "loose"


@pytest.mark.parametrize(("looks_at", "shift"), [(-1, 1), (1, -1)])
def test_context_slices_arrive_in_order(tmp_path: Path, scan: Path, looks_at: int, shift: int) -> None:
    """A network that looks at the slice below finds blood one slice above it."""
    export(tmp_path / "same", Arithmetic(), context_slices=1)
    export(tmp_path / "other", Arithmetic(looks_at=looks_at), context_slices=1)
    found = [Predictor(tmp_path / name).predict(scan).mask for name in ("same", "other")]
    same, other = (mask.reshape(len(mask), -1).any(axis=1) for mask in found)
    np.testing.assert_array_equal(same, [False, True, True, False, True])
    # At the ends the outermost slice stands for its missing neighbour.
    wanted = np.asarray(same)[np.clip(np.arange(5) - shift, 0, 4)]
    np.testing.assert_array_equal(other, wanted)


def test_brain_statistics_go_with_a_request_that_wants_them(tmp_path: Path, scan: Path) -> None:
    network = Arithmetic(brain=True, level=35.0)
    export(tmp_path / "model", network)
    prepared = Sample("s", [LARGE, SMALL]).scan()
    assert 30 < prepared.head.brain_mean < 40
    found = Predictor(tmp_path / "model").answer(prepared).probabilities
    np.testing.assert_allclose(found, network.numpy(prepared.examples(0), prepared.head.brain_mean), atol=1e-5)
    assert np.abs(found - network.numpy(prepared.examples(0), 33.0)).max() > 0.1


def test_scans_of_more_slices_than_a_batch(model: Path, tmp_path: Path) -> None:
    sample = Sample("s", [LARGE])
    many = np.concatenate([sample.hu] * 4)[: 2 * BATCH + 1]
    path = save(tmp_path / "s.nii", np.ascontiguousarray(many.transpose(2, 1, 0)), sample.affine)
    found = Predictor(model).predict(path).mask
    np.testing.assert_array_equal(found.any(axis=(1, 2)), [index % 5 in (1, 2) for index in range(17)])
    np.testing.assert_array_equal(found[1], found[16])


@pytest.mark.parametrize("slices", [1, 5, 2 * BATCH + 1])
def test_a_model_of_scans_is_sent_the_whole_scan(tmp_path: Path, slices: int) -> None:
    """It looks at the next slice: what is cut into parts would differ at their ends."""
    network = Arithmetic(across=True)
    assert export(tmp_path / "model", network).input == "scan"
    prepared = Sample("s", [LARGE, SMALL]).scan()
    many = replace(prepared, hu=np.concatenate([prepared.hu] * 4)[1 : slices + 1])
    found = Predictor(tmp_path / "model").answer(many).probabilities
    np.testing.assert_allclose(found, network.numpy(many.examples(0)), atol=1e-6)
    assert not np.allclose(found, Arithmetic().numpy(many.examples(0)), atol=0.1)


def test_one_predictor_serves_many_scans(model: Path, scan: Path, tmp_path: Path) -> None:
    predictor = Predictor(model)
    first = predictor.predict(scan).mask
    assert not predictor.predict(Sample("t").save(tmp_path / "t.nii.gz")).mask.any()
    np.testing.assert_array_equal(predictor.predict(scan).mask, first)


def test_a_scan_that_cannot_be_used_is_refused(model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "air.nii.gz", np.full((32, 32, 4), -1000, np.int16), np.diag([3.0, 3, 5, 1]))
    with pytest.raises(ScanError, match="no head found") as caught:
        Predictor(model).predict(path)
    assert caught.value.code == "no-head"


# --- which model


def test_a_model_is_found_from_every_folder_above_it(tmp_path: Path) -> None:
    for version in ("9", "10"):
        unloadable(tmp_path / "out" / "serving" / "ich" / version)
    newest = tmp_path / "out" / "serving" / "ich" / "10"
    assert find_model(tmp_path / "out") == newest
    assert find_model(tmp_path / "out" / "serving" / "ich") == newest
    assert find_model(tmp_path / "out" / "serving" / "ich" / "9").name == "9"


def test_a_model_of_another_name_is_found_while_it_is_the_only_one(tmp_path: Path) -> None:
    unloadable(tmp_path / "serving" / "other" / "3")
    (tmp_path / "serving" / "empty").mkdir()
    assert find_model(tmp_path) == tmp_path / "serving" / "other" / "3"
    unloadable(tmp_path / "serving" / "ich" / "4")
    with pytest.raises(UsageError, match=r"holds 2 models; give one with --model: .*ich, .*other"):
        find_model(tmp_path)


@pytest.mark.parametrize("made", [False, True])
def test_no_model(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "output"
    if made:
        (folder / "serving" / "ich" / "5").mkdir(parents=True)  # without saved_model.pb
    with pytest.raises(UsageError, match="no model there") as caught:
        find_model(folder)
    assert str(caught.value).startswith(f"{folder}:")
    assert "ich run" in str(caught.value)


def test_no_model_as_all_runs_were_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.json").write_text("{}")
    with pytest.raises(UsageError, match=f"no model there.*no run there.*`ich status -o {tmp_path}` says why"):
        find_model(tmp_path)


@pytest.mark.parametrize("text", [None, "{}", "not json", '{"format": 2}'])
def test_a_model_that_this_program_did_not_make(tmp_path: Path, text: str | None) -> None:
    unloadable(tmp_path / "5")
    path = tmp_path / "5" / "assets.extra" / "contract.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match="contract") as caught:
        Predictor(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / '5'}:")


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    unloadable(tmp_path / "5")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        Predictor(tmp_path)
    assert str(tmp_path / "5") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_version_is_named_also_from_within_its_folder(
    model: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    assert Predictor(Path(os.curdir)).predict(scan).report["model_version"] == model.name
