"""Position and pixels against ITK's own DICOM reader, slice by slice."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from components.imaging.dicom.read import DicomScan, read_series
from components.imaging.dicom.series import find_series
from components.imaging.geometry import Orientation
from tests.imaging.dicom.files import AXIAL, SHAPE, positions, stored, write_series

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(20))), float(-np.sin(np.radians(20))))
OBLIQUE = Rotation.from_euler("xyz", [9, -7, 12], degrees=True).as_matrix()

CASES = {
    "axial": (AXIAL, (0.0, 0.0, 5.0)),
    "downwards": (AXIAL, (0.0, 0.0, -5.0)),
    "tilted": (TILTED, (0.0, 0.0, 5.0)),
    "oblique": ((*OBLIQUE[:, 0], *OBLIQUE[:, 1]), tuple(3.0 * OBLIQUE[:, 2])),
    "feet first prone": ((1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (0.0, 0.0, 2.5)),
    "feet first supine": ((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 2.5)),
    "prone": ((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (0.0, 0.0, 0.6)),
}


def read(path: Path) -> DicomScan:
    """The only series there."""
    (series,) = find_series(path).series
    return read_series(series)


@pytest.mark.parametrize("case", CASES)
def test_every_voxel_lies_where_itk_puts_it(case: str, tmp_path: Path) -> None:
    orientation, step = CASES[case]
    write_series(tmp_path, stored(5), positions(5, step), orientation)
    scan = read(tmp_path)
    assert scan.findings == ()
    assert scan.volume.data.shape == (SHAPE[1], SHAPE[0], 5) and scan.volume.data.dtype == np.int16
    assert [plane.name for plane in scan.planes] == sorted(
        (plane.name for plane in scan.planes), reverse=scan.planes[0].name != "im0000.dcm"
    )
    for k, plane in enumerate(scan.planes):
        slice_ = SimpleITK.ReadImage(str(tmp_path / plane.name))
        assert np.array_equal(scan.volume.data[:, :, k].T, SimpleITK.GetArrayFromImage(slice_)[0])
        for i, j in ((0, 0), (9, 0), (0, 11), (4, 7)):
            wanted = LPS_TO_RAS @ slice_.TransformIndexToPhysicalPoint((i, j, 0))
            assert (scan.volume.affine @ (i, j, k, 1))[:3] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"tilted"}))
def test_the_affine_is_that_of_itks_series_reader(case: str, tmp_path: Path) -> None:
    orientation, step = CASES[case]
    write_series(tmp_path, stored(4), positions(4, step), orientation)
    scan = read(tmp_path)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(tmp_path / plane.name) for plane in scan.planes])
    itk = reader.Execute()
    affine = scan.volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    assert spacing == pytest.approx(itk.GetSpacing(), abs=1e-4)
    assert LPS_TO_RAS @ affine[:3, 3] == pytest.approx(itk.GetOrigin(), abs=1e-4)
    assert LPS_TO_RAS @ (affine[:3, :3] / spacing) == pytest.approx(np.reshape(itk.GetDirection(), (3, 3)), abs=1e-4)
    assert np.array_equal(scan.volume.data.T, SimpleITK.GetArrayFromImage(itk))


def test_a_tilted_gantry_shears_and_keeps_the_distance_across_slices(tmp_path: Path) -> None:
    write_series(tmp_path, stored(6), positions(6, (0, 0, 5.0)), TILTED)
    volume = read(tmp_path).volume
    assert Orientation.of(volume.affine).spacing_mm == pytest.approx((5 * np.cos(np.radians(20)), 0.6, 0.5), abs=1e-4)
    assert np.allclose(volume.header.get_sform(), volume.affine) and int(volume.header["qform_code"]) == 0


def test_names_and_numbers_of_the_files_do_not_matter(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", stored(8), positions(8))
    first = read(tmp_path / "a")
    order = list(range(8))
    random.Random(1).shuffle(order)
    (tmp_path / "b" / "deep").mkdir(parents=True)
    for path, number in zip(paths, order, strict=True):
        (tmp_path / "b" / ("deep" if number % 2 else ".") / f"{number}").write_bytes(path.read_bytes())
    second = read(tmp_path / "b")
    assert np.array_equal(first.volume.data, second.volume.data)
    assert np.array_equal(first.volume.affine, second.volume.affine)
