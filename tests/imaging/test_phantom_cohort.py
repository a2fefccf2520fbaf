"""The cohort on disk: layouts, manifest, repeatability, refusal."""

import csv
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from components.imaging.errors import UsageError
from components.imaging.phantom import generate_patient, write_cohort

LAYOUTS = {
    "folders": ("images/{case}.nii.gz", "masks/{case}.nii.gz"),
    "by-case": ("{case}/image.nii.gz", "{case}/mask.nii.gz"),
    "instance": ("data/{case}.nii.gz", "label/{case}.nii.gz"),
    "by-patient": ("{patient}/{case}/ct.nii", "{patient}/{case}/blood.nii"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_lie_where_the_patterns_say_and_hold_the_patient(tmp_path: Path, layout: str) -> None:
    image_pattern, mask_pattern = LAYOUTS[layout]
    out = tmp_path / "cohort"
    summary = write_cohort(
        out, patients=2, seed=3, image_pattern=image_pattern, mask_pattern=mask_pattern, size="tiny", workers=1
    )
    assert summary.written == 2
    expected = {pattern.format(case=case, patient=f"p{case}") for pattern in LAYOUTS[layout] for case in ("001", "002")}
    assert set(contents(out)) == expected | {"cohort.json", "cohort.csv"}
    for record in summary.cases:
        phantom = generate_patient(3, record.index, size="tiny")
        image, mask = (
            nib.Nifti1Image.from_filename(out / record.image),
            nib.Nifti1Image.from_filename(out / record.mask),
        )
        np.testing.assert_array_equal(image.get_fdata(), phantom.hu)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), phantom.mask)
        assert image.get_data_dtype() == phantom.storage.dtype
        assert mask.get_data_dtype() == np.uint8
        for file in (image, mask):
            np.testing.assert_allclose(file.affine, phantom.affine, atol=1e-3)
            np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=1e-3)
            assert int(file.header["sform_code"]) == 1
        assert "".join(nib.aff2axcodes(image.affine)) == record.codes


def test_the_bytes_depend_neither_on_workers_nor_on_the_size_of_the_cohort(tmp_path: Path) -> None:
    for name, patients, workers in (("one", 3, 1), ("two", 3, 2), ("more", 4, 1)):
        write_cohort(tmp_path / name, patients=patients, seed=1, size="tiny", workers=workers)
    one, two, more = (contents(tmp_path / name) for name in ("one", "two", "more"))
    assert one == two
    scans = [name for name in one if name.endswith(".nii.gz")]
    assert len(scans) == 6
    assert all(one[name] == more[name] for name in scans)
    # No name and no time in the gzip header: flags and time are zero.
    assert all(one[name][3:8] == bytes(5) for name in scans)


def test_the_same_request_again_rewrites_nothing(tmp_path: Path) -> None:
    arguments = {"patients": 3, "seed": 1, "size": "tiny", "manifest": True, "workers": 1}
    first = write_cohort(tmp_path / "c", **arguments)  # type: ignore[arg-type]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    again = write_cohort(tmp_path / "c", **arguments)  # type: ignore[arg-type]
    assert again.written == 0
    assert again.cases == first.cases
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}


def test_an_interrupted_cohort_is_completed_with_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "c"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(out, patients=3, seed=1, size="tiny", workers=1, progress=stop)
    assert write_cohort(out, patients=3, seed=1, size="tiny", workers=1).written > 0
    write_cohort(tmp_path / "whole", patients=3, seed=1, size="tiny", workers=1)
    assert contents(out) == contents(tmp_path / "whole")
    damaged = out / "masks/002.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert write_cohort(out, patients=3, seed=1, size="tiny", workers=1).written == 1
    assert contents(out) == contents(tmp_path / "whole")


def test_another_folder_or_cohort_is_never_written_over(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_cohort(strange, patients=1, seed=0, size="tiny")
    assert contents(strange) == {"note.txt": b"mine"}

    out = tmp_path / "c"
    write_cohort(out, patients=1, seed=0, size="tiny", workers=1)
    before = contents(out)
    for change in ({"seed": 1}, {"patients": 2}, {"size": "small"}, {"manifest": True}, {"defects": ["constant"]}):
        arguments = {"patients": 1, "seed": 0, "size": "tiny"} | change
        with pytest.raises(UsageError, match=f"another cohort: {next(iter(change))}"):
            write_cohort(out, **arguments)  # type: ignore[arg-type]
    (out / "cohort.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        write_cohort(out, patients=1, seed=0, size="tiny")
    (out / "cohort.json").write_bytes(before["cohort.json"])
    assert contents(out) == before

    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write_cohort(file, patients=1, seed=0)


def test_table_and_manifest_describe_each_case(tmp_path: Path) -> None:
    seen = []
    summary = write_cohort(
        tmp_path / "c",
        patients=6,
        seed=2,
        size="tiny",
        manifest=True,
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 6) for done in range(1, 7)]
    with (tmp_path / "c/manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "patient_id", "image", "mask", "split"]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert [row["case_id"] for row in rows] == [f"{i:03d}" for i in range(1, 7)]
    assert all((tmp_path / "c" / row["image"]).is_file() for row in rows)
    with (tmp_path / "c/cohort.csv").open() as file:
        table = list(csv.DictReader(file))
    for row, record in zip(table, summary.cases, strict=True):
        assert row["case_id"] == record.case_id
        assert row["kinds"].split() == list(record.kinds)
        mask = nib.Nifti1Image.from_filename(tmp_path / "c" / row["mask"])
        volume = np.asarray(mask.dataobj).sum() * np.prod(mask.header.get_zooms()) / 1000
        assert sum(map(float, row["volumes_ml"].split())) == pytest.approx(volume, abs=2e-3)
        assert [int(n) for n in row["shape"].split()] == list(mask.shape)
    assert json.loads((tmp_path / "c/cohort.json").read_text())["request"]["seed"] == 2


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    write_cohort(tmp_path / "c", patients=1, seed=0, size="tiny", workers=1)
    assert not [name for name in contents(tmp_path / "c") if name.endswith(".tmp")]
    gzip.decompress((tmp_path / "c/images/001.nii.gz").read_bytes())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"patients": 0}, "0 patients"),
        ({"seed": -1}, "seed -1"),
        ({"workers": 0}, "0 workers"),
        ({"image_pattern": "images/x.nii.gz"}, "image pattern"),
        ({"image_pattern": "../{case}.nii.gz"}, "image pattern"),
        ({"image_pattern": "/{case}.nii.gz"}, "image pattern"),
        ({"image_pattern": "{case}{site}.nii.gz"}, "image pattern"),
        ({"mask_pattern": "{case}.mha"}, "must end in"),
        ({"mask_pattern": "images/{case}.nii.gz"}, "share the pattern"),
        ({"defects": ["gremlins"]}, "gremlins"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    arguments = {"patients": 1, "seed": 0, "size": "tiny"} | change
    with pytest.raises(UsageError, match=word):
        write_cohort(tmp_path / "c", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()
