"""Pixels and stacks that are not as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from components.imaging.dicom.read import DicomScan, read_series
from components.imaging.dicom.series import find_series
from components.imaging.dicom.store import Limits
from components.imaging.errors import ScanError
from components.imaging.scan import prepare_scan
from tests.imaging.dicom.files import (
    AXIAL,
    SECRET,
    image,
    multi_frame,
    positions,
    save,
    stored,
    write_series,
)
from tests.imaging.scans import patient, volume


def read(path: Path) -> DicomScan:
    """The only series there."""
    (series,) = find_series(path).series
    return read_series(series)


def codes(scan: DicomScan) -> list[str]:
    """Of its findings."""
    return [finding.code for finding in scan.findings]


def refusal(path: Path) -> ScanError:
    """What reading the only series raises."""
    with pytest.raises(ScanError) as caught:
        read(path)
    assert SECRET not in str(caught.value)
    return caught.value


def test_slope_and_intercept_are_each_slices_own(tmp_path: Path) -> None:
    pixels = stored(3)
    for k, (slope, intercept) in enumerate(((1, -1024), (2, -1000), (0.5, 10.25))):
        save(image(pixels[k], [0, 0, 5 * k], RescaleSlope=slope, RescaleIntercept=intercept), tmp_path / f"{k}.dcm")
    data = read(tmp_path).volume.data
    assert data.dtype == np.float32
    for k, (slope, intercept) in enumerate(((1, -1024), (2, -1000), (0.5, 10.25))):
        assert np.array_equal(data[:, :, k].T, pixels[k] * np.float32(slope) + np.float32(intercept))


def test_unsigned_pixels_beyond_int16_are_kept(tmp_path: Path) -> None:
    pixels = np.full((2, 4, 4), 65535, np.uint16)
    write_series(tmp_path, pixels, positions(2))
    assert (read(tmp_path).volume.data == 65535 - 1024).all()


@pytest.mark.parametrize(("kind", "padding", "as_written"), [("i2", -2000, 63536), ("i2", -2000, -2000), ("u2", 0, 0)])
def test_padding_becomes_air(kind: str, padding: int, as_written: int, tmp_path: Path) -> None:
    pixels = np.full((2, 6, 6), 1064).astype(kind)
    pixels[:, 0] = padding
    write_series(tmp_path, pixels, positions(2), RescaleIntercept=-1000 if kind == "u2" else -1024)
    for path in tmp_path.iterdir():
        data = dcmread(path)
        data.add_new("PixelPaddingValue", "US" if as_written >= 0 else "SS", as_written)
        data.save_as(path)
    hu = read(tmp_path).volume.data
    assert (hu[:, 0] == -1024).all() and (hu[:, 1:] == (64 if kind == "u2" else 40)).all()


def test_monochrome1_says_how_to_show_not_what_is_stored(tmp_path: Path) -> None:
    write_series(tmp_path, stored(2), positions(2), PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(tmp_path).volume.data.transpose(2, 1, 0), stored(2) - 1024)


def test_a_missing_scale_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, stored(2), positions(2), RescaleSlope=None, RescaleIntercept=None)
    scan = read(tmp_path)
    assert codes(scan) == ["scale-unset"] and np.array_equal(scan.volume.data.transpose(2, 1, 0), stored(2))


def test_a_copy_of_a_slice_is_dropped(tmp_path: Path) -> None:
    paths = write_series(tmp_path, stored(4), positions(4))
    (tmp_path / "again.dcm").write_bytes(paths[2].read_bytes())
    scan = read(tmp_path)
    assert codes(scan) == ["slice-copies"] and np.array_equal(scan.volume.data.transpose(2, 1, 0), stored(4) - 1024)


def test_another_slice_at_the_same_place_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, stored(4), positions(4))
    save(image(stored(1, seed=9)[0], positions(4)[2]), tmp_path / "other.dcm")
    error = refusal(tmp_path)
    assert error.code == "series-overlap" and "5 slices at 4 places" in str(error) and "other.dcm" in str(error)


def test_two_acquisitions_of_one_series_are_two(tmp_path: Path) -> None:
    for number in (1, 2):
        write_series(
            tmp_path, stored(4, seed=number), positions(4), prefix=f"a{number}_", AcquisitionNumber=number
        )  # fmt: skip
    found = find_series(tmp_path)
    assert [one.key for one in found.series] == ["#1", "#2"]
    for number, one in enumerate(found.series, start=1):
        data = read_series(one).volume.data
        assert np.array_equal(data.transpose(2, 1, 0), stored(4, seed=number) - 1024)


def test_a_gap_is_named_with_its_place(tmp_path: Path) -> None:
    paths = write_series(tmp_path, stored(8), positions(8))
    paths[3].unlink()
    scan = read(tmp_path)
    assert codes(scan) == ["slice-missing"] and scan.findings[0].value == 10
    assert "between slices 2 and 3 (im0002.dcm, im0004.dcm)" in scan.findings[0].message


def test_uneven_steps_are_said(tmp_path: Path) -> None:
    places = positions(6)
    places[3][2] += 1.0
    write_series(tmp_path, stored(6), places)
    assert codes(read(tmp_path)) == ["slice-spacing"]
    places[3][2] -= 0.9
    write_series(tmp_path, stored(6), places)
    assert codes(read(tmp_path)) == []


def test_a_scout_in_the_series_is_dropped(tmp_path: Path) -> None:
    write_series(tmp_path, stored(4), positions(4))
    scout = image(
        stored(1, (30, 40))[0], [0, 0, 0], (0, 1, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save(scout, tmp_path / "scout.dcm")
    scan = read(tmp_path)
    assert codes(scan) == ["localiser-dropped"] and scan.volume.data.shape[2] == 4


@pytest.mark.parametrize(
    ("values", "shape", "orientation", "text"),
    [
        ({}, (8, 10), AXIAL, "matrix sizes (4 slices of 12x10, 1 slices of 8x10)"),
        ({}, (12, 10), (0, 1, 0, 0, 0, -1), "orientations"),
        ({"PixelSpacing": [0.4, 0.4]}, (12, 10), AXIAL, "pixel sizes"),
    ],
)
def test_a_mixed_series_is_refused_with_counts(
    values: dict[str, Any], shape: tuple[int, int], orientation: tuple[float, ...], text: str, tmp_path: Path
) -> None:
    write_series(tmp_path, stored(4), positions(4))
    save(image(stored(1, shape)[0], [-50, -60, 50], orientation, **values), tmp_path / "odd.dcm")
    error = refusal(tmp_path)
    assert error.code == "series-mixed" and text in str(error)


def test_a_slice_beside_the_others_is_refused(tmp_path: Path) -> None:
    places = positions(5)
    places[2][0] += 20
    write_series(tmp_path, stored(5), places)
    assert refusal(tmp_path).code == "series-mixed"


def test_one_slice_takes_its_thickness(tmp_path: Path) -> None:
    write_series(tmp_path, stored(1), positions(1), SliceThickness=3.0)
    scan = read(tmp_path)
    assert codes(scan) == ["thickness-assumed"]
    assert np.linalg.norm(scan.volume.affine[:3, :3], axis=0) == pytest.approx((0.5, 0.6, 3.0))


def test_enhanced_ct_reads_like_single_files(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    write_series(tmp_path / "single", stored(5), positions(5))
    enhanced = multi_frame(stored(5)[order], [positions(5)[k] for k in order])
    save(enhanced, tmp_path / "enhanced" / "one.dcm")
    single, many = read(tmp_path / "single"), read(tmp_path / "enhanced")
    assert np.array_equal(single.volume.data, many.volume.data)
    assert np.array_equal(single.volume.affine, many.volume.affine)
    assert find_series(tmp_path / "enhanced").series[0].kernel == "H30s" and many.findings == ()


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("frames", [False, True])
def test_compressed_pixels(syntax: str, frames: bool, tmp_path: Path) -> None:
    pixels = stored(3, (64, 72))
    if frames:
        data = multi_frame(pixels, positions(3))
        data.compress(syntax)
        save(data, tmp_path / "one.dcm")
    else:
        for k in range(3):
            data = image(pixels[k], positions(3)[k])
            data.compress(syntax)
            save(data, tmp_path / f"{k}.dcm")
    scan = read(tmp_path)
    assert scan.findings == () and np.array_equal(scan.volume.data.transpose(2, 1, 0), pixels - 1024)


def test_lossless_jpeg(tmp_path: Path) -> None:
    pixels = stored(2, (64, 72))
    for path in write_series(tmp_path, pixels, positions(2)):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read(tmp_path).volume.data.transpose(2, 1, 0), pixels - 1024)


def test_a_corrupt_compressed_slice_is_left_out_with_a_warning(tmp_path: Path) -> None:
    for k, pixels in enumerate(stored(6, (64, 72))):
        data = image(pixels, positions(6)[k])
        data.compress(JPEG2000Lossless)
        path = save(data, tmp_path / f"{k}.dcm")
        if k == 2:
            path.write_bytes(path.read_bytes()[:-900])
    scan = read(tmp_path)
    assert codes(scan) == ["file-skipped", "slice-missing"] and scan.volume.data.shape[2] == 5
    assert "2.dcm" in scan.findings[0].message


def test_a_series_without_positions_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, stored(2), positions(2))
    for path in tmp_path.iterdir():
        data = dcmread(path)
        del data.ImagePositionPatient
        data.save_as(path)
    assert refusal(tmp_path).code == "no-series"


def test_too_many_voxels_are_refused_before_pixels_are_read(tmp_path: Path) -> None:
    write_series(tmp_path, stored(4), positions(4))
    (series,) = find_series(tmp_path).series
    with pytest.raises(ScanError, match="480 voxels, allowed 479") as caught:
        read_series(series, Limits(voxels=479))
    assert caught.value.code == "too-large"


def test_no_patient_is_named_in_what_comes_back(tmp_path: Path) -> None:
    write_series(tmp_path, stored(3), positions(3))
    found = find_series(tmp_path)
    scan = read_series(found.series[0])
    text = repr(found) + repr(scan) + repr([vars(plane) for plane in scan.planes]) + str(scan.volume.header)
    assert SECRET not in text and SECRET.encode() not in bytes(scan.volume.header.binaryblock)


def test_what_is_read_is_prepared_like_a_nifti_scan(tmp_path: Path) -> None:
    phantom = patient()
    hu = np.asarray(phantom.hu, np.int16)
    affine = np.asarray(phantom.affine)
    step = np.linalg.norm(affine[:3, :3], axis=0)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3] / step
    normal = np.cross(lps[:, 0], lps[:, 1])
    planes = hu.transpose(2, 1, 0)
    places = [list(np.diag([-1.0, -1.0, 1.0]) @ (affine @ (0, 0, k, 1))[:3]) for k in range(len(planes))]
    assert abs(normal @ lps[:, 2]) > 0.8
    spacing = [float(step[1]), float(step[0])]
    write_series(tmp_path, planes + np.int16(1024), places, (*lps[:, 0], *lps[:, 1]), PixelSpacing=spacing)
    mine = prepare_scan(read(tmp_path).volume, tmp_path, size=64, spacing_mm=4.0)
    theirs = prepare_scan(volume(hu, affine), tmp_path, size=64, spacing_mm=4.0)
    assert np.array_equal(mine.hu, theirs.hu)
