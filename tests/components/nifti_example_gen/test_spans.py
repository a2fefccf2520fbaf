"""Deliveries of data below one folder: which are read, what wins, and that TFX would pick the same one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tfx.components.example_gen import input_processor, utils
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2

from components.imaging.errors import UsageError
from components.imaging.phantom import write_cohort
from components.nifti_example_gen.driver import Driver
from components.nifti_example_gen.layout import Superseded, find_cases, fingerprint
from components.nifti_example_gen.spans import placeholders, span_name, span_of
from components.nifti_example_gen.splits import split_of
from tests.components.nifti_example_gen.cohorts import component, execute
from tests.components.nifti_example_gen.test_layout import HEADER, data, sources, touch

NUMBERED = {"image": "span-{SPAN}/images/{case}.nii.gz", "mask": "span-{SPAN}/masks/{case}.nii.gz"}
DATED = {"image": "{YYYY}-{MM}-{DD}/{case}.nii", "mask": "{YYYY}-{MM}-{DD}/{case}_mask.nii"}


def deliver(root: Path, span: str, *cases: str) -> None:
    touch(root, *(f"span-{span}/{kind}/{case}.nii.gz" for kind in ("images", "masks") for case in cases))


# --- placeholders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("images/{case}.nii", ()),
        ("s{SPAN}/{case}.nii", ("{SPAN}",)),
        ("{DD}.{MM}.{YYYY}/{case}.nii", ("{YYYY}", "{MM}", "{DD}")),
    ],
)
def test_placeholders(pattern: str, found: tuple[str, ...]) -> None:
    assert placeholders(pattern) == found


@pytest.mark.parametrize("pattern", ["{SPAN}/{SPAN}", "{YYYY}-{MM}", "{SPAN}/{YYYY}-{MM}-{DD}", "{YYYY}{YYYY}{MM}{DD}"])
def test_unusable_placeholders(pattern: str) -> None:
    with pytest.raises(ValueError, match="may "):
        placeholders(pattern)


def test_dates_are_counted_as_tfx_counts_them() -> None:
    for year, month, day in ((1970, 1, 1), (2024, 2, 29), (2026, 12, 31)):
        groups = {"YYYY": f"{year:04}", "MM": f"{month:02}", "DD": f"{day:02}"}
        span = span_of(groups, "file")
        assert span == utils.date_to_span_number(year, month, day)
        assert span_name(span, DATED["image"]) == f"{year:04}-{month:02}-{day:02}"


# --- which are read -------------------------------------------------------------------------------------------


def test_the_newest_by_number_is_read(tmp_path: Path) -> None:
    deliver(tmp_path, "9", "a")
    deliver(tmp_path, "10", "b", "c")
    deliver(tmp_path, "next", "d")  # no number, no span
    cohort = find_cases(tmp_path, data(**NUMBERED))
    assert [case.case_id for case in cohort.cases] == ["b", "c"]
    assert cohort.cases[0].image == tmp_path / "span-10/images/b.nii.gz"
    assert (cohort.span, cohort.spans) == (10, (10,))


def test_a_window_of_the_last_spans(tmp_path: Path) -> None:
    for span, case in (("1", "a"), ("2", "b"), ("5", "c")):
        deliver(tmp_path, span, case)
    cohort = find_cases(tmp_path, data(**NUMBERED, spans=2))
    assert [(case.case_id, case.span) for case in cohort.cases] == [("b", 2), ("c", 5)]
    assert cohort.spans == (5, 2)
    assert find_cases(tmp_path, data(**NUMBERED, spans=9)).spans == (5, 2, 1)


def test_a_case_that_comes_again_is_taken_from_the_newest_span_and_noted(tmp_path: Path) -> None:
    deliver(tmp_path, "1", "a", "b")
    deliver(tmp_path, "2", "a")
    deliver(tmp_path, "3", "a", "c")
    cohort = find_cases(tmp_path, data(**NUMBERED, spans=3))
    assert [(case.case_id, case.span) for case in cohort.cases] == [("a", 3), ("b", 1), ("c", 3)]
    assert cohort.superseded == [Superseded("a", 1, 3), Superseded("a", 2, 3)]


def test_an_incomplete_newer_scan_does_not_hide_the_complete_older_one(tmp_path: Path) -> None:
    deliver(tmp_path, "1", "a")
    deliver(tmp_path, "2", "b")
    touch(tmp_path, "span-2/images/a.nii.gz")
    cohort = find_cases(tmp_path, data(**NUMBERED, spans=2))
    assert [(case.case_id, case.span) for case in cohort.cases] == [("a", 1), ("b", 2)]
    (missing,) = cohort.quarantined
    assert (missing.case_id, missing.code) == ("a", "missing-mask")
    assert str(tmp_path / "span-2/masks/a.nii.gz") in missing.reason


def test_a_span_is_one_delivery_of_all_sources(tmp_path: Path) -> None:
    layout = {name: {key: f"{name}/{pattern}" for key, pattern in NUMBERED.items()} for name in ("a", "b")}
    for span in ("1", "2", "3"):
        deliver(tmp_path / "a", span, "x")
    deliver(tmp_path / "b", "1", "x", "y")
    deliver(tmp_path / "b", "2", "x")

    def read(spans: int, newest: int | None = None) -> tuple[dict[str, int], tuple[int, ...]]:
        cohort = find_cases(tmp_path, {**sources(**layout), "spans": spans}, newest=newest)
        return {case.case_id: case.span for case in cohort.cases}, cohort.spans

    assert read(1) == ({"a_x": 3}, (3,))
    assert read(2) == ({"a_x": 3, "b_x": 2}, (3, 2))
    assert read(3) == ({"a_x": 3, "b_x": 2, "b_y": 1}, (3, 2, 1))
    assert read(1, newest=2) == ({"a_x": 2, "b_x": 2}, (2,))
    touch(tmp_path, "b/span-3/images/z.nii.gz")  # delivered, but without a mask
    with pytest.raises(UsageError, match=r"no complete case of source b found in the newest span 3 .*z\.nii\.gz"):
        read(1)


def test_masks_of_another_span_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "span-2/images/a.nii.gz", "span-1/masks/a.nii.gz")
    with pytest.raises(UsageError, match=r"in the newest span 2 .*span-2/masks/a\.nii\.gz"):
        find_cases(tmp_path, data(**NUMBERED))


def test_a_half_delivered_newest_span_is_an_error_and_not_the_old_data_again(tmp_path: Path) -> None:
    deliver(tmp_path, "1", "a")
    touch(tmp_path, "span-2/images/b.nii.gz")
    with pytest.raises(UsageError, match="in the newest span 2"):
        find_cases(tmp_path, data(**NUMBERED))


def test_dated_folders(tmp_path: Path) -> None:
    for date in ("2025-12-31", "2026-01-02", "2026-01-01"):
        touch(tmp_path, *(f"{date}/{case}{end}.nii" for case in ("a", f"only-{date}") for end in ("", "_mask")))
    cohort = find_cases(tmp_path, data(**DATED, spans=2))
    assert [case.case_id for case in cohort.cases] == ["a", "only-2026-01-01", "only-2026-01-02"]
    assert cohort.cases[0].image == tmp_path / "2026-01-02/a.nii"
    assert [span_name(span, DATED["image"]) for span in cohort.spans] == ["2026-01-02", "2026-01-01"]


def test_a_date_that_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "2026-13-01/a.nii", "2026-13-01/a_mask.nii")
    with pytest.raises(UsageError, match="2026-13-01 is no date"):
        find_cases(tmp_path, data(**DATED))


def test_two_folders_of_one_span(tmp_path: Path) -> None:
    deliver(tmp_path, "7", "a")
    deliver(tmp_path, "07", "b")
    assert [case.case_id for case in find_cases(tmp_path, data(**NUMBERED)).cases] == ["a", "b"]
    deliver(tmp_path, "07", "a")
    with pytest.raises(UsageError, match="case id a is also that of"):
        find_cases(tmp_path, data(**NUMBERED))


def test_nothing_that_matches(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz")
    with pytest.raises(UsageError, match=r"no complete case found for span-\{SPAN\}.*it holds for example images/a"):
        find_cases(tmp_path, data(**NUMBERED))


def test_patients_keep_their_split_across_spans(tmp_path: Path) -> None:
    layout = {"image": "{SPAN}/{patient}_{case}.nii", "mask": "{SPAN}/{patient}_{case}.mask.nii"}
    splits = {"train": 34, "val": 33, "test": 33, "salt": ""}
    for span in (1, 2):
        touch(tmp_path, *(f"{span}/p{p}_s{span}{p}{end}.nii" for p in range(12) for end in ("", ".mask")))
    dealt = [
        {case.patient_id: split_of(case, splits) for case in find_cases(tmp_path, data(**layout), newest=span).cases}
        for span in (1, 2)
    ]
    assert dealt[0] == dealt[1] and len(set(dealt[0].values())) == 3


# --- manifests ------------------------------------------------------------------------------------------------


def test_a_manifest_a_span(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a_m.nii", "b.nii", "b_m.nii")
    (tmp_path / "list-1.csv").write_text(HEADER + "a,p1,a.nii,a_m.nii,train\nc,p3,a.nii,a_m.nii,val\n")
    (tmp_path / "list-2.csv").write_text(HEADER + "b,p2,b.nii,b_m.nii,test\na,p1,b.nii,b_m.nii,train\n")
    (tmp_path / "list-0.csv").write_text("broken, but too old to be read")
    settings = data(manifest="list-{SPAN}.csv")
    assert [case.case_id for case in find_cases(tmp_path, settings).cases] == ["a", "b"]
    cohort = find_cases(tmp_path, {**settings, "spans": 2})
    assert [(case.case_id, case.span, case.split) for case in cohort.cases] == [
        ("a", 2, "train"), ("b", 2, "test"), ("c", 1, "val")]  # fmt: skip
    assert cohort.superseded == [Superseded("a", 1, 2)]


# --- driver and executor --------------------------------------------------------------------------------------


def resolved(root: Path, layout: dict[str, Any]) -> dict[str, Any]:
    stage = component(root, data=layout)
    info = data_types.PipelineInfo("", "")
    found: dict[str, Any] = Driver(None).resolve_exec_properties(
        dict(stage.exec_properties), info, data_types.ComponentInfo("", "", info)
    )
    return found


@pytest.mark.parametrize("layout", [NUMBERED, DATED], ids=["numbers", "dates"])
def test_the_driver_names_the_span_that_tfx_would_pick(tmp_path: Path, layout: dict[str, Any]) -> None:
    for span in ("8", "12"):
        deliver(tmp_path, span, "a")
    for date in ("2026-01-09", "2026-02-01"):
        touch(tmp_path, f"{date}/a.nii", f"{date}/a_mask.nii")
    patterns = [pattern.replace("{case}", "*") for pattern in layout.values()]
    splits = [example_gen_pb2.Input.Split(name=str(i), pattern=pattern) for i, pattern in enumerate(patterns)]
    processor = input_processor.FileBasedInputProcessor(str(tmp_path), splits, None)
    span, _ = processor.resolve_span_and_version()
    assert resolved(tmp_path, layout)[utils.SPAN_PROPERTY_NAME] == span
    assert find_cases(tmp_path, data(**layout)).span == span


def test_a_new_span_changes_the_fingerprint_and_an_old_one_does_not(tmp_path: Path) -> None:
    deliver(tmp_path, "2", "a")
    before = resolved(tmp_path, NUMBERED)[utils.FINGERPRINT_PROPERTY_NAME]
    deliver(tmp_path, "1", "a")
    assert resolved(tmp_path, NUMBERED)[utils.FINGERPRINT_PROPERTY_NAME] == before
    assert resolved(tmp_path, {**NUMBERED, "spans": 2})[utils.FINGERPRINT_PROPERTY_NAME] != before
    deliver(tmp_path, "3", "a")
    assert resolved(tmp_path, NUMBERED)[utils.FINGERPRINT_PROPERTY_NAME] != before


def test_the_fingerprint_is_that_of_the_files_and_not_of_their_place(tmp_path: Path) -> None:
    deliver(tmp_path / "here", "1", "a")
    touch(tmp_path / "here", "span-1/images/lonely.nii.gz")

    def now(root: Path) -> str:
        return fingerprint(find_cases(root, data(**NUMBERED)), root)

    before = now(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert now(tmp_path / "there") == before
    (tmp_path / "there/span-1/images/lonely.nii.gz").write_bytes(b"mended")
    assert now(tmp_path / "there") != before
    cohort = find_cases(tmp_path / "there", data(**NUMBERED))
    whole = fingerprint(cohort, tmp_path / "there")
    cohort.cases[0].image.unlink()
    assert fingerprint(cohort, tmp_path / "there") != whole


def test_ingestion_reads_the_span_that_the_driver_named(tmp_path: Path) -> None:
    """A span that arrives between driver and executor waits for the next run."""
    for span in (1, 2):
        write_cohort(
            tmp_path / "data" / f"span-{span}", patients=6, seed=span, size="tiny", workers=1,
            image_pattern="images/{case}.nii.gz", mask_pattern="masks/{case}.nii.gz",
        )  # fmt: skip
    summary = execute(tmp_path / "data", tmp_path / "out1", data=NUMBERED, named_span=1)
    assert (summary["span"], summary["spans"], len(summary["cases"])) == (1, [1], 6)
    newest = execute(tmp_path / "data", tmp_path / "out2", data={**NUMBERED, "spans": 2})
    assert (newest["span"], newest["spans"], len(newest["cases"])) == (2, [2, 1], 6)
    assert newest["superseded"] == [{"case_id": f"00{i}", "span": 1, "by": 2} for i in range(1, 7)]
    assert newest["fingerprint"] != summary["fingerprint"]
    assert json.loads((tmp_path / "out2" / "cases.json").read_text()) == newest
