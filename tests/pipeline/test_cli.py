"""The command `ich`: exit codes, one clear line for a user's mistake, and what it never imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
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
from tests.models import export, unloadable

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


# --- a user's mistakes


def no_image_pattern(place: Path) -> list[object]:
    (place / "cohort" / "masks").rename(place / "cohort" / "labels")
    return ["run", "-c", "demo", "-d", "cohort", "-o", "out"]


def empty_folder(place: Path) -> list[object]:
    (place / "empty").mkdir()
    return ["run", "-c", "demo", "-d", "empty", "-o", "out"]


def other_layout(place: Path) -> list[object]:
    return ["run", "-c", "ct_ich", "-d", "cohort", "-o", "out"]


def file_in_the_way(place: Path) -> list[object]:
    (place / "out").write_text("mine")
    return ["run", "-c", "demo", "-d", "cohort", "-o", "out"]


def bad_yaml(place: Path) -> list[object]:
    (place / "c.yaml").write_text("name: [a\n")
    return ["run", "-c", "c.yaml", "-d", "cohort", "-o", "out"]


def corrupt_scan(place: Path) -> list[object]:
    sound = (place / "cohort/images/001.nii.gz").read_bytes()
    (place / "bad.nii.gz").write_bytes(sound[: len(sound) // 2])
    export(place / "model")
    return ["predict", "bad.nii.gz", "-o", "out", "-m", "model"]


def no_contract(place: Path) -> list[object]:
    unloadable(place / "model")
    (place / "model" / "assets.extra" / "contract.json").unlink()
    return ["predict", "cohort/images/001.nii.gz", "-o", "out", "-m", "model"]


def prediction_of_another_shape(place: Path) -> list[object]:
    import nibabel as nib
    import numpy as np

    (place / "p").mkdir()
    for case in ("001", "002", "003"):
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.uint8), np.eye(4)), place / "p" / f"{case}.nii.gz")
    return ["evaluate", "p", "cohort/masks"]


def predictions_missing(place: Path) -> list[object]:
    (place / "p").mkdir()
    (place / "p" / "001.nii.gz").write_bytes((place / "cohort/masks/001.nii.gz").read_bytes())
    return ["evaluate", "p", "cohort/masks"]


def other_cases(place: Path) -> list[object]:
    (place / "p").mkdir()
    (place / "p" / "900.nii.gz").write_bytes((place / "cohort/masks/001.nii.gz").read_bytes())
    return ["evaluate", "p", "cohort/masks"]


def foreign_folder(place: Path) -> list[object]:
    return ["phantom", "cohort"]


def plain(*arguments: object) -> Callable[[Path], list[object]]:
    """A command that needs nothing but the working folder."""
    return lambda place: list(arguments)


SCAN = "cohort/images/001.nii.gz"
MISTAKES: dict[str, tuple[Callable[[Path], list[object]], list[str]]] = {
    # run: configuration
    "no such config": (plain("run", "-c", "nope", "-d", "cohort", "-o", "out"), ["nope: no such config", "demo"]),
    "bad YAML": (bad_yaml, ["c.yaml: not valid YAML"]),
    "unknown key": (
        plain("run", "-c", "demo", "--set", "training.epoch=3", "-d", "cohort", "-o", "out"),
        ["training.epoch: unknown key", "did you mean epochs?"],
    ),
    "bad --set": (
        plain("run", "-c", "demo", "--set", "training.epochs", "-d", "cohort", "-o", "out"),
        ["--set training.epochs: wanted key.path=value"],
    ),
    "bad value": (plain("config", "demo", "--set", "grid.size=100"), ["grid.size: found 100", "multiple of"]),
    # run: folders
    "no data folder given": (plain("run", "-c", "demo", "-o", "out"), ["no data folder", "--data"]),
    "no output folder given": (plain("run", "-c", "demo", "-d", "cohort"), ["no output folder", "--output"]),
    "data in a bucket": (
        plain("run", "-c", "demo", "-d", "s3://scans/head", "-o", "out"),
        ["--data: found s3://scans/head, wanted a folder of this machine", "docs/KUBEFLOW.md"],
    ),
    "output in a bucket": (
        plain("run", "-c", "demo", "-d", "cohort", "--set", "output.root=gs://models"),
        ["--output: found gs://models, wanted a folder of this machine"],
    ),
    "data folder missing": (plain("run", "-c", "demo", "-d", "nope", "-o", "out"), ["nope: no such data folder"]),
    "data folder is a file": (plain("run", "-c", "demo", "-d", SCAN, "-o", "out"), ["no such data folder"]),
    "data folder empty": (empty_folder, ["empty: no complete case found", "holds no .nii"]),
    "other layout": (other_layout, ["cohort: no complete case found", "{case}/image.nii.gz", "images/00"]),
    "no masks": (no_image_pattern, ["no complete case found", "3 incomplete", "has no mask, wanted", "masks/001"]),
    "empty split": (
        plain("run", "-c", "demo", "-d", "cohort", "-o", "out", "--set", "splits={train: 98, val: 1, test: 1}"),
        ["splits: patients per split are train 2, val 0, test 1", "at least one in each"],
    ),
    "output is a file": (file_in_the_way, ["out: cannot write there", "--output"]),
    "output below a file": (
        plain("run", "-c", "demo", "-d", "cohort", "-o", f"{SCAN}/out"), ["cannot write there", "--output"]
    ),
    # predict
    "no such scan": (plain("predict", "nope.nii.gz", "-o", "out", "-m", "m"), ["nope.nii.gz: no such scan"]),
    "no model": (plain("predict", SCAN, "-o", "out", "-m", "m"), ["m: no model there", "ich run"]),
    "default model missing": (plain("predict", SCAN, "-o", "out"), ["output: no model there"]),
    "not our model": (no_contract, ["model: ", "contract"]),
    "corrupt scan": (corrupt_scan, ["bad.nii.gz: ", "copy"]),
    "mask folder is a file": (plain("predict", SCAN, "-o", SCAN, "-m", "m"), ["is a file, wanted a folder"]),
    # evaluate
    "no predictions": (plain("evaluate", "nope", "cohort/masks"), ["nope: no such file or folder"]),
    "file against folder": (plain("evaluate", SCAN, "cohort/masks"), ["one is a file and one a folder"]),
    "other cases": (other_cases, ["no case in common", "900", "001"]),
    "predictions missing": (predictions_missing, ["no prediction for 2 of 3 cases", "002"]),
    "another shape": (prediction_of_another_shape, ["001.nii.gz: shape (8, 8, 4)", "(64, 64, 5)"]),
    "images for masks": (plain("evaluate", "cohort/images", "cohort/masks"), ["wanted a mask", "is this the image?"]),
    # phantom
    "foreign folder": (foreign_folder, ["cohort is not empty"]),
    "unknown defect": (plain("phantom", "new", "--defects", "cracks"), ["unknown defect 'cracks'"]),
    "several layouts": (
        plain("phantom", "new", "--layout", "real_mixed"), ["--layout real_mixed", "the sources phe_sich, ct_ich"]),
    "unknown layout": (plain("phantom", "new", "--layout", "nope"), ["nope: no such config"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_message_and_exit_code_two(place: Path, name: str) -> None:
    make, wanted = MISTAKES[name]
    result = ich(*make(place))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert "Traceback" not in result.output
    for part in wanted:
        assert part in result.stderr
    assert len(result.stderr.splitlines()) <= 3


def test_nothing_is_left_behind_by_a_refused_prediction(place: Path) -> None:
    before = sorted(place.rglob("*"))
    for name in ("no such scan", "no model", "mask folder is a file"):
        ich(*MISTAKES[name][0](place))
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
