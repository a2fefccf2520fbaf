"""The commands of README and docs, as they stand there, on a small cohort: each does what the page says it does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from components.imaging.phantom import write_cohort
from tests.command import ich
from tests.test_documentation import commands

FIRST = ["init", "check", "run", "predict", "view"]
"""The order of the README's own block; what is left needs nothing but what these leave behind."""

NOT_HERE = {
    r"ich kubeflow (submit|schedule|unschedule|list)": "tests/pipeline/kubeflow/test_commands.py",
    r"ich serve|--server ": "tests/serving/server",
    r"ich view (?!.*--png)": "tests/pipeline/test_view.py",
    r"ich rollback": "tests/pipeline/test_rollback.py",
    r"--dicom-seg": "tests/pipeline/test_predict_dicom.py",
    r"DaskRunner": "docs/SCALING.md",
    r"ich completion fish \| source": "tests/pipeline/commands",
    r"INPUT…": "tests/pipeline/test_predict.py",
    r"ich gc --keep N$": "tests/pipeline/garbage",
    r"ich run --folds": "tests/components/trainer/test_folds.py",
    r"ich run --if-new-data": "tests/pipeline/test_local_runner.py",
}
"""What needs a cluster, a server, a browser, DICOM, a second version or a long training, and where it is tested."""

SMALL = {
    "grid": {"size": 64, "spacing_mm": 3.6, "context_slices": 0},
    "network": {"base_filters": 8, "depth": 2},
    "training": {"epochs": 4, "steps_per_epoch": 60, "batch_size": 8, "learning_rate": 1.0e-2},
    "postprocess": {"threshold": 0.3, "tune": False},
    "gate": {"min_mean_dice": 0.0},
    "kubeflow": {"image": "ich:1"},
}
"""What a configuration gets so that its training takes seconds, and still finds blood: else the gate refuses it."""


def arguments(line: str) -> list[str]:
    """What follows `ich`, with names in place of what stands for them."""
    text = re.sub(r"\s#\s.*", "", re.sub(r"\[[^]]*\]\]?", "", line.removeprefix("$ ")))
    for pattern, name in {
        r"\bOUT\b": "out", r"\bDATA\b": "SCANS", r"\bCONFIG\b": "my.yaml", r"\bDIR\b": "manifests", r"\bN\b": "1",
        r"\bNAME\b": "demo",
    }.items():  # fmt: skip
        text = re.sub(pattern, name, text)
    found = shlex.split(text)[1:]
    return [*found, "--dry-run"] if found[0] == "schedule" else found


def runnable() -> list[str]:
    """Lines with arguments that are run here, those of the README's block first."""
    lines = [line for _, line in commands() if len(line.split()) > 2 or line in ("ich config", "ich doctor")]
    here = [line for line in lines if not any(re.search(pattern, line) for pattern in NOT_HERE)]
    return sorted(set(here), key=lambda line: (FIRST.index(line.split()[1]) if line.split()[1] in FIRST else 9, line))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    write_cohort(folder / "SCANS", patients=14, seed=3, size="tiny", workers=2)
    for path in (folder / "SCANS").iterdir():  # what a hospital's folder would not hold: a manifest, how it was made
        if path.is_file():
            path.unlink()
    shutil.copyfile(min((folder / "SCANS" / "images").iterdir()), folder / "017.nii.gz")
    return folder


def test_what_is_tested_elsewhere_is() -> None:
    root = Path(__file__).parents[1]
    assert [path for path in NOT_HERE.values() if not (root / path).exists()] == []


def test_the_commands_of_the_pages(place: Path) -> None:
    lines = runnable()
    assert {line.split()[1] for line in lines} >= {*FIRST, "status", "gc", "doctor", "config", "manifests", "schedule"}
    for line in lines:
        done = ich(*arguments(line), cwd=place)
        assert done.returncode == 0, f"{line}\n{' '.join(arguments(line))}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, line
        if line.startswith("ich init"):
            found = yaml.safe_load((place / "my.yaml").read_text())
            assert found["data"] == {"image": "images/{case}.nii.gz", "mask": "masks/{case}.nii.gz"} | {
                key: value for key, value in found["data"].items() if key not in ("image", "mask")
            }
            (place / "my.yaml").write_text(yaml.safe_dump(found | SMALL))
    # What the README says comes out of its block.
    (page,) = (place / "out" / "reports").glob("*/index.html")
    assert page.stat().st_size > 10_000
    assert json.loads((place / "result" / "017.json").read_text())["volume_ml"] >= 0
    assert (place / "result" / "017_mask.nii.gz").exists() and list((place / "pictures").glob("*.png"))
