"""Finding series in folders and archives, hostile ones included."""

from __future__ import annotations

import os
import stat
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from components.imaging.dicom.read import read_series
from components.imaging.dicom.series import find_series
from components.imaging.dicom.store import Limits
from components.imaging.errors import ScanError
from tests.imaging.dicom.files import SECRET, image, positions, save, stored, write_series


def refusal(path: Path, limits: Limits | None = None) -> ScanError:
    """What finding raises; it names no patient."""
    with pytest.raises(ScanError) as caught:
        find_series(path, limits)
    assert SECRET not in str(caught.value)
    return caught.value


def zipped(folder: Path, target: Path) -> Path:
    """All files of a folder in a zip."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_series_are_apart_and_other_files_are_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "a", stored(3), positions(3), SeriesInstanceUID="1.2.9", SeriesNumber=10)
    write_series(tmp_path / "b" / "c", stored(4), positions(4), SeriesInstanceUID="1.2.8", SeriesNumber=9)
    (tmp_path / "README").write_text("no DICOM")
    (tmp_path / "empty").touch()
    (tmp_path / "text.dcm").write_bytes(b"x" * 5000)
    found = find_series(tmp_path)
    assert [(one.key, one.number, len(one.planes)) for one in found.series] == [("#1", "9", 4), ("#2", "10", 3)]
    assert found.skipped == 3 and found.findings == ()


def test_one_file_is_a_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, stored(3), positions(3))
    assert len(find_series(paths[1]).series[0].planes) == 1


def test_identifiers_that_are_no_uids(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path, stored(3), positions(3), SeriesInstanceUID="ID_e17326", SOPInstanceUID="ID_f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (series,) = find_series(tmp_path).series
        read_series(series)
    assert series.series_uid == "ID_e17326"


def test_a_file_without_preamble(tmp_path: Path) -> None:
    for path in write_series(tmp_path, stored(3), positions(3)):
        data = dcmread(path)
        del data.file_meta
        data.preamble = None
        data.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    found = find_series(tmp_path)
    assert found.skipped == 0
    assert np.array_equal(read_series(found.series[0]).volume.data.transpose(2, 1, 0), stored(3) - 1024)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_reported_and_the_rest_is_read(share: float, tmp_path: Path) -> None:
    paths = write_series(tmp_path, stored(6, (24, 24)), positions(6))
    whole = paths[5].read_bytes()
    paths[5].write_bytes(whole[: int(len(whole) * share)])
    found = find_series(tmp_path)
    assert [finding.code for finding in found.findings] == ["file-skipped"]
    assert found.findings[0].message.startswith("im0005.dcm: ") and SECRET not in found.findings[0].message
    assert read_series(found.series[0]).volume.data.shape == (24, 24, 5)


def test_a_header_of_a_hundred_gigabytes_is_a_truncated_file(tmp_path: Path) -> None:
    save(image(stored(1)[0], [0, 0, 0], Rows=65535, Columns=65535, NumberOfFrames=12), tmp_path / "big.dcm")
    error = refusal(tmp_path)
    assert (error.code == "not-dicom" and "12 frames" in str(error)) or "the header claims" in str(error)


def test_a_deflated_file_is_refused_unread(tmp_path: Path) -> None:
    data = image(stored(1)[0], [0, 0, 0])
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(data, tmp_path / "deflated.dcm")
    assert "deflated" in str(refusal(tmp_path))


def test_nothing_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent").code == "missing-file"
    assert refusal(tmp_path).code == "not-dicom"
    (tmp_path / "a.txt").write_text("a")
    assert "found 1 files" in str(refusal(tmp_path))


def test_links_are_not_followed(tmp_path: Path) -> None:
    write_series(tmp_path / "study", stored(3), positions(3))
    outside = write_series(tmp_path / "outside", stored(2), positions(2), SeriesInstanceUID="1.2.7")
    (tmp_path / "study" / "loop").symlink_to(tmp_path / "study", target_is_directory=True)
    (tmp_path / "study" / "leak").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "study" / "leak.dcm").symlink_to(outside[0])
    os.mkfifo(tmp_path / "study" / "pipe")  # opening it would wait for ever
    found = find_series(tmp_path / "study")
    assert [len(one.planes) for one in found.series] == [3] and found.skipped == 0


def test_depth_and_number_are_bounded(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    write_series(tmp_path / "a", stored(2), positions(2))
    write_series(deep, stored(2, seed=1), positions(2), SeriesInstanceUID="1.2.7")
    assert len(find_series(tmp_path, Limits(depth=3)).series) == 2
    assert len(find_series(tmp_path, Limits(depth=2)).series) == 1
    assert refusal(tmp_path, Limits(files=6)).code == "too-large"
    assert len(find_series(tmp_path, Limits(files=7)).series) == 2


def test_many_tiny_files_take_bounded_time(tmp_path: Path) -> None:
    write_series(tmp_path, stored(3), positions(3))
    whole = (tmp_path / "im0000.dcm").read_bytes()
    for index in range(1000):
        (tmp_path / f"noise{index}").write_bytes(b"\x08\x00" + bytes([index % 256]) * 40)
        (tmp_path / f"cut{index}").write_bytes(whole[: 132 + index % 200])
    began = time.process_time()  # not the clock: other processes may run beside
    found = find_series(tmp_path)
    assert time.process_time() - began < 10
    assert len(found.series) == 1 and len(found.findings) == 20
    assert "more files cannot be read" in found.findings[-1].message


def test_a_zip_reads_like_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "study", stored(4), positions(4))
    zipped(tmp_path / "study", tmp_path / "study" / "nested.zip")
    archive = zipped(tmp_path / "study", tmp_path / "study.zip")
    found = find_series(archive)
    assert found.skipped == 1 and len(found.series) == 1
    mine = read_series(found.series[0]).volume
    theirs = read_series(find_series(tmp_path / "study").series[0]).volume
    assert np.array_equal(mine.data, theirs.data) and np.array_equal(mine.affine, theirs.affine)


@pytest.mark.parametrize("name", ["../im.dcm", "/etc/im.dcm", "a/../../im.dcm", "..\\im.dcm", "C:\\im.dcm"])
def test_a_zip_whose_names_lead_out_is_refused(name: str, tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "study", stored(1), positions(1))
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, path.read_bytes())
    assert refusal(tmp_path / "bad.zip").code == "unsafe-archive"


def test_a_link_in_a_zip_is_no_file(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "study", stored(1), positions(1))
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.write(path, "im.dcm")
    found = find_series(tmp_path / "a.zip")
    assert len(found.series[0].planes) == 1 and found.skipped == 0


def test_zip_bombs_are_refused_by_what_they_declare(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(4_000_000))
    for limits in (Limits(ratio_from_bytes=1_000_000), Limits(archive_bytes=3_999_999), Limits(file_bytes=3_999_999)):
        assert refusal(tmp_path / "bomb.zip", limits).code == "too-large"
    assert refusal(tmp_path / "bomb.zip").code == "not-dicom"


def test_a_zip_that_lies_about_a_size_yields_no_more_than_it_declares(tmp_path: Path) -> None:
    good = write_series(tmp_path / "study", stored(1), positions(1))[0].read_bytes()
    with zipfile.ZipFile(tmp_path / "lie.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", good)
        archive.writestr("zeros", bytes(3_000_000))
    raw = (tmp_path / "lie.zip").read_bytes()
    real = (3_000_000).to_bytes(4, "little")
    assert raw.count(real) == 2
    (tmp_path / "lie.zip").write_bytes(raw.replace(real, (1000).to_bytes(4, "little")))
    found = find_series(tmp_path / "lie.zip")
    assert len(found.series) == 1 and [finding.code for finding in found.findings] == ["file-skipped"]
    assert "corrupt" in found.findings[0].message


def test_broken_and_encrypted_zips_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "study", stored(2), positions(2))
    archive = zipped(tmp_path / "study", tmp_path / "a.zip")
    raw = bytearray(archive.read_bytes())
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 8] |= 1  # the flag of encryption
    archive.write_bytes(raw)
    assert refusal(archive).code == "unsafe-archive"
    raw[directory : directory + 4] = b"xxxx"
    archive.write_bytes(raw)
    assert refusal(archive).code == "unreadable"
