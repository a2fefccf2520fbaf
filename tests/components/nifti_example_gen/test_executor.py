"""The stage's executor through Beam, on a generated cohort with defects in it."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.imaging.errors import UsageError
from components.imaging.phantom import CohortSummary, write_cohort
from components.nifti_example_gen.executor import CASES_PER_SHARD
from pipeline.config import BeamConfig
from schema import features as f
from tests.components.nifti_example_gen.cohorts import execute

DEFECTS = {
    "truncated-gzip": "truncated",
    "four-dimensional": "dimensions",
    "mask-other-shape": "mask-shape",
    "mask-other-affine": "mask-affine",
    "missing-mask": "missing-mask",
    "not-nifti": "not-nifti",
}
SOUND = 10


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    out = tmp_path_factory.mktemp("executor") / "cohort"
    return write_cohort(out, patients=SOUND, seed=5, size="tiny", defects=list(DEFECTS), workers=1)


@pytest.fixture(scope="module")
def ingested(cohort: CohortSummary, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("ingested") / "examples"
    return output, execute(cohort.out, output)


def read(output: Path, split: str) -> list[Any]:
    """Parsed examples of a split, read as every later stage reads them."""
    files = sorted(str(path) for path in (output / f"Split-{split}").iterdir())
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator()
    return [tf.train.Example.FromString(record).features.feature for record in records]


def all_files(output: Path) -> dict[str, bytes]:
    """Content by name, shards unpacked: how ISA-L packs the same bytes may differ from call to call."""
    files = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items()}


def test_every_slice_is_there_once(cohort: CohortSummary, ingested: tuple[Path, dict[str, Any]]) -> None:
    output, summary = ingested
    found = Counter(
        (row[f.CASE_ID].bytes_list.value[0].decode(), row[f.SLICE_INDEX].int64_list.value[0])
        for split in f.SPLITS for row in read(output, split)
    )  # fmt: skip
    assert set(found.values()) == {1}
    sound = {case.case_id for case in cohort.cases if not case.defect}
    assert {case for case, _ in found} == sound == {case["case_id"] for case in summary["cases"]}
    for case in summary["cases"]:
        indices = sorted(index for name, index in found if name == case["case_id"])
        assert indices == list(range(case["slices"]))
    assert sum(found.values()) == sum(counts["slices"] for counts in summary["splits"].values())


def test_truth_arrives_unchanged(cohort: CohortSummary, ingested: tuple[Path, dict[str, Any]]) -> None:
    volumes = {case.case_id: sum(case.volumes_ml) for case in cohort.cases}
    assert any(volumes.values())
    for case in ingested[1]["cases"]:
        assert case["lesion_ml"] == pytest.approx(volumes[case["case_id"]], rel=1e-3, abs=1e-3)
        assert (case["lesion_slices"] > 0) == (volumes[case["case_id"]] > 0)


def test_splits_hold_other_patients(ingested: tuple[Path, dict[str, Any]]) -> None:
    output, summary = ingested
    patients = {
        split: {row[f.PATIENT_ID].bytes_list.value[0].decode() for row in read(output, split)} for split in f.SPLITS
    }
    assert sum(len(members) for members in patients.values()) == len(set().union(*patients.values())) == SOUND
    for split, members in patients.items():
        recorded = [case for case in summary["cases"] if case["split"] == split]
        assert {case["patient_id"] for case in recorded} == members
        counts = summary["splits"][split]
        assert counts["patients"] == counts["scans"] == len(members) > 0
        assert counts["slices"] == sum(case["slices"] for case in recorded)
        assert counts["lesion_slices"] == sum(case["lesion_slices"] for case in recorded)


def test_what_cannot_be_used_is_listed_with_its_reason(ingested: tuple[Path, dict[str, Any]]) -> None:
    quarantined = ingested[1]["quarantined"]
    assert {item["case_id"]: item["code"] for item in quarantined} == DEFECTS
    assert [item["case_id"] for item in quarantined] == sorted(DEFECTS)
    for item in quarantined:
        assert item["case_id"] in item["reason"]


def test_nothing_but_whole_shards_lies_in_the_split_folders(ingested: tuple[Path, dict[str, Any]]) -> None:
    output, _ = ingested
    assert {path.name for path in output.iterdir()} == {"cases.json", *(f"Split-{split}" for split in f.SPLITS)}
    for split in f.SPLITS:
        names = sorted(path.name for path in (output / f"Split-{split}").iterdir())
        assert names
        assert all(name.startswith("examples-") and name.endswith(".gz") for name in names)
        assert len(names) <= -(-SOUND // CASES_PER_SHARD) + len(DEFECTS)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 1), (2, 2)])
def test_the_examples_do_not_depend_on_the_run(
    cohort: CohortSummary,
    ingested: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    workers: int,
) -> None:
    """Neither on the threads inside a step nor on the steps at a time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    threads = ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
    execute(cohort.out, tmp_path / "again", beam=BeamConfig(args=threads if workers > 1 else []))
    assert all_files(tmp_path / "again") == all_files(ingested[0])


def test_the_fingerprint_does_not_depend_on_the_folder_or_on_what_is_unusable(
    cohort: CohortSummary, ingested: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    link(cohort, tmp_path / "same", [case.case_id for case in cohort.cases if not case.defect])
    same = execute(tmp_path / "same", tmp_path / "out")
    assert same["quarantined"] == []
    assert same["fingerprint"] == ingested[1]["fingerprint"]


def test_a_manifest_fixes_the_splits(cohort: CohortSummary, tmp_path: Path) -> None:
    link(cohort, tmp_path / "data", ["001", "002", "003", "004"])
    write_manifest(tmp_path / "data", {"001": "test", "002": "train", "003": "val", "004": "train"})
    summary = execute(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv", "lesion_labels": None})
    assert {case["case_id"]: case["split"] for case in summary["cases"]} == {
        "001": "test", "002": "train", "003": "val", "004": "train"}  # fmt: skip
    assert {case["patient_id"] for case in summary["cases"]} == {"q001", "q002", "q003", "q004"}


def link(cohort: CohortSummary, folder: Path, cases: list[str]) -> None:
    """Some cases of a cohort in a folder of their own."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for case in cases:
            (folder / kind / f"{case}.nii.gz").symlink_to(cohort.out / kind / f"{case}.nii.gz")


def write_manifest(folder: Path, splits: dict[str, str]) -> None:
    lines = [f"{case},q{case},images/{case}.nii.gz,masks/{case}.nii.gz,{split}" for case, split in splits.items()]
    (folder / "list.csv").write_text("\n".join(["case_id,patient_id,image,mask,split", *lines]) + "\n")


def test_sources_of_different_layouts_and_labels_are_mixed(cohort: CohortSummary, tmp_path: Path) -> None:
    """Equal ids, and of one source another label is blood."""
    link(cohort, tmp_path / "data" / "one", ["001", "002", "003"])
    for case, origin in (("001", "004"), ("002", "005")):
        (tmp_path / "data" / "two" / case).mkdir(parents=True)
        for kind in ("image", "mask"):
            file = tmp_path / "data" / "two" / case / f"{kind}.nii.gz"
            file.symlink_to(cohort.out / f"{kind}s" / f"{origin}.nii.gz")
    layouts = {
        "one": {"image": "one/images/{case}.nii.gz", "mask": "one/masks/{case}.nii.gz"},
        "two": {"image": "two/{case}/image.nii.gz", "mask": "two/{case}/mask.nii.gz", "lesion_labels": [7]},
    }
    summary = execute(
        tmp_path / "data", tmp_path / "out", data={"sources": layouts},
        splits={"train": 40, "val": 30, "test": 30, "salt": "h"},
    )  # fmt: skip
    cases = {case["case_id"]: case for case in summary["cases"]}
    assert {name: (case["patient_id"], case["source"]) for name, case in cases.items()} == {
        "one_001": ("one_001", "one"), "one_002": ("one_002", "one"), "one_003": ("one_003", "one"),
        "two_001": ("two_001", "two"), "two_002": ("two_002", "two"),
    }  # fmt: skip
    volumes = {case.case_id: float(sum(case.volumes_ml)) for case in cohort.cases}
    for number in ("001", "002", "003"):
        assert cases[f"one_{number}"]["lesion_ml"] == pytest.approx(volumes[number], rel=1e-3)
    assert volumes["002"] and volumes["004"] and volumes["005"]
    assert cases["two_001"]["lesion_ml"] == cases["two_002"]["lesion_ml"] == 0  # no mask has a label 7
    rows = [row for split in f.SPLITS for row in read(tmp_path / "out", split)]
    assert {row[f.CASE_ID].bytes_list.value[0].decode() for row in rows} == set(cases)


# --- checks between cases -------------------------------------------------------------------------------------


def test_leakage_between_splits_is_taken_out_of_the_shards(cohort: CohortSummary, tmp_path: Path) -> None:
    """An image that is in train already, and a scan of a patient that is in val."""
    names = ["001", "002", "003", "004", "005"]
    link(cohort, tmp_path / "data", names)
    splits = {"001": "train", "002": "train", "003": "val", "004": "test", "005": "test"}
    write_manifest(tmp_path / "data", splits)
    alone = execute(tmp_path / "data", tmp_path / "alone", data={"manifest": "list.csv"})
    with (tmp_path / "data" / "list.csv").open("a") as file:
        file.write("copy,q9,images/001.nii.gz,masks/001.nii.gz,test\n")
        file.write("moved,q003,images/004.nii.gz,masks/004.nii.gz,train\n")
        file.write("same,q10,images/002.nii.gz,masks/002.nii.gz,train\n")
    summary = execute(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv"})
    assert {item["case_id"]: item["code"] for item in summary["quarantined"]} == {
        "copy": "duplicate-across-splits", "moved": "patient-in-splits"}  # fmt: skip
    assert all(item["image"].endswith(".nii.gz") for item in summary["quarantined"])
    found = [(item["case_id"], item["code"]) for item in summary["findings"] if item["code"].startswith("dup")]
    assert found == [("same", "duplicate-image")]
    assert summary["splits"]["test"] == alone["splits"]["test"]
    for split in f.SPLITS:
        used = {row[f.CASE_ID].bytes_list.value[0].decode() for row in read(tmp_path / "out", split)}
        assert used == {case["case_id"] for case in summary["cases"] if case["split"] == split}
        assert len(read(tmp_path / "out", split)) == summary["splits"][split]["slices"]


def test_one_patient_in_two_splits_stays_in_that_of_most_scans(cohort: CohortSummary, tmp_path: Path) -> None:
    link(cohort, tmp_path / "data", ["001", "002", "003", "004"])
    write_manifest(tmp_path / "data", {"001": "train", "002": "train", "003": "val", "004": "test"})
    text = (tmp_path / "data" / "list.csv").read_text().replace("q002", "q001")
    (tmp_path / "data" / "list.csv").write_text(text + "005,q001,images/005.nii.gz,masks/005.nii.gz,test\n")
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "005.nii.gz").symlink_to(cohort.out / kind / "005.nii.gz")
    summary = execute(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv"})
    assert [(item["case_id"], item["code"]) for item in summary["quarantined"]] == [("005", "patient-in-splits")]
    assert {row[f.CASE_ID].bytes_list.value[0] for row in read(tmp_path / "out", "test")} == {b"004"}
    allowed = {"manifest": "list.csv", "checks": {"patient-in-splits": "warning"}}
    summary = execute(tmp_path / "data", tmp_path / "allowed", data=allowed)
    assert not summary["quarantined"]
    assert ("005", "patient-in-splits") in {(item["case_id"], item["code"]) for item in summary["findings"]}


def test_a_shard_left_without_a_case_is_removed(cohort: CohortSummary, tmp_path: Path) -> None:
    link(cohort, tmp_path / "data", ["001", "002", "003"])
    write_manifest(tmp_path / "data", {"001": "test", "002": "train", "003": "val"})
    with (tmp_path / "data" / "list.csv").open("a") as file:
        file.writelines(f"copy{n},q{n},images/002.nii.gz,masks/002.nii.gz,val\n" for n in range(CASES_PER_SHARD))
    execute(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv", "max_quarantined": 1.0})
    # Cases lie in order of their ids: 003 and seven copies fill one shard, the eighth copy the other.
    assert [path.name for path in (tmp_path / "out" / "Split-val").iterdir()] == ["examples-00000-of-00002.gz"]
    assert {row[f.CASE_ID].bytes_list.value[0] for row in read(tmp_path / "out", "val")} == {b"003"}


# --- refusals -------------------------------------------------------------------------------------------------


def refused(root: Path, output: Path, **sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        execute(root, output, **sections)
    return str(caught.value)


def test_training_without_a_lesion_is_refused(cohort: CohortSummary, tmp_path: Path) -> None:
    link(cohort, tmp_path / "data", ["001", "002", "003"])
    write_manifest(tmp_path / "data", {"001": "train", "002": "val", "003": "test"})
    text = refused(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv", "lesion_labels": [7]})
    assert "no lesion in the whole training split (1 scans," in text
    assert "data.lesion_labels" in text


def test_a_split_left_empty_by_unusable_scans_is_refused(cohort: CohortSummary, tmp_path: Path) -> None:
    link(cohort, tmp_path / "data", ["001", "002", "not-nifti"])
    write_manifest(tmp_path / "data", {"001": "train", "002": "val", "not-nifti": "test"})
    text = refused(tmp_path / "data", tmp_path / "out", data={"manifest": "list.csv", "max_quarantined": 0.5})
    assert "train 1, val 1, test 0" in text
    assert "quarantined were 1:\n  not-nifti: not-nifti: " in text


def test_empty_folders_and_too_few_patients_are_refused_before_anything_is_read(
    cohort: CohortSummary, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "no complete case found" in refused(tmp_path / "empty", tmp_path / "out")
    link(cohort, tmp_path / "data", ["001"])
    assert "patients per split are" in refused(tmp_path / "data", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.gz"))
