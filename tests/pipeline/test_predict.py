"""`ich predict` without its command line: the files, their geometry, and all orientations of a scan."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from components.imaging.errors import UsageError
from pipeline.predict import Options, Result, failed, predict_all
from serving.prediction.inputs import case_name
from serving.prediction.predictor import Predictor
from tests.cases import Sample, cuboid
from tests.imaging.scans import AXIS_CODES, ellipse_head, load, lps_affine, rotated, save, stored_as, to_lps
from tests.models import export

# Off centre in every direction, so that a wrong flip or swap shows.
SAMPLE = Sample("s", [cuboid((1, 3), (22, 38), (36, 46)), cuboid((3, 4), (40, 44), (24, 28))])


def predict(paths: Path | list[Path], out: Path, model: Path, **options: Any) -> list[Result]:
    """What `ich predict` does, without its command line."""
    listed = [paths] if isinstance(paths, Path) else paths
    return list(predict_all(listed, out, lambda: Predictor(model), Options(**options)))


def predict_scan(path: Path, out: Path, model: Path, **options: Any) -> dict[str, Any]:
    """The report on one scan that must get its mask, and its files."""
    (result,) = predict(path, out, model, **options)
    assert result.status == "done", result.report
    return {**result.report, "files": result.files}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one pushed model."""
    folder = tmp_path_factory.mktemp("output")
    export(folder / "serving" / "ich" / "1700000000")
    return folder


@pytest.fixture(scope="module")
def canonical(model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The mask of the scan as it is stored in LPS, as its file holds it."""
    folder = tmp_path_factory.mktemp("lps")
    result = predict_scan(SAMPLE.save(folder / "s.nii.gz"), folder / "out", model)
    return np.asarray(load(Path(result["files"]["mask"])).dataobj)


@pytest.mark.parametrize(
    ("path", "case"),
    [
        ("049/image.nii.gz", "049"),
        ("049/IMAGE.nii", "049"),
        ("049/scan.nii.gz", "049"),
        ("049/ct.nii", "049"),
        ("049/volume.nii.gz", "049"),
        ("images/049.nii.gz", "049"),
        ("images/a.b.nii.gz", "a.b"),
        ("images/049_image.nii", "049_image"),
    ],
)
def test_case_names(tmp_path: Path, path: str, case: str) -> None:
    assert case_name(tmp_path / path) == case


def test_a_plain_name_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "049").mkdir()
    monkeypatch.chdir(tmp_path / "049")
    assert case_name(Path("image.nii.gz")) == "049"


def test_three_files_that_agree(model: Path, tmp_path: Path) -> None:
    scan = SAMPLE.save(tmp_path / "049" / "image.nii.gz")
    out = tmp_path / "new" / "out"
    result = predict_scan(scan, out, model)
    files = {kind: Path(file) for kind, file in result.pop("files").items()}
    assert files == {
        "mask": out / "049_mask.nii.gz", "json": out / "049.json", "png": out / "049.png"
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in files.values())
    assert json.loads(files["json"].read_text()) == result
    assert result["case"] == "049"

    mask = np.asarray(load(files["mask"]).dataobj)
    voxel_ml = 5 * 3 * 3 / 1000
    assert set(np.unique(mask)) == {0, 1}
    assert result["volume_ml"] == round(int(mask.sum()) * voxel_ml, 3)
    assert result["component_count"] == 2
    assert sum(one["volume_ml"] for one in result["components"]) == pytest.approx(result["volume_ml"], abs=0.002)
    assert result["volume_ml"] == pytest.approx((2 * 16 * 10 + 4 * 4) * voxel_ml, rel=0.25)
    with Image.open(io.BytesIO(files["png"].read_bytes())) as picture:
        assert picture.format == "PNG"
        red = np.asarray(picture.convert("RGB")).astype(int)
    assert ((red[..., 0] - red[..., 1]) > 100).any()  # an outline is drawn


def test_the_mask_lies_on_the_scans_own_grid(model: Path, tmp_path: Path) -> None:
    affine = rotated(SAMPLE.affine, (7, -4, 12))
    path = save(tmp_path / "s.nii.gz", to_lps(SAMPLE.hu), affine)
    result = predict_scan(path, tmp_path / "out", model)
    scan, mask = load(path), load(Path(result["files"]["mask"]))
    assert mask.shape == scan.shape
    assert mask.get_data_dtype() == np.int8
    np.testing.assert_array_equal(mask.affine, scan.affine)
    for name in ("pixdim", "qform_code", "sform_code", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[name], scan.header[name])


def test_an_unzipped_scan_gives_the_same_mask(model: Path, tmp_path: Path, canonical: np.ndarray) -> None:
    result = predict_scan(SAMPLE.save(tmp_path / "s.nii"), tmp_path / "out", model)
    np.testing.assert_array_equal(np.asarray(load(Path(result["files"]["mask"])).dataobj), canonical)


@pytest.mark.parametrize("codes", AXIS_CODES)
def test_every_orientation_gives_the_same_mask(model: Path, tmp_path: Path, canonical: np.ndarray, codes: str) -> None:
    data, affine = stored_as(to_lps(SAMPLE.hu), SAMPLE.affine, codes)
    path = save(tmp_path / "s.nii", data, affine)
    result = predict_scan(path, tmp_path / "out", model)
    assert result["orientation"] == codes
    mask = load(Path(result["files"]["mask"]))
    assert mask.shape == data.shape
    np.testing.assert_array_equal(mask.affine, load(path).affine)
    back, _ = stored_as(np.asarray(mask.dataobj), mask.affine, "LPS")
    assert canonical.any()
    np.testing.assert_array_equal(back, canonical)


def test_an_existing_result_is_replaced_whole(model: Path, tmp_path: Path) -> None:
    scan = SAMPLE.save(tmp_path / "s.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    (out / "s.json").write_text("old")
    (out / "notes.txt").write_text("not ours")
    predict_scan(scan, out, model)
    assert json.loads((out / "s.json").read_text())["case"] == "s"
    assert (out / "notes.txt").read_text() == "not ours"
    assert len(list(out.iterdir())) == 4


def test_a_scan_that_is_not_there(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such scan; give a \.nii") as caught:
        predict_scan(tmp_path / "nothing.nii.gz", tmp_path / "out", model)
    assert str(caught.value).startswith(f"{tmp_path / 'nothing.nii.gz'}:")
    assert not (tmp_path / "out").exists()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model there"):
        predict_scan(SAMPLE.save(tmp_path / "s.nii.gz"), tmp_path / "out", tmp_path / "output")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_scan_gets_a_reason_and_loses_its_old_mask(model: Path, tmp_path: Path) -> None:
    scan, out = SAMPLE.save(tmp_path / "s.nii.gz"), tmp_path / "out"
    predict_scan(scan, out, model, probability=True)
    scan.write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])
    (result,) = predict(scan, out, model, overwrite=True)
    assert result.status == "refused"
    assert result.report["code"] == "truncated"
    assert result.report["reason"].startswith(f"{scan}:")
    assert [path.name for path in out.iterdir()] == ["s.json"]
    assert json.loads((out / "s.json").read_text()) == result.report
    error = failed([result])
    assert error is not None and error.exit_code == 2 and str(error) == result.report["reason"]


def test_one_bad_scan_never_stops_the_rest(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for case in ("a", "b", "d"):
        SAMPLE.save(folder / "deep" / f"{case}.nii.gz")
    (folder / "c.nii").write_bytes(b"not a scan")
    seen: list[tuple[int, ...]] = []
    results = list(
        predict_all(
            [folder],
            tmp_path / "out",
            lambda: Predictor(model),
            progress=lambda *at: seen.append(at),
        )
    )
    assert {one.case: one.status for one in results} == {"a": "done", "b": "done", "c": "refused", "d": "done"}
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert "c: no mask" in next(one for one in results if one.case == "c").line()
    error = failed(results)
    assert error is not None and "1 of 4 scans have no mask: c" in str(error)


def test_done_scans_are_skipped_and_their_files_are_left_alone(model: Path, tmp_path: Path) -> None:
    scans = [SAMPLE.save(tmp_path / f"{case}.nii.gz") for case in ("a", "b")]
    out = tmp_path / "out"
    predict(scans[0], out, model)
    before = (out / "a_mask.nii.gz").stat().st_mtime_ns
    results = predict(scans, out, model)
    assert [one.status for one in results] == ["skipped", "done"]
    assert results[0].report == json.loads((out / "a.json").read_text())
    assert (out / "a_mask.nii.gz").stat().st_mtime_ns == before
    # A file that is missing or torn, or one more that is wanted: not done.
    (out / "a.json").write_text("{")
    (out / "b_mask.nii.gz").unlink()
    assert [one.status for one in predict(scans, out, model)] == ["done", "done"]
    assert [one.status for one in predict(scans, out, model, probability=True)] == ["done", "done"]
    assert [one.status for one in predict(scans, out, model, overwrite=True)] == ["done", "done"]
    assert failed(results) is None
    # Nothing to do: no model is loaded.
    assert [one.status for one in predict(scans, out, tmp_path / "no-model")] == ["skipped", "skipped"]


def test_probabilities_lie_on_the_scans_grid(model: Path, tmp_path: Path) -> None:
    data, affine = stored_as(to_lps(SAMPLE.hu), SAMPLE.affine, "RAS")
    path = save(tmp_path / "s.nii.gz", data, affine)
    files = predict_scan(path, tmp_path / "out", model, probability=True)["files"]
    scan, mask, found = load(path), load(Path(files["mask"])), load(Path(files["prob"]))
    assert found.shape == scan.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    values = np.asarray(found.dataobj)
    assert values.min() >= 0 and values.max() <= 1 + 1e-6
    # This model's post-processing is a cut at one half, and a probability is rounded to a 255th.
    inside = np.asarray(mask.dataobj) == 1
    assert inside.any()
    assert values[inside].min() >= 0.5 - 1 / 255 and values[~inside].max() <= 0.5 + 1 / 255


def test_what_the_checks_refuse_can_be_forced(model: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "s.nii.gz", to_lps(SAMPLE.hu) + 1024, SAMPLE.affine)
    (refused,) = predict(path, tmp_path / "out", model)
    assert refused.report["code"] == "hu-shifted"
    assert "--force outlines it all the same" in refused.report["reason"]
    assert [one["code"] for one in refused.report["findings"]] == ["hu-shifted"]
    (forced,) = predict(path, tmp_path / "out", model, force=True)
    assert forced.status == "done"
    assert "check: hu-shifted" in forced.line()


def test_a_single_slice_and_a_scan_of_many(model: Path, tmp_path: Path) -> None:
    hu = to_lps(SAMPLE.hu)
    single = save(tmp_path / "single.nii.gz", hu[:, :, 1:2], SAMPLE.affine)
    many = save(tmp_path / "many.nii.gz", np.concatenate([hu] * 30, axis=2), SAMPLE.affine @ np.diag([1, 1, 0.12, 1]))
    assert predict_scan(single, tmp_path / "out", model)["shape"] == [64, 64, 1]
    result = predict_scan(many, tmp_path / "out", model)
    assert result["shape"] == [64, 64, 150]
    assert result["component_count"] == 60


def test_cases_of_one_name(model: Path, tmp_path: Path) -> None:
    scans = [SAMPLE.save(tmp_path / folder / "1.nii.gz") for folder in ("x", "y")]
    assert [one.case for one in predict(scans, tmp_path / "out", model)] == ["x_1", "y_1"]
    twins = [SAMPLE.save(tmp_path / folder / "x" / "1.nii.gz") for folder in ("p", "q")]
    with pytest.raises(UsageError, match=r"both would be written as x_1; predict them into two folders"):
        predict(twins, tmp_path / "out", model)
    # The same file given twice is one scan.
    assert len(predict([scans[0], tmp_path / "x"], tmp_path / "out2", model)) == 1


def test_results_within_the_input_are_no_input(model: Path, tmp_path: Path) -> None:
    SAMPLE.save(tmp_path / "s.nii.gz")
    out = tmp_path / "out"
    assert [one.case for one in predict(tmp_path, out, model)] == ["s"]
    assert [one.case for one in predict(tmp_path, out, model, overwrite=True)] == ["s"]


def test_an_output_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = SAMPLE.save(tmp_path / "s.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="is a file, wanted a folder") as caught:
        predict_scan(scan, tmp_path / "file", model)
    assert str(caught.value).startswith(f"{tmp_path / 'file'}:")
    # Found before the network runs, not after.
    monkeypatch.setattr(Predictor, "answer", lambda *_: pytest.fail("predicted for nothing"))
    with pytest.raises(UsageError, match="cannot write there") as caught:
        predict_scan(scan, tmp_path / "file" / "below", model)
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'below'}:")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "angles"),
    [
        ((60, 64, 64), (0.6, 3.0, 3.0), (0, 0, 0)),
        ((4, 64, 64), (10.0, 3.0, 3.0), (5, 9, -14)),
        ((6, 80, 56), (5.0, 2.5, 3.4), (-12, 3, 8)),
        ((6, 50, 90), (4.0, 4.0, 2.1), (0, 0, 20)),
        ((1, 64, 64), (5.0, 3.0, 3.0), (3, 0, 0)),
    ],
)
def test_thin_and_thick_slices_oblong_matrices_and_oblique_heads(
    model: Path, tmp_path: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], angles: Any
) -> None:
    """There and back: the mask covers the blood that was put in, whichever way the file is stored."""
    hu = ellipse_head(shape, spacing_mm)
    slices = slice(shape[0] // 3, shape[0] // 3 + max(1, shape[0] // 4))
    rows, columns = (
        slice(size // 2 - round(24 / step), size // 2 + round(15 / step))
        for size, step in zip(shape[1:], spacing_mm[1:], strict=True)
    )
    place = (slices, rows, columns)
    hu[place] = 70
    blood = np.zeros(shape, bool)
    blood[place] = True
    affine = rotated(lps_affine(spacing_mm), angles)
    for codes in ("LPS", "RAS", "ASL"):
        data, stored = stored_as(to_lps(hu).astype(np.int16), affine, codes)
        path = save(tmp_path / f"{codes}.nii.gz", data, stored)
        mask = load(Path(predict_scan(path, tmp_path / "out", model, force=True)["files"]["mask"]))
        assert mask.shape == data.shape
        np.testing.assert_array_equal(mask.affine, load(path).affine)
        back, _ = stored_as(np.asarray(mask.dataobj), mask.affine, "LPS")
        found = np.asarray(back).transpose(2, 1, 0) == 1
        # At the skull's edge, bone and air average to the HU of blood: what counts lies about the blood.
        near = ndimage.binary_dilation(blood, iterations=4)
        assert 2 * (found & blood).sum() / ((found & near).sum() + blood.sum()) > 0.8
