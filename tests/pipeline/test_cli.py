"""The command `ich`: exit codes, one clear line for a user's mistake, and what it never imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from components.imaging.errors import DataError, IchError
from pipeline import __version__, local_runner
from pipeline.cli import main
from pipeline.local_runner import Outcome
from tests.cases import Sample, cuboid
from tests.models import export

ROOT = Path(__file__).parents[2]
BLOOD = [cuboid((1, 3), (26, 38), (26, 38))]


def ich(*arguments: object) -> Result:
    """Runs the command in this process; anything but a clean exit is raised."""
    result = CliRunner().invoke(main, [str(item) for item in arguments], prog_name="ich")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def script(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3", "HOME": str(folder)},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a cohort of three cases in the layout of `demo`."""
    for case in ("001", "002", "003"):
        Sample(case, BLOOD, BLOOD).save(
            tmp_path / "cohort" / "images" / f"{case}.nii.gz", tmp_path / "cohort" / "masks" / f"{case}.nii.gz"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- help, version and configs


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str) -> None:
    result = ich(flag)
    assert result.exit_code == 0
    for command in ("run", "predict", "view", "evaluate", "phantom", "config"):
        assert re.search(rf"^  {command}\b", result.output, re.MULTILINE)
    assert "Not a medical device" in result.output


@pytest.mark.parametrize("command", ["run", "predict", "view", "evaluate", "phantom", "config"])
def test_every_command_has_help(command: str) -> None:
    result = ich(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: ich {command}")
    documented = [line for line in result.output.splitlines() if line.startswith("  -")]
    assert documented


def test_version() -> None:
    result = ich("--version")
    assert (result.exit_code, result.output) == (0, f"ich, version {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("run",), ("predict",), ("run", "--nonsense"), ("phantom", "x", "-n", "0")]
)
def test_what_click_refuses_ends_with_two(arguments: tuple[str, ...]) -> None:
    result = ich(*arguments)
    assert result.exit_code == 2
    assert "Usage: ich" in result.output


def test_config_lists_checks_and_prints() -> None:
    assert "demo" in ich("config").output.splitlines()
    result = ich("config", "demo", "--set", "training.epochs=7")
    assert result.exit_code == 0
    assert yaml.safe_load(result.output)["training"]["epochs"] == 7


# --- a user's mistakes: tests/pipeline/test_user_errors.py

SCAN = "cohort/images/001.nii.gz"


def test_nothing_is_left_behind_by_a_refused_prediction(place: Path) -> None:
    before = sorted(place.rglob("*"))
    for arguments in (["nope.nii.gz", "-o", "out"], [SCAN, "-o", "out", "-m", "m"], [SCAN, "-o", SCAN, "-m", "m"]):
        assert ich("predict", *arguments).exit_code == 2
    assert sorted(place.rglob("*")) == before


# --- run


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the runner is made to return or raise, and what it was called with."""
    box: dict[str, Any] = {}

    def run_pipeline(config: Any, data: Path, output: Path, *, verbose: bool, **options: bool) -> Outcome:
        box["called"] = (config, data, output, verbose)
        box["options"] = options
        if "error" in box:
            raise box["error"]
        made: Outcome = box["outcome"]
        return made

    monkeypatch.setattr(local_runner, "run_pipeline", run_pipeline)
    return box


OVERALL = {"patients": 3.0, "patient_dice": 0.7, "patient_dice_sd": 0.1, "false_positive_components": 1.0}
VERDICT: dict[str, Any] = {"overall": OVERALL, "failures": [], "by_case": {}, "baseline": {}}


@pytest.mark.parametrize(("code", "word"), [(0, "pushed:"), (3, "refused by the gate:")])
def test_run_ends_with_the_code_of_its_outcome(outcome: dict[str, Any], code: int, word: str) -> None:
    outcome["outcome"] = Outcome(code, VERDICT, Path("m/1"), Path("l"), [{"name": "start"}])
    result = ich("run", "-c", "demo", "-d", "data", "-o", "out", "-v", "--set", "training.epochs=7")
    assert result.exit_code == code
    assert word in result.stdout
    config, data, output, verbose = outcome["called"]
    assert (config.training.epochs, data, output, verbose) == (7, Path("data"), Path("out"), True)


def test_folds_are_short_for_a_setting(outcome: dict[str, Any]) -> None:
    outcome["outcome"] = Outcome(0, VERDICT, None, Path("l"))
    places = ("-d", "data", "-o", "out")
    ich("run", "-c", "demo", *places, "--folds", "5", "--set", "training.epochs=7")
    training = outcome["called"][0].training
    assert (training.folds, training.epochs) == (5, 7)
    ich("run", "-c", "demo", *places, "--set", "training.folds=4")
    assert outcome["called"][0].training.folds == 4
    refused = ich("run", "-c", "demo", *places, "--folds", "11")
    assert refused.exit_code == 2
    assert "training.folds: found 11" in refused.stderr


def test_run_prints_json_last(outcome: dict[str, Any]) -> None:
    outcome["outcome"] = Outcome(0, VERDICT, None, Path("l"), [{"name": "start"}])
    result = ich("run", "-c", "demo", "-d", "data", "-o", "out", "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == {
        "exit_code": 0, "model": None, "unchanged": False, "verdict": VERDICT, "findings": [],
        "servability": {}, "stages": [{"name": "start"}], "log": "l",
    }  # fmt: skip


def test_folders_from_the_config_and_options_that_win(outcome: dict[str, Any]) -> None:
    outcome["outcome"] = Outcome(0, VERDICT, None, Path("l"))
    settings = ("--set", "data.root=a", "--set", "output.root=b")
    ich("run", "-c", "demo", *settings)
    assert outcome["called"][1:3] == (Path("a"), Path("b"))
    ich("run", "-c", "demo", *settings, "-d", "c", "-o", "d")
    assert outcome["called"][1:3] == (Path("c"), Path("d"))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("train: size_bin: huge"), 1, "error: train: size_bin: huge\n"),
        (IchError("stage Trainer failed\nsee the log"), 1, "error: stage Trainer failed\nsee the log\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
    ],
)
def test_run_reports_what_stopped_it(outcome: dict[str, Any], error: BaseException, code: int, text: str) -> None:
    outcome["error"] = error
    result = ich("run", "-c", "demo", "-d", "data", "-o", "out")
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


# --- predict, evaluate, phantom


def test_predict_then_evaluate(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(place / "output" / "serving" / "ich" / "5")
    for case in ("001", "002", "003"):
        result = ich("predict", f"cohort/images/{case}.nii.gz", "-o", "masks")
        assert result.exit_code == 0
        (line,) = capfd.readouterr().out.splitlines()
        assert re.match(rf"{case}: \d+\.\d ml in 1 component \(model version 5\)", line)
        assert all((place / "masks" / f"{case}{end}").is_file() for end in ("_mask.nii.gz", ".json", ".png"))
    assert ich("predict", "cohort/images", "-o", "masks", "--json").exit_code == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(one["case"], one["status"], one["component_count"]) for one in lines] == [
        (case, "skipped", 1) for case in ("001", "002", "003")
    ]

    result = ich("evaluate", "masks", "cohort/masks", "--json", "scores/all.json")
    assert result.exit_code == 0
    assert "dice" in result.stdout.lower()
    scores = json.loads((place / "scores" / "all.json").read_text())
    assert scores["summary"]["dice"]["n"] == 3
    assert scores["summary"]["dice"]["mean"] > 0.9
    printed = ich("evaluate", "masks", "cohort/masks", "--json", "-")
    assert json.loads(printed.stdout) == scores


def test_evaluate_cannot_write_its_json(place: Path) -> None:
    result = ich("evaluate", "cohort/masks", "cohort/masks", "--json", f"{SCAN}/below.json")
    assert result.exit_code == 2
    assert "cannot write there" in result.stderr


def test_phantom_lists_defects_and_writes_a_cohort(place: Path) -> None:
    listing = ich("phantom", "x", "--defects", "list")
    assert listing.exit_code == 0
    assert len(listing.stdout.splitlines()) > 5
    assert not (place / "x").exists()


# --- what is imported

WATCH = "import sys; heavy = [name for name in ('tensorflow', 'tfx', 'keras', 'apache_beam') if name in sys.modules]"


def test_the_command_line_itself_imports_nothing_heavy(tmp_path: Path) -> None:
    done = script(
        f"""
import pipeline.cli
from click.testing import CliRunner
for arguments in (["--help"], ["run", "--help"], ["--version"], ["config"], ["config", "demo"]):
    assert CliRunner().invoke(pipeline.cli.main, arguments).exit_code == 0
{WATCH}
light = [name for name in ("numpy", "scipy", "nibabel", "pandas") if name in sys.modules]
print(heavy, light)
""",
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr


def test_a_refused_run_imports_nothing_heavy(place: Path) -> None:
    done = script(
        f"""
from click.testing import CliRunner
from pipeline.cli import main
result = CliRunner().invoke(main, ["run", "-c", "ct_ich", "-d", "cohort", "-o", "out"])
assert result.exit_code == 2, result.output
{WATCH}
print(heavy)
""",
        place,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_predict_and_evaluate_never_import_tfx(place: Path) -> None:
    export(place / "model")
    done = script(
        f"""
from click.testing import CliRunner
from pipeline.cli import main
def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
run("evaluate", "cohort/masks", "cohort/masks")
{WATCH}
print(heavy)
run("predict", "{SCAN}", "-o", "out", "-m", "model")
{WATCH}
print("tensorflow" in heavy, "tfx" in heavy, "apache_beam" in heavy)
""",
        place,
    )
    assert done.returncode == 0, done.stderr
    assert {"[]", "True False False"} <= set(done.stdout.splitlines()), done.stdout


def test_the_installed_command(tmp_path: Path) -> None:
    """In a process of its own: exit code, nothing on standard output, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "-c", "nope", "-d", "x", "-o", "y"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nope: no such configuration")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m pipeline config demo | true",  # closes the pipe long before anything is written
        shell=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("flags", "wanted"), [([], set()), (["--force"], {"force"}), (["--if-new-data"], {"if_new_data"})]
)
def test_whether_it_runs_without_need(
    outcome: dict[str, Any], tmp_path: Path, flags: list[str], wanted: set[str]
) -> None:
    outcome["outcome"] = Outcome(0, VERDICT, None, Path("l"))
    finished = ich("run", "-c", "demo", "-d", tmp_path, "-o", tmp_path / "o", *flags)
    assert finished.exit_code == 0, finished.output
    assert {name for name, given in outcome["options"].items() if given} == wanted


def test_to_force_and_to_wait_contradict_each_other(outcome: dict[str, Any], tmp_path: Path) -> None:
    finished = ich("run", "-c", "demo", "-d", tmp_path, "-o", tmp_path, "--force", "--if-new-data")
    assert finished.exit_code == 2 and "called" not in outcome
