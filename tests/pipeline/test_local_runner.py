"""Running stage by stage: what is said, what is written, and what becomes of every kind of failure."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import DataError, IchError, ScanError, UsageError
from components.run_report.page import render
from components.servability.rules import judge
from pipeline import local_runner
from pipeline.config import Config, ServabilityConfig
from pipeline.local_runner import Outcome, run_pipeline
from pipeline.lock import holder, locked
from tests.cases import Sample, cuboid
from tests.components.run_report.test_page import content
from tests.models import unloadable

BLOOD = [cuboid((1, 3), (26, 38), (26, 38))]
CONFIG = Config.model_validate(
    {
        "name": "tiny",
        "data": {"manifest": "manifest.csv"},
        "grid": {"size": 32, "spacing_mm": 6.0},
        "network": {"depth": 2},
    }
)
OVERALL = {"patient_dice": 0.75, "patient_dice_sd": 0.1}


def cohort(folder: Path, samples: dict[str, Sample]) -> Path:
    """A data folder with a manifest; samples by split."""
    rows = []
    for split, sample in samples.items():
        name = sample.case_id
        sample.save(folder / f"{name}.nii.gz", folder / f"{name}_mask.nii.gz")
        rows.append([name, name, f"{name}.nii.gz", f"{name}_mask.nii.gz", split])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["case_id", "patient_id", "image", "mask", "split"], *rows])
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return cohort(tmp_path / "data", {split: Sample(split, BLOOD, BLOOD) for split in ("train", "val", "test")})


def run(data: Path, output: Path, *, config: Config = CONFIG, **options: bool) -> Outcome:
    """Runs the pipeline while Python writes to descriptors 1 and 2, as it does outside of pytest."""
    with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        return run_pipeline(config, data, output, **options)


BOUNDS = ServabilityConfig().model_dump()
SERVABLE = judge(
    {
        "finished": True,
        "measures": {"load_seconds": 1.5, "seconds_per_scan": 2.5, "slices": 28, "peak_mib": 700.0},
    },
    "",
    BOUNDS,
)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What the stages do instead of TFX's; change it to make them fail."""
    made: dict[str, Callable[[], Any]] = {}

    def prepare(config: Config, data: Path, folders: local_runner.Folders, key: str) -> Any:
        serving = folders.serving(config.output.model_name)

        def evaluate() -> Any:
            evaluation = folders.artifacts / "evaluation"
            evaluation.mkdir(parents=True, exist_ok=True)
            verdict = {"blessed": True, "failures": [], "overall": OVERALL, "by_case": {}}
            (evaluation / "verdict.json").write_text(json.dumps(verdict))
            return False, {"evaluation": evaluation}

        def validate() -> Any:
            report = folders.artifacts / "report"
            report.mkdir(parents=True, exist_ok=True)
            (report / "findings.json").write_text("[]")
            return False, {"report": report}

        def probe() -> Any:
            blessing = folders.artifacts / "servability"
            blessing.mkdir(parents=True, exist_ok=True)
            (blessing / "servability.json").write_text(json.dumps(SERVABLE))
            return False, {"blessing": blessing}

        def push() -> Any:
            unloadable(serving / "1700000000")
            return False, {}

        defaults = {
            "DataValidator": validate, "Trainer": lambda: (True, {}), "Evaluator": evaluate, "Servability": probe,
            "Pusher": push,
        }  # fmt: skip
        return iter({**defaults, **made}.items())

    monkeypatch.setattr(local_runner, "_prepare", prepare)
    return made


def summary(output: Path) -> dict[str, Any]:
    """The only run's summary."""
    (path,) = (output / "runs").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def log(output: Path) -> str:
    """The only run's log."""
    (path,) = (output / "logs").glob("*.log")
    return path.read_text()


def test_one_line_a_stage_and_the_rest_in_the_log(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy() -> Any:
        print("noise of a third party")
        os.write(2, b"noise of C++\n")
        return False, {}

    stages["Transform"] = noisy
    outcome = run(data, tmp_path / "out")
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "tiny: 3 scans (train 1, val 1, test 1), 0 incomplete"
    patterns = [
        r"  start +\d+\.\d s",
        r"  DataValidator +\d+\.\d s  nothing found against the data",
        r"  Trainer +\d+\.\d s \(unchanged\)",
        r"  Evaluator +\d+\.\d s  test Dice 0\.750 ± 0\.100",
        r"  Servability +\d+\.\d s  servable: loads in 1\.5 s, 2\.5 s for a scan of 28 slices, 700 MiB",
        r"  Pusher +\d+\.\d s",
        r"  Transform +\d+\.\d s",
    ]
    assert len(lines) == 1 + len(patterns)
    for line, pattern in zip(lines[1:], patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert sorted(log(tmp_path / "out").splitlines()) == ["noise of C++", "noise of a third party"]
    assert outcome.log.read_text() == log(tmp_path / "out")


def test_of_several_sources_the_first_line_counts_each(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    lines = (data / "manifest.csv").read_text().splitlines()
    (data / "one.csv").write_text("\n".join([*lines[:3], lines[1].replace("train,train", "other,train", 1)]))
    (data / "two.csv").write_text("\n".join([lines[0], lines[3]]))
    sources = {"a": {"manifest": "one.csv"}, "b": {"manifest": "two.csv"}}
    config = Config.model_validate({**CONFIG.model_dump(), "data": {"sources": sources}})
    run(data, tmp_path / "out", config=config)
    first = capfd.readouterr().out.splitlines()[0]
    assert first == "tiny: 4 scans (train 2, val 1, test 1; a 2/1/0; b 0/0/1), 0 incomplete"


def test_the_summary_of_a_pushed_model(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(Path("data"), Path("out"))
    model = tmp_path / "out" / "serving" / "ich" / "1700000000"
    assert outcome == Outcome(0, outcome.verdict, model, outcome.log, outcome.stages, servability=SERVABLE)
    found = summary(tmp_path / "out")
    assert (found["exit_code"], found["error"], found["model"]) == (0, None, str(model))
    assert found["verdict"]["overall"] == OVERALL
    assert Config.model_validate(found["config"]) == CONFIG
    assert [stage["name"] for stage in found["stages"]] == [
        "start", "DataValidator", "Trainer", "Evaluator", "Servability", "Pusher"
    ]  # fmt: skip
    assert {stage["state"] for stage in found["stages"]} == {"done"}
    assert [stage.get("cached") for stage in found["stages"]] == [None, False, True, False, False, False]
    assert found["servability"] == SERVABLE
    assert all(stage["seconds"] >= 0 and stage["peak_mib"] > 10 for stage in found["stages"])


def test_a_refused_model_ends_with_three(tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]]) -> None:
    def refuse() -> Any:
        (tmp_path / "verdict.json").write_text(json.dumps({"blessed": False, "overall": OVERALL}))
        return False, {"evaluation": tmp_path}

    stages["Evaluator"] = refuse
    stages["Pusher"] = lambda: (False, {})
    outcome = run(data, tmp_path / "out")
    assert (outcome.exit_code, outcome.model) == (3, None)
    assert summary(tmp_path / "out")["exit_code"] == 3


def test_the_page_on_a_refused_run_is_copied_to_where_it_is_looked_for(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Any:
        (tmp_path / "verdict.json").write_text(json.dumps({"blessed": False, "overall": OVERALL}))
        return False, {"evaluation": tmp_path}

    def report() -> Any:
        made = tmp_path / "made"
        made.mkdir()
        (made / "run_report.html").write_text("the page")
        (made / "run_report.json").write_text(json.dumps({"verdict": {"status": "refused"}}))
        return False, {"report": made}

    stages |= {"Evaluator": refuse, "RunReporter": report, "Pusher": lambda: (False, {})}
    assert run(data, tmp_path / "out").exit_code == 3
    (page,) = (tmp_path / "out" / "reports").glob("*/index.html")
    assert page.read_text() == "the page"
    assert json.loads(page.with_name("report.json").read_text())["verdict"]["status"] == "refused"
    assert page.parent.name == summary(tmp_path / "out")["run"]
    assert f"refused: {page}" in capfd.readouterr().out


def test_the_page_is_completed_when_the_run_has_ended(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    def report() -> Any:
        made = tmp_path / "made"
        made.mkdir(exist_ok=True)
        found = {**content(3), "verdict": {"status": "passed", "headline": "It passed.", "reasons": []}}
        (made / "run_report.html").write_text(render(found))
        (made / "run_report.json").write_text(json.dumps(found))
        return True, {"report": made}

    stages |= {"RunReporter": report}
    assert run(data, tmp_path / "out").exit_code == 0
    (page,) = (tmp_path / "out" / "reports").glob("*/index.html")
    found = json.loads(page.with_name("report.json").read_text())
    assert found["verdict"]["status"] == "pushed" and found["run"]["version"] == "1700000000"
    told = summary(tmp_path / "out")["stages"]
    for key in ("name", "seconds", "peak_mib"):
        assert [stage[key] for stage in found["run"]["stages"]] == [stage[key] for stage in told]
    assert found["run"]["servability"] == SERVABLE["measures"]
    assert page.read_text() == render(found) and "It is in service as version 1700000000" in page.read_text()
    assert f"passed: {page}" in capfd.readouterr().out

    def fail() -> Any:
        raise IchError("the disk is full")

    stages["Afterwards"] = fail
    with pytest.raises(IchError, match="the disk is full"):
        run(data, tmp_path / "other")
    (page,) = (tmp_path / "other" / "reports").glob("*/index.html")
    assert "The disk is full" in page.read_text()
    assert json.loads(page.with_name("report.json").read_text())["verdict"]["status"] == "failed"


def test_a_model_that_cannot_be_served_ends_with_three_and_the_next_run_says_so(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    measured = {"finished": True, "measures": {"seconds_per_scan": 40.0}}
    refused = judge(measured, "", {**BOUNDS, "max_seconds_per_scan": 30.0})

    def probe() -> Any:
        (tmp_path / "servability.json").write_text(json.dumps(refused))
        return False, {"blessing": tmp_path}

    stages |= {"Servability": probe, "Pusher": lambda: (False, {})}
    outcome = run(data, tmp_path / "out")
    assert (outcome.exit_code, outcome.model) == (3, None)
    assert [rule["rule"] for rule in outcome.unservable] == ["max_seconds_per_scan"]
    assert summary(tmp_path / "out")["servability"] == refused
    assert "refused: max_seconds_per_scan" in capfd.readouterr().out
    again = run(data, tmp_path / "out")
    assert again.unchanged is not None and again.unservable == outcome.unservable
    assert "was refused as not servable" in capfd.readouterr().out


HOLD = {
    "split": "train", "feature": "brain_hu_mean", "kind": "drift", "severity": "hold", "rule": "drift against x",
    "description": "differs from x: Jensen-Shannon divergence 0.900, allowed is 0.200", "value": 0.9, "bound": 0.2,
}  # fmt: skip


def finding(stages: dict[str, Callable[[], Any]], folder: Path, *findings: dict[str, Any]) -> None:
    """Makes the validator find something, and the pusher mind it."""

    def validate() -> Any:
        folder.mkdir(exist_ok=True)
        (folder / "findings.json").write_text(json.dumps(findings))
        return False, {"report": folder}

    stages["DataValidator"] = validate
    stages["Pusher"] = lambda: (False, {})


def test_a_finding_that_holds_ends_with_three_although_the_gate_is_content(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    finding(stages, tmp_path / "report", HOLD, {**HOLD, "severity": "note"})
    outcome = run(data, tmp_path / "out")
    assert (outcome.exit_code, outcome.model, outcome.held) == (3, None, [HOLD])
    assert "  findings: 1 hold, 1 note" in capfd.readouterr().out
    found = summary(tmp_path / "out")
    assert (found["exit_code"], found["findings"]) == (3, [HOLD, {**HOLD, "severity": "note"}])


def test_what_a_search_chose_is_said_on_its_line(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    def search() -> Any:
        rows = [
            {"trial": 1, "hyperparameters": {"learning_rate": 1e-3}, "status": "failed", "val_dice": None},
            {"trial": 2, "hyperparameters": {"learning_rate": 2e-3}, "status": "completed", "val_dice": 0.5},
            {"trial": 3, "hyperparameters": {"learning_rate": 3e-3}, "status": "completed", "val_dice": 0.4},
        ]
        (tmp_path / "trials.json").write_text(json.dumps({"best": 2, "trials": rows}))
        return True, {"tuner_results": tmp_path}

    stages["Tuner"] = search
    run(data, tmp_path / "out")
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("  Tuner ")]
    assert line.endswith("(unchanged)  trial 2 of 3, 1 failed: learning_rate 0.002; val Dice 0.5000")
    (stage,) = [stage for stage in summary(tmp_path / "out")["stages"] if stage["name"] == "Tuner"]
    assert stage["note"] in line


def test_notes_do_not_hold(tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]]) -> None:
    finding(stages, tmp_path / "report", {**HOLD, "severity": "note"})
    assert run(data, tmp_path / "out").exit_code == 0


# --- nothing new


def untouched(*_: Any) -> Any:
    raise AssertionError("stages were prepared although nothing changed")


def test_without_new_data_nothing_is_started(
    tmp_path: Path,
    data: Path,
    stages: dict[str, Callable[[], Any]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(data, tmp_path / "out")
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(local_runner, "_prepare", untouched)
        again = run(data, tmp_path / "out")
        assert (again.exit_code, again.model, again.verdict) == (0, first.model, first.verdict)
        assert again.unchanged is not None and again.stages == []
        assert "no new data" in capfd.readouterr().out
        assert len(list((tmp_path / "out" / "runs").iterdir())) == 1
        with pytest.raises(IchError, match="although nothing changed"):
            run(data, tmp_path / "out", force=True)
    # Beam's arguments change no result, and neither does another cluster.
    assert run(data, tmp_path / "out", config=changed(beam={"args": ["--x=1"]})).unchanged is not None
    assert run(data, tmp_path / "out", config=changed(kubeflow={"namespace": "team"})).unchanged is not None


def test_a_schedule_waits_for_new_data(
    tmp_path: Path,
    data: Path,
    stages: dict[str, Callable[[], Any]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(data, tmp_path / "out", if_new_data=True)  # there was no run yet
    assert first.unchanged is None
    other = changed(gate={"min_mean_dice": 0.1})
    with monkeypatch.context() as patch:
        patch.setattr(local_runner, "_prepare", untouched)
        capfd.readouterr()
        assert run(data, tmp_path / "out", config=other, if_new_data=True).unchanged is not None
        assert "no new data: files are, though not configuration or code, those of the run" in capfd.readouterr().out
        with pytest.raises(IchError, match="although nothing changed"):
            run(data, tmp_path / "out", config=other)
        (path,) = data.glob("train.nii.gz")
        os.utime(path, (1, 1))
        with pytest.raises(IchError, match="although nothing changed"):
            run(data, tmp_path / "out", if_new_data=True)
    # What failed is tried again.
    stages["Pusher"] = lambda: (False, {})  # the version is there already
    assert run(data, tmp_path / "out", if_new_data=True).unchanged is None


def changed(**sections: Any) -> Config:
    """The configuration with other sections."""
    return Config.model_validate({**CONFIG.model_dump(exclude_unset=True), **sections})


def test_a_repeated_refusal_ends_with_zero_and_says_what_it_was(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    finding(stages, tmp_path / "report", HOLD)
    assert run(data, tmp_path / "out").exit_code == 3
    again = run(data, tmp_path / "out")
    assert again.exit_code == 0 and again.unchanged is not None
    assert "was held by findings against the data" in capfd.readouterr().out


@pytest.mark.parametrize("change", ["touch", "add", "gate", "validation", "model gone", "newer model", "no summary"])
def test_whatever_could_change_the_outcome_starts_a_run(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], change: str
) -> None:
    output, config = tmp_path / "out", CONFIG
    run(data, output)
    serving = output / "serving" / "ich"
    if change == "touch":
        os.utime(data / "val.nii.gz", (1, 1))
    elif change == "add":
        Sample("new", BLOOD, BLOOD).save(data / "new.nii.gz", data / "new_mask.nii.gz")
        with (data / "manifest.csv").open("a") as file:
            file.write("new,new,new.nii.gz,new_mask.nii.gz,train\n")
    elif change == "gate":
        config = changed(gate={"min_mean_dice": 0.6})
    elif change == "validation":
        config = changed(validation={"drift": "note"})
    elif change == "model gone":
        shutil.rmtree(serving / "1700000000")
    elif change == "newer model":
        unloadable(serving / "1700000001")
    else:
        shutil.rmtree(output / "runs")
    stages["Pusher"] = lambda: (False, {})
    assert run(data, output, config=config).unchanged is None


def test_a_failed_run_is_not_taken_for_done(tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]]) -> None:
    def fail() -> Any:
        raise DataError("bad")

    stages["DataValidator"] = fail
    for _ in range(2):
        with pytest.raises(DataError):
            run(data, tmp_path / "out")


def test_an_unreadable_record_starts_a_run(tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]]) -> None:
    run(data, tmp_path / "out")
    stages["Pusher"] = lambda: (False, {})
    for text in ("", "[]", '{"key": 1}'):
        (tmp_path / "out" / "last_run.json").write_text(text)
        assert run(data, tmp_path / "out").unchanged is None


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("key: found 1, wanted 2"), 2), (DataError("train: size_bin: huge"), 1)]
)
def test_an_expected_failure_keeps_its_message_and_stops(
    tmp_path: Path,
    data: Path,
    stages: dict[str, Callable[[], Any]],
    capfd: pytest.CaptureFixture[str],
    error: IchError,
    code: int,
) -> None:
    def fail() -> Any:
        raise error

    stages["Evaluator"] = fail
    stages["Pusher"] = lambda: pytest.fail("went on after a failure")
    with pytest.raises(type(error)) as caught:
        run(data, tmp_path / "out")
    assert caught.value is error
    assert re.fullmatch(r"  Evaluator +\d+\.\d s  failed", capfd.readouterr().out.splitlines()[-1])
    found = summary(tmp_path / "out")
    assert (found["exit_code"], found["error"]) == (code, str(error))
    assert [(stage["name"], stage["state"]) for stage in found["stages"]] == [
        ("start", "done"), ("DataValidator", "done"), ("Trainer", "done"), ("Evaluator", "failed")
    ]  # fmt: skip
    assert (found["verdict"], found["model"]) == (None, None)


def beam_step(error: Exception) -> None:
    """Raises an error from within a step of a Beam pipeline, which wraps it."""
    import apache_beam as beam

    def fail(_: int) -> None:
        raise error

    with beam.Pipeline(argv=CONFIG.beam.pipeline_args()) as pipeline:
        _ = pipeline | beam.Create([1]) | "Read" >> beam.Map(fail)


@pytest.mark.parametrize("error", [UsageError("x: found 1, wanted 2"), ScanError("code", "y.nii: found 3, wanted 4")])
def test_an_expected_failure_inside_beam_keeps_its_message(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], error: IchError
) -> None:
    stages["Evaluator"] = lambda: beam_step(error)
    with pytest.raises(IchError) as caught:
        run(data, tmp_path / "out")
    assert str(caught.value) == str(error)
    assert type(caught.value) is type(error)


def test_an_unexpected_failure_is_one_block_that_names_stage_and_log(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    stages["Evaluator"] = lambda: beam_step(ValueError("a thing\n  went wrong"))
    with pytest.raises(IchError) as caught:
        run(data, tmp_path / "out")
    assert caught.value.exit_code == 1
    first, second = str(caught.value).splitlines()
    assert first == "stage Evaluator failed: ValueError: a thing went wrong [while running 'Read']"
    (path,) = (tmp_path / "out" / "logs").glob("*.log")
    assert second.endswith(str(path))
    text = path.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in beam_step" in text
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert summary(tmp_path / "out")["error"] == str(caught.value)


def test_what_was_handled_before_is_not_taken_for_the_reason(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]]
) -> None:
    def fail() -> Any:
        try:
            raise UsageError("handled")
        except UsageError:
            raise ZeroDivisionError("the reason") from None

    stages["Evaluator"] = fail
    with pytest.raises(IchError, match="stage Evaluator failed: ZeroDivisionError: the reason"):
        run(data, tmp_path / "out")


def test_an_interruption_is_recorded_and_passed_on(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    stages["Trainer"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out")
    assert capfd.readouterr().out.splitlines()[-1].endswith("interrupted")
    found = summary(tmp_path / "out")
    assert (found["exit_code"], found["error"]) == (130, "KeyboardInterrupt")
    assert found["stages"][-1]["state"] == "interrupted"


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot write there") as caught:
            run(data, output)
        assert str(caught.value).startswith(f"{output}:")
        assert "--output" in str(caught.value)


def test_verbose_shows_everything(
    tmp_path: Path, data: Path, stages: dict[str, Callable[[], Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    stages["Trainer"] = lambda: (os.write(1, b"noise\n") == 0, {})
    run(data, tmp_path / "out", verbose=True)
    assert "noise\n" in capfd.readouterr().out


def test_the_real_stages_up_to_a_gate_that_stops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """TFX from ingestion to the data validator; the second run takes up what the first one finished."""
    thick = Sample("thick", BLOOD, BLOOD, spacing_mm=(25.0, 3.0, 3.0))
    data = cohort(
        tmp_path / "data", {"train": thick, "val": Sample("v", BLOOD, BLOOD), "test": Sample("t", BLOOD, BLOOD)}
    )
    output = tmp_path / "out"
    # What the checks of a scan would quarantine they are told to let through, so that the schema has it to judge.
    lenient = {"spacing": "warning", "duplicate-across-splits": "warning"}
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"checks": lenient})})
    for attempt in (1, 2):
        with pytest.raises(DataError) as caught:
            run(data, output, config=config)
        assert "train: slice_spacing_mm: " in str(caught.value)
        assert "nothing was trained" in str(caught.value)
        lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines()}
        assert "3 scans, 15 slices" in lines["NiftiExampleGen"]
        assert lines["DataValidator"].endswith("findings: 1 stop")
        assert lines["DataGate"].endswith("failed")
        # The report is there although the run stops, and says why.
        page = Path(lines["DataReporter"].rpartition("stopped: ")[2])
        assert page.parent.parent == output.resolve() / "reports"
        assert "slice_spacing_mm" in page.read_text() and "Nothing was trained, for 1 reason." in page.read_text()
        assert json.loads(page.with_suffix(".json").read_text())["verdict"]["status"] == "stopped"
        assert "Transform" not in lines
        assert "Trainer" not in lines
        for name in ("NiftiExampleGen", "StatisticsGen", "CuratedSchema"):
            assert ("(unchanged)" in lines[name]) == (attempt == 2), lines[name]
    for path in (output / "runs").glob("*.json"):
        assert json.loads(path.read_text())["stages"][-1]["name"] == "DataGate"

    from tfx_bsl.coders import batch_util

    # A flag of absl's that the runner sets: else readers take up to 1000 images at once.
    assert batch_util.GetBatchElementsKwargs(None)["max_batch_size"] == 20 * 1024 * 1024


# --- runs that meet, or are killed


def test_a_second_run_in_the_same_folder_is_refused_before_it_touches_anything(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with locked(output, "20260101T000000"), pytest.raises(UsageError, match=r"20260101T000000.*is under way there"):
        run_pipeline(CONFIG, data, output)
    assert [path.name for path in output.iterdir()] == [".lock"]


def test_names_of_runs_are_in_order_whatever_the_clock_says(
    data: Path, tmp_path: Path, stages: dict[str, Callable[[], Any]]
) -> None:
    (tmp_path / "out" / "runs").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "20991231T235959.json").write_text("{}")
    (tmp_path / "out" / "runs" / "notes.json").write_text("{}")
    for _ in range(2):
        run(data, tmp_path / "out", force=True)
        stages["Pusher"] = lambda: (False, {})
    assert sorted(path.stem for path in (tmp_path / "out" / "runs").iterdir())[1:] == [
        "21000101T000000", "21000101T000001", "notes",
    ]  # fmt: skip


def test_a_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    for name, text in (("run_report.html", "<html>"), ("run_report.json", '{"verdict": {"status": "passed"}}')):
        (tmp_path / "made" / name).write_text(text)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        local_runner._publish_report("RunReporter", tmp_path / "made", tmp_path / "reports")
    assert list((tmp_path / "reports").iterdir()) == []
    told = local_runner._publish_report("RunReporter", tmp_path / "made", tmp_path / "reports")
    assert told == f"passed: {tmp_path}/reports/index.html"


def test_a_killed_run_leaves_a_summary_of_how_far_it_came(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk while a stage runs is what is there if the process ends in it."""
    output = tmp_path / "out"
    left: dict[str, Any] = {}

    def prepare(*_: Any) -> Any:
        def launch() -> Any:
            (path,) = (output / "runs").glob("*.json")
            left.update(json.loads(path.read_text()), holder=holder(output))
            raise IchError("enough")

        yield "CuratedSchema", launch

    monkeypatch.setattr(local_runner, "_prepare", prepare)
    with pytest.raises(IchError, match="enough"):
        run_pipeline(CONFIG, data, output)
    assert (left["exit_code"], left["error"], left["holder"]) == (None, None, left["run"])
    assert [stage["name"] for stage in left["stages"]] == ["start", "CuratedSchema"]
    assert left["stages"][0]["state"] == "done" and "state" not in left["stages"][1]
    assert holder(output) is None
