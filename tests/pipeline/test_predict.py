"""`ich predict` without its command line: the files, their geometry, and all orientations of a scan."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.imaging.errors import ScanError, UsageError
from pipeline.predict import case_name, predict_scan
from serving.predictor import Predictor
from tests.cases import Sample, cuboid
from tests.imaging.scans import AXIS_CODES, load, rotated, save, stored_as, to_lps
from tests.models import export

# Off centre in every direction, so that a wrong flip or swap shows.
SAMPLE = Sample("s", [cuboid((1, 3), (22, 38), (36, 46)), cuboid((3, 4), (40, 44), (24, 28))])


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
    assert sum(result["component_volumes_ml"]) == pytest.approx(result["volume_ml"], abs=0.002)
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
    assert mask.get_data_dtype() == np.uint8
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
    with pytest.raises(UsageError, match="no such scan"):
        predict_scan(tmp_path, tmp_path / "out", model)  # a folder
    assert not (tmp_path / "out").exists()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model there"):
        predict_scan(SAMPLE.save(tmp_path / "s.nii.gz"), tmp_path / "out", tmp_path / "output")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_scan(model: Path, tmp_path: Path) -> None:
    scan = SAMPLE.save(tmp_path / "s.nii.gz")
    scan.write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])
    with pytest.raises(ScanError) as caught:
        predict_scan(scan, tmp_path / "out", model)
    assert str(caught.value).startswith(f"{scan}:")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = SAMPLE.save(tmp_path / "s.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="is a file, wanted a folder") as caught:
        predict_scan(scan, tmp_path / "file", model)
    assert str(caught.value).startswith(f"{tmp_path / 'file'}:")
    # Found before the network runs, not after.
    monkeypatch.setattr(Predictor, "predict", lambda *_: pytest.fail("predicted for nothing"))
    with pytest.raises(UsageError, match="cannot write there") as caught:
        predict_scan(scan, tmp_path / "file" / "below", model)
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'below'}:")
    assert (tmp_path / "file").read_text() == "in the way"
