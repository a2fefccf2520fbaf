"""`ich predict` on DICOM: the mask of the same scan as NIfTI, a segmentation that points at the slices, no names."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from components.imaging.dicom.series import find_series
from components.imaging.errors import ScanError, UsageError
from serving.prediction.dicom_seg import _headers
from tests.cases import SHAPE, Sample, cuboid
from tests.imaging.dicom.files import SECRET, image, multi_frame, positions, write_series
from tests.imaging.dicom.files import save as save_dicom
from tests.imaging.scans import load
from tests.models import export
from tests.pipeline.test_predict import predict, predict_scan

SAMPLE = Sample("s", [cuboid((1, 3), (22, 38), (36, 46)), cuboid((3, 4), (40, 44), (24, 28))])
STORED = (SAMPLE.hu + 1024).astype(np.int16)
PLACES = positions(SHAPE[0])
GEOMETRY: dict[str, Any] = {
    "PixelSpacing": [3.0, 3.0],
    "FrameOfReferenceUID": "1.2.3.9",
    "PositionReferenceIndicator": "",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "7"
    export(folder)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with one axial series, its files in no order."""
    folder = tmp_path / "study"
    write_series(folder, STORED[::-1], PLACES[::-1], **GEOMETRY)
    return folder


def test_the_same_mask_as_of_the_nifti(study: Path, model: Path, tmp_path: Path) -> None:
    result = predict_scan(study, tmp_path / "out", model)
    mask = load(Path(result["files"]["mask"]))
    assert result["case"] == "study"
    assert "the only axial head CT" in result["series"]
    nib.save(nib.Nifti1Image(SAMPLE.hu.transpose(2, 1, 0).astype(np.int16), mask.affine), tmp_path / "n.nii.gz")
    other = predict_scan(tmp_path / "n.nii.gz", tmp_path / "out", model)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(load(Path(other["files"]["mask"])).dataobj))
    assert result["components"] == other["components"]
    assert result["component_count"] == 2
    # DICOM's first pixel lies at (-50, -60, 30) LPS.
    assert mask.affine[:3, 3] == pytest.approx([50, 60, 30])


def test_a_zip_and_a_multi_frame_file_give_the_same_mask(study: Path, model: Path, tmp_path: Path) -> None:
    wanted = predict_scan(study, tmp_path / "out", model)
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", study))
    frames = multi_frame(STORED, PLACES)
    frames.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [3.0, 3.0]
    whole = save_dicom(frames, tmp_path / "frames.dcm")
    for path in (packed, whole):
        found = predict_scan(path, tmp_path / "out", model)
        assert found["components"] == wanted["components"]
        masks = [np.asarray(load(Path(one["files"]["mask"])).dataobj) for one in (found, wanted)]
        np.testing.assert_array_equal(masks[0], masks[1])


def test_the_segmentation_points_at_its_slices(study: Path, model: Path, tmp_path: Path) -> None:
    result = predict_scan(study, tmp_path / "out", model, dicom_seg=True)
    mask = np.asarray(load(Path(result["files"]["mask"])).dataobj).transpose(2, 1, 0)
    found = hd.seg.segread(result["files"]["seg"])
    sources = sorted((dcmread(path) for path in study.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))
    uids = [str(one.SOPInstanceUID) for one in sources]
    planes = found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0]
    np.testing.assert_array_equal(planes, mask)
    assert found.StudyInstanceUID == sources[0].StudyInstanceUID
    assert found.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert found.FrameOfReferenceUID == "1.2.3.9"
    assert found.PatientName == SECRET  # it belongs to the patient
    (segment,) = (found.get_segment_description(number) for number in found.segment_numbers)
    algorithm = segment.algorithm_identification
    assert algorithm is not None and (algorithm.name, algorithm.version) == ("ich", "7")
    assert segment.segmented_property_type.meaning == "Hemorrhage"


def test_the_segmentation_of_a_multi_frame_file(model: Path, tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    frames = multi_frame(STORED[order], [PLACES[index] for index in order])
    frames.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [3.0, 3.0]
    frames.FrameOfReferenceUID = "1.2.3.9"
    path = save_dicom(frames, tmp_path / "frames.dcm")
    result = predict_scan(path, tmp_path / "out", model, dicom_seg=True)
    mask = np.asarray(load(Path(result["files"]["mask"])).dataobj).transpose(2, 1, 0)
    found = hd.seg.segread(result["files"]["seg"])
    planes = found.get_pixels_by_source_frame(
        str(frames.SOPInstanceUID), range(1, 6), assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(planes[..., 0], mask[order])


def test_a_scan_without_blood_has_a_segmentation_too(model: Path, tmp_path: Path) -> None:
    clean = Sample("s").hu + 1024
    write_series(tmp_path / "clean", clean.astype(np.int16), PLACES, **GEOMETRY)
    result = predict_scan(tmp_path / "clean", tmp_path / "out", model, dicom_seg=True)
    assert result["volume_ml"] == 0
    assert not hd.seg.segread(result["files"]["seg"]).pixel_array.any()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_a_validator_finds_no_error(study: Path, model: Path, tmp_path: Path) -> None:
    result = predict_scan(study, tmp_path / "out", model, dicom_seg=True)
    done = subprocess.run(["dciodvfy", result["files"]["seg"]], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in said[-1] or any("Segmentation" in line for line in said)
    assert [line for line in said if line.startswith("Error")] == []


def test_dicom_seg_needs_dicom(study: Path, model: Path, tmp_path: Path) -> None:
    nifti = SAMPLE.save(tmp_path / "n.nii.gz")
    with pytest.raises(UsageError, match=r"is NIfTI, and --dicom-seg needs the DICOM slices"):
        predict([study, nifti], tmp_path / "out", model, dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_identifiers_reach_only_the_segmentation(
    study: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (result,) = predict(study, out, model, probability=True)
    said = result.line() + "".join(capfd.readouterr())
    secrets = (SECRET, "1.2.3.4", "1.2.3.9", str(dcmread(next(study.iterdir())).SOPInstanceUID))
    for path in out.iterdir():
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            header = nib.Nifti1Image.from_filename(path).header
            content = header.binaryblock + b"".join(one.get_content() for one in header.extensions)
        assert not [secret for secret in secrets if secret.encode() in content], path
    assert not [secret for secret in secrets if secret in said]
    (kept,) = predict(study, out, model, overwrite=True, keep_ids=True)
    assert kept.report["dicom"] == {
        "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.4", "frame_of_reference_uid": "1.2.3.9"
    }  # fmt: skip
    assert SECRET not in (out / "study.json").read_text()


def test_the_series_of_a_study(study: Path, model: Path, tmp_path: Path) -> None:
    bone = (Sample("s").hu + 1024).astype(np.int16)
    write_series(
        study / "bone", bone, PLACES, **GEOMETRY, SeriesInstanceUID="1.2.3.5", SeriesNumber=3, ConvolutionKernel="H70h"
    )
    for path in study.glob("*.dcm"):
        data = dcmread(path)
        data.ConvolutionKernel = "H30s"
        data.save_as(path)
    chosen = predict_scan(study, tmp_path / "out", model)
    assert "series 2" in chosen["series"] and "soft kernel" in chosen["series"]
    assert chosen["component_count"] == 2
    asked = predict_scan(study, tmp_path / "other", model, series="3")
    assert "asked for by number" in asked["series"] and asked["component_count"] == 0
    (none,) = predict(study, tmp_path / "none", model, series="99")
    assert (none.status, none.report["code"]) == ("refused", "no-series")


def test_each_study_of_a_folder_is_a_scan(study: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    shutil.move(study, folder / "first")
    clean = (Sample("s").hu + 1024).astype(np.int16)
    write_series(folder / "second", clean, PLACES, **GEOMETRY, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    results = predict(folder, tmp_path / "out", model)
    assert {one.case: one.report["component_count"] for one in results} == {"first": 2, "second": 0}


def test_a_folder_given_twice_is_one_scan(study: Path, model: Path, tmp_path: Path) -> None:
    (result,) = predict([study, study / ".." / study.name], tmp_path / "out", model)
    assert result.case == "study" and result.report["component_count"] == 2


# --- hostile input: refused with a reason, in bounded time and memory


def test_a_zip_that_leads_out(model: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.dcm", b"x")
    with pytest.raises(ScanError, match=r"evil\.zip"):
        predict(tmp_path / "evil.zip", tmp_path / "out", model)
    assert not (tmp_path.parent / "evil.dcm").exists()


def test_a_zip_bomb(model: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(200 * 1024**2))
    with pytest.raises(ScanError, match=r"bomb\.zip") as caught:
        predict(tmp_path / "bomb.zip", tmp_path / "out", model)
    assert caught.value.code == "too-large"


def test_a_nifti_header_of_a_hundred_gigabytes(model: Path, tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((5000, 5000, 2000))
    header.set_data_dtype(np.int16)
    header.set_data_offset(352)
    header["magic"] = b"n+1"
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(4))
    (result,) = predict(tmp_path / "huge.nii", tmp_path / "out", model)
    assert result.report["code"] == "too-large"


def test_loops_of_links_end(study: Path, model: Path, tmp_path: Path) -> None:
    deep = tmp_path / "nifti"
    SAMPLE.save(deep / "s.nii.gz")
    for folder in (study, deep):
        (folder / "loop").symlink_to(folder)
        (folder / "broken.link").symlink_to(folder / "nowhere")
    assert [one.status for one in predict([study, deep], tmp_path / "out", model)] == ["done", "done"]


def test_folders_within_folders(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    for _ in range(60):
        folder = folder / "d"
    SAMPLE.save(folder / "s.nii.gz")
    SAMPLE.save(tmp_path / "deep" / "t.nii.gz")
    assert [one.case for one in predict(tmp_path / "deep", tmp_path / "out", model)] == ["t"]  # the other is too deep


def test_ten_thousand_small_files(study: Path, model: Path, tmp_path: Path) -> None:
    for number in range(10_000):
        (study / f"{number:05d}.txt").write_bytes(b"x")
    assert [one.status for one in predict(study, tmp_path / "out", model)] == ["done"]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_slice(study: Path, model: Path, tmp_path: Path, share: float) -> None:
    path = sorted(study.iterdir())[0]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    (result,) = predict(study, tmp_path / "out", model)
    assert result.status == "done"
    assert "file-skipped" in [one["code"] for one in result.report["findings"]]
    assert "check: file-skipped" in result.line()
    assert result.report["shape"] == [64, 64, 4]


def test_no_dicom_at_all(model: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.txt").write_text("nothing here")
    with pytest.raises(ScanError, match=r"none a readable DICOM image"):
        predict(tmp_path / "folder", tmp_path / "out", model)
    noise = io.BytesIO(image(STORED[0], PLACES[0]).PixelData)
    (tmp_path / "noise.dcm").write_bytes(noise.getvalue())
    with pytest.raises(ScanError, match=r"noise\.dcm"):
        predict(tmp_path / "noise.dcm", tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_a_segmentation_that_cannot_be_made(
    study: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AttributeError(f"no such attribute of {SECRET}")

    monkeypatch.setattr(hd.seg, "Segmentation", refuse)
    (result,) = predict(study, tmp_path / "out", model, dicom_seg=True)
    assert result.status == "refused"
    assert "no segmentation can be made of these files (AttributeError)" in result.report["reason"]
    assert SECRET not in str(result.report)


def test_a_slice_that_is_gone_when_the_segmentation_is_made(study: Path) -> None:
    (series,) = find_series(study).series
    (study / series.planes[0].name).unlink()
    with pytest.raises(ScanError, match="study: a slice cannot be opened any more"):
        _headers(series, [plane.name for plane in series.planes])


def test_pixels_as_large_as_a_head(tmp_path: Path, model: Path) -> None:
    write_series(tmp_path / "vast", STORED, PLACES, **{**GEOMETRY, "PixelSpacing": [300.0, 300.0]})
    (result,) = predict(tmp_path / "vast", tmp_path / "out", model)
    assert (result.status, result.report["code"]) == ("refused", "geometry")
    assert "spacing (300.0, 300.0, 5.0) mm, wanted 0.001 to 100 mm" in result.report["reason"]
