"""Reading NIfTI: what comes out for every kind of storage, and which code each unusable file gets."""

from __future__ import annotations

import gzip
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.imaging import nifti
from components.imaging.errors import ScanError
from components.imaging.geometry import Orientation
from components.imaging.nifti import Volume, read_volume, write_bytes, write_mask
from tests.imaging.scans import load, volume

SHAPE = (7, 5, 4)
AFFINE = np.array([[-0.5, 0, 0, 110.0], [0, -0.75, 0, 95.5], [0, 0, 5.0, -70.25], [0, 0, 0, 1]])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.15, 0.1) @ np.diag([-0.5, -0.75, 5.0]), [110.0, 95.5, -70.25]
)
Edit = Callable[[Any], None]


def voxels(dtype: str = "<i2") -> np.ndarray:
    """Numbers that tell every voxel and both byte orders apart."""
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    low = 0 if np.dtype(dtype).kind == "u" else -60
    return (values + low if np.dtype(dtype).itemsize == 1 else values * 7 + low).astype(dtype)


def encode(
    data: np.ndarray,
    affine: np.ndarray = AFFINE,
    *,
    edit: Edit | None = None,
    scale: tuple[float, float] = (1.0, 0.0),
    nifti2: bool = False,
    big: bool = False,
) -> bytes:
    """A NIfTI file as bytes whose body is `data` as it is, whatever the scale in the header."""
    kind = nib.nifti2.Nifti2Header if nifti2 else nib.Nifti1Header
    header = kind(endianness=">" if big else "<")
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["magic"] = b"n+2" if nifti2 else b"n+1"
    header["vox_offset"] = 544 if nifti2 else 352
    header["scl_slope"], header["scl_inter"] = scale
    if edit is not None:
        edit(header)
    body = data.astype(data.dtype.newbyteorder(">" if big else "<")) if data.dtype.kind != "V" else data
    return header.binaryblock + bytes(4) + body.tobytes(order="F")


def put(folder: Path, raw: bytes, name: str = "scan.nii") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(raw, 1) if name.endswith(".gz") else raw)
    return path


def code_of(path: Path, **options: int) -> str:
    with pytest.raises(ScanError) as caught:
        read_volume(path, **options)
    assert str(path) in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("nifti2", [False, True])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_every_storage_gives_the_values_that_nibabel_gives(
    tmp_path: Path, name: str, nifti2: bool, big: bool, dtype: str
) -> None:
    path = put(tmp_path, encode(voxels(dtype), OBLIQUE, nifti2=nifti2, big=big), name)
    read = read_volume(path)
    reference = load(path)
    np.testing.assert_array_equal(read.data, voxels(dtype))
    np.testing.assert_array_equal(read.data, reference.get_fdata())
    np.testing.assert_allclose(read.affine, reference.affine, atol=1e-9)
    assert read.data.dtype.itemsize <= 4
    assert read.data.dtype.isnative


def test_integers_that_fit_stay_int16_and_others_keep_their_value(tmp_path: Path) -> None:
    assert read_volume(put(tmp_path, encode(voxels("i4")))).data.dtype == np.int16
    wide = voxels("i4")
    wide[0, 0, 0] = 70_000
    read = read_volume(put(tmp_path, encode(wide)))
    assert read.data.dtype == np.float32
    assert read.data[0, 0, 0] == 70_000
    high = voxels("u2")
    high[0, 0, 0] = 65_535
    assert read_volume(put(tmp_path, encode(high))).data[0, 0, 0] == 65_535


@pytest.mark.parametrize(
    ("scale", "slope", "inter"),
    [
        ((2.0, -1024.0), 2.0, -1024.0),
        ((0.5, 10.0), 0.5, 10.0),
        ((-1.0, 0.0), -1.0, 0.0),
        ((1.0, -1024.0), 1.0, -1024.0),
        # A slope of 0 or NaN means that nothing is scaled; the standard then ignores the intercept too.
        ((0.0, 0.0), 1.0, 0.0),
        ((0.0, 5.0), 1.0, 0.0),
        ((np.nan, np.nan), 1.0, 0.0),
        ((2.0, np.nan), 2.0, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_scale(tmp_path: Path, dtype: str, scale: tuple[float, float], slope: float, inter: float) -> None:
    read = read_volume(put(tmp_path, encode(voxels(dtype), scale=scale)))
    np.testing.assert_allclose(read.data, voxels(dtype).astype(np.float64) * slope + inter, rtol=1e-6)


def test_a_fourth_axis_of_one_frame_is_dropped(tmp_path: Path) -> None:
    read = read_volume(put(tmp_path, encode(voxels()[..., np.newaxis])))
    np.testing.assert_array_equal(read.data, voxels())
    read = read_volume(put(tmp_path, encode(voxels()[..., np.newaxis, np.newaxis])))
    assert read.data.shape == SHAPE


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    zipped = put(tmp_path, gzip.compress(encode(voxels())), "scan.nii")
    np.testing.assert_array_equal(read_volume(zipped).data, voxels())
    plain = tmp_path / "plain.nii.gz"
    plain.write_bytes(encode(voxels()))
    np.testing.assert_array_equal(read_volume(plain).data, voxels())


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a name" * 20))
    nib.save(image, tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").data, voxels())


def test_missing_and_empty(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing.nii.gz") == "missing-file"
    assert code_of(put(tmp_path, b"")) == "empty-file"
    assert code_of(tmp_path) == "unreadable"


@pytest.mark.parametrize(
    "raw",
    [b"\0", b"This is a note about a scan. " * 40, bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(400)],
    ids=["one byte", "text", "zeros", "png"],
)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_not_nifti(tmp_path: Path, name: str, raw: bytes) -> None:
    assert code_of(put(tmp_path, raw, name)) == "not-nifti"


def test_header_of_a_pair_of_files_is_no_scan(tmp_path: Path) -> None:
    def pair(header: Any) -> None:
        header["magic"] = b"ni1"

    assert code_of(put(tmp_path, encode(voxels(), edit=pair))) == "not-nifti"


@pytest.mark.parametrize("keep", [5, 200, 350, 360, -1], ids=lambda keep: f"{keep} bytes")
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("nifti2", [False, True])
def test_truncated_file(tmp_path: Path, name: str, keep: int, nifti2: bool) -> None:
    assert code_of(put(tmp_path, encode(voxels(), nifti2=nifti2)[:keep], name)) == "truncated"


def test_truncated_gzip_stream(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 10)).astype(np.int16)
    whole = gzip.compress(encode(noise))
    path = tmp_path / "scan.nii.gz"
    for keep in (3, 30, 400, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:keep])
        assert code_of(path) in ("truncated", "unreadable"), keep
    path.write_bytes(whole[: len(whole) // 2])
    assert code_of(path) == "truncated"


@pytest.mark.parametrize("place", [1000, -40], ids=["near the start", "near the end"])
@pytest.mark.parametrize("trailing", [0, 2_000_000], ids=["voxels only", "more behind the voxels"])
def test_wrong_bit_in_a_gzip_stream_is_noticed(tmp_path: Path, place: int, trailing: int) -> None:
    """Stored blocks: any bit inflates, so that only the checksum at the stream's very end can tell."""
    noise = np.random.default_rng(0).integers(-1000, 1000, (100, 100, 50)).astype(np.int16)
    whole = bytearray(gzip.compress(encode(noise) + bytes(trailing), 0))
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_volume(path).data, noise)
    whole[place] ^= 0x10
    path.write_bytes(whole)
    assert code_of(path) == "unreadable"


def test_frames_and_planes_are_refused(tmp_path: Path) -> None:
    assert code_of(put(tmp_path, encode(np.stack([voxels()] * 3, axis=3)))) == "dimensions"
    assert code_of(put(tmp_path, encode(voxels()[:, :, 0]))) == "dimensions"


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_claim_of_100_gigabytes_is_refused_at_once(tmp_path: Path, name: str) -> None:
    def claim(header: Any) -> None:
        header["dim"][1:4] = (5000, 5000, 2000)

    path = put(tmp_path, encode(voxels(), edit=claim), name)
    began = time.monotonic()
    assert code_of(path) == "too-large"
    assert time.monotonic() - began < 0.5
    assert code_of(put(tmp_path, encode(voxels())), max_voxels=100) == "too-large"


@pytest.mark.parametrize("dtype", ["c8", "c16", [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=str)
def test_what_is_no_number_is_refused(tmp_path: Path, dtype: Any) -> None:
    assert code_of(put(tmp_path, encode(np.zeros(SHAPE, dtype)))) == "dtype"


def test_unknown_type_is_refused(tmp_path: Path) -> None:
    def strange(header: Any) -> None:
        header["datatype"] = 77

    assert code_of(put(tmp_path, encode(voxels(), edit=strange))) == "unreadable"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_voxels_that_are_no_numbers(tmp_path: Path, dtype: str, value: float) -> None:
    data = voxels(dtype)
    data[3, 2, 1] = value
    assert code_of(put(tmp_path, encode(data))) == "not-finite"


def edit_of(**fields: Any) -> Edit:
    def edit(header: Any) -> None:
        for name, value in fields.items():
            header[name] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        edit_of(srow_x=(np.nan, 0, 0, 0)),
        edit_of(srow_x=(0, 0, 0, 0)),
        edit_of(srow_x=(500, 0, 0, 0)),
        # Two axes that lie on each other.
        edit_of(srow_x=(-0.5, 0, 0, 0), srow_y=(0, 0, 0, 0), srow_z=(0, 0.75, 5, 0)),
        edit_of(sform_code=0, quatern_b=2.0),
        edit_of(sform_code=0, quatern_b=np.nan),
        edit_of(sform_code=0, qform_code=0, pixdim=(1, 0, 0.75, 5, 0, 0, 0, 0)),
        edit_of(sform_code=0, pixdim=(1, 0.5, np.nan, 5, 0, 0, 0, 0)),
    ],
    ids=["nan", "zero spacing", "huge spacing", "flat", "quaternion", "nan quaternion", "zero pixdim", "nan pixdim"],
)
def test_unusable_geometry(tmp_path: Path, edit: Edit) -> None:
    assert code_of(put(tmp_path, encode(voxels(), edit=edit))) == "geometry"


@pytest.mark.parametrize("qfac", [0.0, 1.0])
def test_qform_with_unset_handedness_and_negative_pixdim_is_read_as_the_standard_says(
    tmp_path: Path, qfac: float
) -> None:
    edit = edit_of(sform_code=0, pixdim=(qfac, -0.5, 0.75, 5, 0, 0, 0, 0))
    # Of a rotation by half a turn about z, which is right-handed.
    assert read_volume(put(tmp_path, encode(voxels(), edit=edit))).affine == pytest.approx(AFFINE, abs=1e-4)


def codes_of(image: Any) -> tuple[int, int]:
    return int(image.header["sform_code"]), int(image.header["qform_code"])


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize("nifti2", [False, True])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 3), (0, 0)])
def test_mask_lies_where_the_scan_lies(
    tmp_path: Path, name: str, nifti2: bool, big: bool, codes: tuple[int, int]
) -> None:
    edit = edit_of(sform_code=codes[0], qform_code=codes[1])
    scan = put(tmp_path, encode(voxels(), OBLIQUE, edit=edit, scale=(2.0, -1024.0), nifti2=nifti2, big=big))
    mask = voxels() % 3 == 0
    write_mask(tmp_path / name, mask, read_volume(scan))
    image, reference = load(tmp_path / name), load(scan)
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()), mask)
    np.testing.assert_array_equal(image.get_fdata(), mask)
    assert image.get_data_dtype() == np.int8
    assert type(image) is type(reference)
    np.testing.assert_array_equal(image.affine, reference.affine)
    assert codes_of(image) == codes
    for form in ("get_sform", "get_qform"):
        np.testing.assert_array_equal(getattr(image, form)(), getattr(reference, form)())
    assert image.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    np.testing.assert_array_equal(read_volume(tmp_path / name).data, mask)


def test_mask_of_a_scan_with_one_frame_has_three_axes(tmp_path: Path) -> None:
    scan = read_volume(put(tmp_path, encode(voxels()[..., np.newaxis])))
    write_mask(tmp_path / "mask.nii", voxels() > 0, scan)
    assert load(tmp_path / "mask.nii").shape == SHAPE


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
@pytest.mark.parametrize("nifti2", [False, True])
def test_mask_carries_no_free_text_of_the_scan(tmp_path: Path, name: str, nifti2: bool) -> None:
    names = ["descrip", "aux_file", "intent_name", *([] if nifti2 else ["db_name", "data_type"])]
    image = (nib.Nifti2Image if nifti2 else nib.Nifti1Image)(voxels(), AFFINE)
    for field in names:
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 1950-01-01"))
    nib.save(image, tmp_path / "scan.nii")
    assert b"DOE" in (tmp_path / "scan.nii").read_bytes()
    write_mask(tmp_path / name, voxels() > 0, read_volume(tmp_path / "scan.nii"))
    raw = (tmp_path / name).read_bytes()
    assert b"DOE" not in (gzip.decompress(raw) if name.endswith(".gz") else raw)


def test_mask_of_a_scan_without_extension_bytes(tmp_path: Path) -> None:
    """Some writers put the voxels straight behind the 348 bytes of the header."""
    raw = encode(voxels(), edit=edit_of(vox_offset=348))
    scan = read_volume(put(tmp_path, raw[:348] + raw[352:]))
    np.testing.assert_array_equal(scan.data, voxels())
    write_mask(tmp_path / "mask.nii", voxels() > 0, scan)
    np.testing.assert_array_equal(load(tmp_path / "mask.nii").get_fdata(), voxels() > 0)


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_mask(tmp_path / name, voxels() > 0, volume(voxels(), AFFINE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "mask.nii"
    write_bytes(target, b"old")
    assert target.stat().st_mode & 0o777 == 0o644

    def fail(number: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(nifti.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(target, b"new")
    assert [path.name for path in target.parent.iterdir()] == ["mask.nii"]
    assert target.read_bytes() == b"old"


@settings(max_examples=200, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    changes=st.lists(st.tuples(st.integers(0, 560), st.integers(0, 255)), max_size=6),
    keep=st.one_of(st.none(), st.integers(1, 600)),
    zipped=st.sampled_from(["no", "before", "after"]),
    nifti2=st.booleans(),
)
def test_a_spoiled_file_gives_a_volume_or_a_reason(
    tmp_path: Path, changes: list[tuple[int, int]], keep: int | None, zipped: str, nifti2: bool
) -> None:
    """`before`: the spoiled file is gzipped; `after`: the gzip stream itself is spoiled."""
    raw = bytearray(encode(voxels(), nifti2=nifti2, edit=edit_of(sform_code=len(changes) % 2)))
    if zipped == "after":
        raw = bytearray(gzip.compress(bytes(raw), 1))
    for place, value in changes:
        raw[place % len(raw)] = value
    spoiled = bytes(raw[:keep])
    path = tmp_path / "scan.nii"
    path.write_bytes(gzip.compress(spoiled, 1) if zipped == "before" else spoiled)
    with warnings.catch_warnings(action="error", category=RuntimeWarning):
        check_volume_or_reason(path)


FIELDS = {"dim": 8, "pixdim": 8, "srow_x": 4, "srow_z": 4, "quatern_b": 1, "vox_offset": 1, "scl_slope": 1,
          "scl_inter": 1, "sform_code": 1, "qform_code": 1, "datatype": 1, "bitpix": 1}  # fmt: skip


@settings(max_examples=200, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data(), nifti2=st.booleans(), big=st.booleans())
def test_strange_header_fields_give_a_volume_or_a_reason(
    tmp_path: Path, data: st.DataObject, nifti2: bool, big: bool
) -> None:
    def edit(header: Any) -> None:
        for name in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True)):
            place = data.draw(st.integers(0, FIELDS[name] - 1))
            if header[name].dtype.kind == "f":
                drawn: Any = data.draw(st.sampled_from([0.0, -1.0, 1.0, np.nan, np.inf, 1e-30, 1e30, 0.7, 348, 400]))
            else:
                drawn = data.draw(st.sampled_from([0, -1, 1, 2, 3, 4, 7, 16, 512, 1024, 32767]))
            if FIELDS[name] > 1:
                header[name][place] = drawn
            else:
                header[name] = drawn

    path = tmp_path / "scan.nii"
    path.write_bytes(encode(voxels(), nifti2=nifti2, big=big, edit=edit))
    with warnings.catch_warnings(action="error", category=RuntimeWarning):
        check_volume_or_reason(path)


def check_volume_or_reason(path: Path) -> None:
    try:
        read = read_volume(path, max_voxels=100_000)
    except ScanError as error:
        assert error.code
        assert str(path) in str(error)
        return
    assert isinstance(read, Volume)
    assert np.isfinite(read.data).all()
    # What can be read can be oriented, and a mask can be written on it.
    canonical = Orientation.of(read.affine)
    assert all(size > 0 for size in canonical.spacing_mm)
    mask = np.zeros(read.data.shape, bool)
    mask[-1, 0, 0] = True
    target = path.with_name("mask.nii")
    write_mask(target, mask, read)
    written = read_volume(target)
    np.testing.assert_array_equal(written.data, mask)
    np.testing.assert_array_equal(written.affine, read.affine)


def test_a_bomb_behind_the_voxels_is_not_inflated_to_its_end(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.eye(4))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes() + bytes(80 * 1024 * 1024), 9))
    with pytest.raises(ScanError, match="bytes follow the voxels") as caught:
        read_volume(path)
    assert caught.value.code == "unreadable"
