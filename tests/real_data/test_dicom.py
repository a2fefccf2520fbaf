"""A real DICOM series with a tilted gantry and identifiers that are no UIDs, against its NIfTI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import dcmread
from pydicom.uid import CTImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from components.imaging.dicom.choose import choose_series
from components.imaging.dicom.read import read_series
from components.imaging.dicom.series import find_series
from components.imaging.geometry import Orientation
from tests.command import ich
from tests.imaging.scans import load
from tests.models import export

DATA = Path(os.environ.get("ICH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}; set ICH_REAL_DATA")


def test_the_series_is_the_nifti_but_for_the_tilt() -> None:
    found = find_series(DATA / "rsna_dicom")
    series, reason = choose_series(found.series)
    scan = read_series(series)
    nifti = nib.Nifti1Image.from_filename(DATA / "rsna_ich_volume.nii.gz")
    assert "36 slices every 5 mm" in reason and "8 degrees off axial" in reason
    assert found.skipped == 0 and found.findings == () and scan.findings == ()

    # The NIfTI cut what lies outside the scanner's circle to -1024; the files have it at -2048 and so on.
    assert scan.volume.data.shape == nifti.shape
    assert np.array_equal(np.maximum(scan.volume.data, -1024), np.asarray(nifti.dataobj))

    # Both begin at the same place and go upwards by the same step. The NIfTI has its rows level; in the files they
    # rise by the tilt, so the two drift apart along a row's way back: 8 degrees over 512 rows are 35 mm.
    mine, theirs = scan.volume.affine, nifti.affine
    assert mine[:3, 3] == pytest.approx(theirs[:3, 3], abs=1e-3)
    assert mine[:3, 2] == pytest.approx(theirs[:3, 2], abs=1e-3)
    assert np.linalg.norm(mine[:3, :2], axis=0) == pytest.approx(np.linalg.norm(theirs[:3, :2], axis=0), abs=1e-4)
    tilt = np.degrees(np.arctan2(mine[2, 1], mine[1, 1]))
    assert min(abs(tilt), 180 - abs(tilt)) == pytest.approx(8.0, abs=0.05)
    # Across slices, which is what volumes count, the step is shorter by the cosine.
    across = Orientation.of(mine).spacing_mm[0]
    assert across == pytest.approx(mine[2, 2] * np.cos(np.radians(8.0)), abs=1e-3)
    assert across == pytest.approx(5.0, abs=1e-3)


def voxels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU and affine of the only series below a folder."""
    series, _ = choose_series(find_series(folder).series)
    volume = read_series(series).volume
    return volume.data, volume.affine


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_the_series_compressed(syntax: str, tmp_path: Path) -> None:
    for path in sorted((DATA / "rsna_dicom").glob("*.dcm")):
        slice_ = dcmread(path)
        slice_.compress(syntax, generate_instance_uid=False)
        slice_.save_as(tmp_path / path.name)
    for found, wanted in zip(voxels(tmp_path), voxels(DATA / "rsna_dicom"), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_the_series_as_one_multi_frame_file(tmp_path: Path) -> None:
    """As highdicom converts it, which wants identifiers that conform."""
    slices = [dcmread(path) for path in sorted((DATA / "rsna_dicom").glob("*.dcm"))]
    uids: dict[str, str] = defaultdict(generate_uid)
    for slice_ in slices:
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            setattr(slice_, name, uids[slice_.get(name, name)])
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.SOPClassUID = slice_.file_meta.MediaStorageSOPClassUID = CTImageStorage
    whole = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 1, generate_uid(), 1)
    whole.save_as(tmp_path / "enhanced.dcm")
    for found, wanted in zip(voxels(tmp_path), voxels(DATA / "rsna_dicom"), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `ich predict` on the series and on the NIfTI; the model calls all between 55 and 100 HU blood."""
    folder = tmp_path_factory.mktemp("predicted")
    export(folder / "model", grid_size=128, grid_spacing_mm=1.9, min_component_ml=0.5)
    for scan, options in ((DATA / "rsna_dicom", ["--dicom-seg", "--prob"]), (DATA / "rsna_ich_volume.nii.gz", [])):
        process = ich("predict", scan, "-o", folder / "out", "-m", folder / "model", *options)
        assert process.returncode == 0, process.stdout + process.stderr
    return folder / "out"


def test_the_masks_overlap_as_the_tilt_allows(predicted: Path) -> None:
    """Voxel by voxel the masks are one; in space they part by the tilt, which the NIfTI has lost."""
    mine, theirs = (load(predicted / f"{name}_mask.nii.gz") for name in ("rsna_dicom", "rsna_ich_volume"))
    one, other = (np.asarray(image.dataobj) == 1 for image in (mine, theirs))
    assert one.sum() > 1000
    # Distances across slices differ by a hundredth, and with them what is larger than the smallest component.
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.99
    # In mm the shift is 8 degrees' rise over the rows between a voxel and the first one: up to 35 mm at the last row.
    rows = np.argwhere(one & other)[:, 1]
    shift = nib.affines.apply_affine(mine.affine, np.argwhere(one & other)) - nib.affines.apply_affine(
        theirs.affine, np.argwhere(one & other)
    )
    np.testing.assert_allclose(shift[:, 2], -np.sin(np.radians(8)) * rows * 0.48828, atol=0.05)
    np.testing.assert_allclose(shift[:, 1], (1 - np.cos(np.radians(8))) * rows * 0.48828, atol=0.05)
    np.testing.assert_allclose(shift[:, 0], 0, atol=1e-3)


def test_every_corner_lies_where_itk_puts_it(predicted: Path) -> None:
    affine = load(predicted / "rsna_dicom_mask.nii.gz").affine
    slices = [SimpleITK.ReadImage(str(path)) for path in (DATA / "rsna_dicom").glob("*.dcm")]
    slices.sort(key=lambda image: image.GetOrigin()[2])
    for k, image in enumerate(slices):
        for i, j in ((0, 0), (511, 0), (0, 511), (511, 511)):
            x, y, z = image.TransformIndexToPhysicalPoint((i, j, 0))
            assert affine @ [i, j, k, 1] == pytest.approx([-x, -y, z, 1], abs=0.01)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_the_slices_are_those_of_dcm2niix(predicted: Path, tmp_path: Path) -> None:
    """Its rows run the other way. It leaves the tilt out of the affine, so that only the first slice lies alike."""
    subprocess.run(["dcm2niix", "-o", tmp_path, "-f", "x", DATA / "rsna_dicom"], check=True, capture_output=True)
    theirs, mine = load(tmp_path / "x.nii"), load(predicted / "rsna_dicom_mask.nii.gz")
    scan = read_series(choose_series(find_series(DATA / "rsna_dicom").series)[0])
    np.testing.assert_array_equal(np.asarray(theirs.dataobj)[:, ::-1], scan.volume.data)
    for i, j in ((0, 0), (511, 0), (0, 511), (511, 511)):
        assert mine.affine @ [i, j, 0, 1] == pytest.approx(theirs.affine @ [i, 511 - j, 0, 1], abs=0.01)


def test_the_segmentation_points_at_files_whose_names_are_no_uids(predicted: Path) -> None:
    found = dcmread(predicted / "rsna_dicom_seg.dcm")
    referenced = {
        str(one.ReferencedSOPInstanceUID) for one in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {str(dcmread(path).SOPInstanceUID) for path in (DATA / "rsna_dicom").glob("*.dcm")}
    mask = np.asarray(load(predicted / "rsna_dicom_mask.nii.gz").dataobj)
    assert found.pixel_array.sum() == mask.sum()
    report = json.loads((predicted / "rsna_dicom.json").read_text())
    assert "ID_" not in json.dumps(report)
