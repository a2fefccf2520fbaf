"""`ich check`: what it lists, prints, writes and returns."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from components.imaging.checks.registry import CHECKS
from components.imaging.phantom import CohortSummary, write_cohort
from pipeline.check import CheckReport, check_folder, fitting_config
from pipeline.check_page import render_page
from pipeline.cli import main
from pipeline.config import load_config

DEFECTS = [
    "missing-mask", "mask-without-image", "truncated-gzip", "hu-0-255", "no-skull", "one-frame", "duplicated-image",
    "same-patient-two-splits",
]  # fmt: skip
QUARANTINED = {
    "missing-mask": "missing-mask",
    "mask-without-image": "missing-image",
    "truncated-gzip": "truncated",
    "hu-0-255": "hu-8bit",
    "same-patient-two-splits": "patient-in-splits",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    """Five sound patients, and some defects in files, pairing and manifest."""
    return write_cohort(tmp_path_factory.mktemp("check") / "data", patients=5, seed=4, size="tiny", defects=DEFECTS)


@pytest.fixture(scope="module")
def sound(cohort: CohortSummary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sound patients alone, without a manifest."""
    folder = tmp_path_factory.mktemp("check") / "sound"
    for record in cohort.cases[:5]:
        for path in (record.image, record.mask):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cohort.out / path, folder / path)
    return folder


@pytest.fixture(scope="module")
def report(cohort: CohortSummary) -> CheckReport:
    return check_folder(cohort.out, fitting_config(cohort.out), thumbnails=True)


def ich(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def codes(report: CheckReport) -> dict[str, list[str]]:
    return {case.case_id: [finding.code for finding in case.findings] for case in report.cases}


def test_each_bad_case_is_listed_with_its_code_and_no_other_is_disturbed(report: CheckReport) -> None:
    found = codes(report)
    assert {case.case_id for case in report.quarantined} == set(QUARANTINED)
    for case, code in QUARANTINED.items():
        assert found[case] == [code]
    assert found["no-skull"][0] == "no-skull" and found["one-frame"] == ["single-frame"]
    assert found["duplicated-image"] == ["duplicate-image"]
    for number in range(1, 6):
        assert set(found[f"{number:03d}"]) <= {"sheared"}


def test_a_copy_in_another_split_is_an_error(cohort: CohortSummary) -> None:
    manifest = cohort.out / "manifest.csv"
    other = cohort.out / "other.csv"
    lines = manifest.read_text().splitlines(keepends=True)
    moved = [re.sub(r",\w+$", ",test", line) if line.startswith("duplicated-image,") else line for line in lines]
    other.write_text("".join(moved))
    config = load_config("demo", ["data.image=null", "data.mask=null", "data.manifest=other.csv"])
    found = codes(check_folder(cohort.out, config))
    assert found["duplicated-image"] == ["duplicate-across-splits"]
    assert found["001"] in ([], ["sheared"])


def test_the_exit_code_says_whether_something_would_be_quarantined(cohort: CohortSummary, sound: Path) -> None:
    bad, good = ich("check", cohort.out), ich("check", sound)
    assert (bad.exit_code, good.exit_code) == (1, 0)
    assert f"13 cases as demo, {len(QUARANTINED)} would be quarantined" in bad.output
    assert "5 cases as demo, none would be quarantined" in good.output
    for code in QUARANTINED.values():
        assert code in bad.output


def test_the_policy_decides(sound: Path, cohort: CohortSummary, tmp_path: Path) -> None:
    names = ["no-skull", "one-frame"]
    for name in names:
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            shutil.copy(cohort.out / kind / f"{name}.nii.gz", tmp_path / kind)
    assert ich("check", tmp_path, "-c", "demo").exit_code == 0
    assert ich("check", tmp_path, "-c", "demo", "--set", "data.checks.no-skull=error").exit_code == 1
    assert ich("check", tmp_path, "-c", "demo", "--set", "data.checks.single-frame=error").exit_code == 1
    quiet = ich("check", tmp_path, "-c", "demo", "--set", "data.checks.no-skull=off")
    assert quiet.exit_code == 0 and "hardly any bone" not in quiet.output


def test_json_has_every_finding(cohort: CohortSummary, report: CheckReport, tmp_path: Path) -> None:
    printed = ich("check", cohort.out, "--json", "-")
    written = ich("check", cohort.out, "--json", tmp_path / "new" / "findings.json")
    assert printed.exit_code == written.exit_code == 1
    content: dict[str, Any] = json.loads(printed.stdout)
    assert content == json.loads((tmp_path / "new" / "findings.json").read_text()) == report.to_json()
    assert content["case_count"] == 13 and content["quarantined_count"] == len(QUARANTINED)
    by_case = {case["case_id"]: case for case in content["cases"]}
    finding = by_case["hu-0-255"]["findings"][0]
    assert finding["code"] == "hu-8bit" and finding["value"] == 255 and "hu-0-255.nii.gz" in finding["message"]
    counts = {item["code"]: item["count"] for item in content["codes"]}
    assert counts["truncated"] == 1 and next(iter(counts)) == "missing-mask"


def test_the_page_is_whole_and_needs_nothing_else(report: CheckReport) -> None:
    page = render_page(report)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "<script" not in page and "url(" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    for case, code in QUARANTINED.items():
        assert case in page and code in page
        assert CHECKS[code].remedy in page
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    # Three of the five cannot be read, or are sound by themselves.
    assert len(pictures) == 1
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert picture.shape == (96, 288) and picture.std() > 20


def test_names_from_the_disk_are_escaped(sound: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        shutil.copy(sound / kind / "001.nii.gz", tmp_path / kind / "<img src=x>.nii.gz")
        shutil.copy(sound / kind / "002.nii.gz", tmp_path / kind / "[red]2.nii.gz")
    (tmp_path / "images" / "<img src=x>.nii.gz").write_bytes(b"no scan")
    result = ich("check", tmp_path, "--html", tmp_path / "page.html")
    assert result.exit_code == 1 and "<img src=x>" in result.output
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x>" not in page and "&lt;img src=x&gt;" in page


def test_a_layout_is_found_without_a_config(sound: Path, tmp_path: Path) -> None:
    assert fitting_config(sound).name == "demo"
    for number in ("001", "002"):
        (tmp_path / number).mkdir()
        shutil.copy(sound / "images" / f"{number}.nii.gz", tmp_path / number / "image.nii.gz")
        shutil.copy(sound / "masks" / f"{number}.nii.gz", tmp_path / number / "mask.nii.gz")
    assert fitting_config(tmp_path).name == "ct_ich"
    assert len(check_folder(tmp_path, fitting_config(tmp_path)).cases) == 2


def test_several_sources_are_found_and_checked_each_with_its_own_labels(sound: Path, tmp_path: Path) -> None:
    for number in ("001", "002"):
        for kind in ("images", "masks"):
            target = tmp_path / "phe_sich" / kind / f"{number}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sound / kind / f"{number}.nii.gz", target)
    folder = tmp_path / "ct_ich" / "001"
    folder.mkdir(parents=True)
    shutil.copy(sound / "images" / "003.nii.gz", folder / "image.nii.gz")
    assert fitting_config(tmp_path).name == "demo"  # half of a source is none
    shutil.copy(sound / "masks" / "003.nii.gz", folder / "mask.nii.gz")
    assert fitting_config(tmp_path).name == "real_mixed"
    settings = ["data.expect_lesions=true", "data.sources.ct_ich.lesion_labels=[7]"]
    found = {case.case_id: case for case in check_folder(tmp_path, load_config("real_mixed", settings)).cases}
    assert [(name, case.patient_id) for name, case in found.items()] == [
        (name, name) for name in ("ct_ich_001", "phe_sich_001", "phe_sich_002")]  # fmt: skip
    assert [name for name, case in found.items() if "mask-empty" in {item.code for item in case.findings}] == [
        "ct_ich_001"]  # fmt: skip


@pytest.mark.parametrize(("copies", "others", "trait"), [(10, 1, True), (10, 4, False), (8, 0, False)])
def test_a_finding_on_nearly_every_scan_is_a_property_of_the_source(
    cohort: CohortSummary, tmp_path: Path, copies: int, others: int, trait: bool
) -> None:
    names = [f"one-frame {index}" for index in range(copies)] + [f"001 {index}" for index in range(others)]
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in names:
            shutil.copy(cohort.out / kind / f"{name.split()[0]}.nii.gz", tmp_path / kind / f"{name}.nii.gz")
    summaries = {item.code: item for item in check_folder(tmp_path, load_config("demo")).codes()}
    assert len(summaries["single-frame"].cases) == copies
    assert summaries["single-frame"].trait is trait
    assert ("nearly all" in ich("check", tmp_path).output) is trait


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "no such data folder"]),
        (["{empty}"], ["no complete case found"]),
        (["{sound}", "--set", "data.min_slices=2"], ["--set needs --config"]),
        (["{sound}", "-c", "nonesuch"], ["nonesuch", "no such configuration"]),
        (["{sound}", "--html", "/proc/none/page.html"], ["/proc/none/page.html", "cannot write there"]),
    ],
)
def test_wrong_usage_is_exit_code_2(sound: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    result = ich("check", *(item.format(sound=sound, empty=tmp_path) for item in arguments))
    assert result.exit_code == 2
    assert all(word in result.output for word in words), result.output


def test_threads_change_nothing(cohort: CohortSummary, report: CheckReport) -> None:
    assert check_folder(cohort.out, fitting_config(cohort.out), workers=1).to_json() == report.to_json()


def test_progress_ends_at_all_cases_that_have_both_files(cohort: CohortSummary) -> None:
    seen: list[tuple[int, int]] = []
    check_folder(cohort.out, fitting_config(cohort.out), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 11) for done in range(1, 12)]


def test_neither_tensorflow_nor_tfx_is_imported(sound: Path) -> None:
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        f"try:\n    main(['check', {str(sound)!r}])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'tensorflow', 'tfx', 'apache_beam', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
