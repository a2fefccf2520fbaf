"""A search with real trainings on the tiny cohort, through TFX's executor, killed and taken up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tfx.proto import trainer_pb2
from tfx.types import standard_artifacts
from tfx.utils import json_utils, proto_utils

from components.imaging.errors import IchError, UsageError
from components.trainer.hyperparameters import best_values
from components.trainer.progress import Silent
from components.transform.preprocessing import CONFIG_KEY
from components.tuner import trials as trials_module
from components.tuner.executor import TRIALS_FILE, Executor
from components.tuner.trials import RESULT, trial_config
from components.tuner.tuner_fn import tuner_fn
from tests.components.trainer.conftest import small_config

TRAINING = {"steps_per_epoch": 20, "epochs": 7, "max_minutes": 1.0}
OPTIONS: dict[str, Any] = {"training": TRAINING, "trials": 2, "epochs": 2}


class KilledError(Exception):
    """Stands for a process that dies."""


class Screen(Silent):
    """Collects lines; dies as a bar is first drawn for a task."""

    def __init__(self, dies_at: str = "") -> None:
        self.lines: list[str] = []
        self.tasks: list[str] = []
        self._dies_at = dies_at

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        if task not in self.tasks:
            self.tasks.append(task)
        if task == self._dies_at:
            raise KilledError


def execute(args: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs TFX's executor as the launcher does; returns the chosen hyperparameters and the table of trials."""
    examples = standard_artifacts.Examples()
    examples.uri = str(Path(args.train_files[0]).parents[1])
    examples.split_names = '["train", "val"]'
    graph = standard_artifacts.TransformGraph()
    graph.uri = args.transform_graph_path
    outputs = {}
    for key, kind in {
        "best_hyperparameters": standard_artifacts.HyperParameters, "tuner_results": standard_artifacts.TunerResults
    }.items():  # fmt: skip
        artifact = kind()
        artifact.uri = str(folder / key)
        (folder / key).mkdir(parents=True)
        outputs[key] = [artifact]
    Executor(Executor.Context(tmp_dir=str(folder / "tmp"), unique_id="1")).Do(
        {"examples": [examples], "transform_graph": [graph]},
        outputs,
        {
            "tuner_fn": "components.tuner.tuner_fn.tuner_fn",
            "train_args": proto_utils.proto_to_json(trainer_pb2.TrainArgs(splits=["train"])),
            "eval_args": proto_utils.proto_to_json(trainer_pb2.EvalArgs(splits=["val"])),
            "custom_config": json_utils.dumps(args.custom_config),
        },
    )
    (chosen,) = (folder / "best_hyperparameters").iterdir()  # a Trainer takes no more than one file
    table = (folder / "tuner_results" / TRIALS_FILE).read_text()
    return json.loads(chosen.read_text()), json.loads(table)


def timeless(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials without what differs from run to run, scores to 4 digits."""
    return [{**row, "minutes": None, "val_dice": round(row["val_dice"], 4)} for row in table["trials"]]


def test_a_search_that_is_killed_ends_as_one_that_is_not(arguments: Callable[..., Any], tmp_path: Path) -> None:
    chosen, table = execute(arguments(tmp_path / "whole", **OPTIONS), tmp_path / "whole")
    best = table["trials"][table["best"] - 1]
    assert best_values(chosen) == best["hyperparameters"]
    assert best["val_dice"] == max(row["val_dice"] for row in table["trials"]) > 0.05
    assert table["trials"][0]["hyperparameters"] == {"learning_rate": 5e-3, "base_filters": 8}  # as configured
    assert [row["status"] for row in table["trials"]] == ["completed"] * 2
    assert {row["epochs"] for row in table["trials"]} == {2}
    assert table["trials"][0]["val_dice"] != table["trials"][1]["val_dice"]

    parts = tmp_path / "parts"
    first = Screen(dies_at="trial 2/2  epoch 2/2")
    with pytest.raises(KilledError):
        tuner_fn(arguments(parts, **OPTIONS), first).tuner.search()
    assert {path.name for path in (parts / "work").glob("*/trial-*/*") if path.is_file()} == {RESULT, "state.npz"}
    second = Screen()
    search = tuner_fn(arguments(parts, **OPTIONS), second).tuner
    search.search()
    # Neither the first trial nor the first epoch of the second is trained again.
    assert second.tasks == ["trial 2/2  epoch 2/2", "trial 2/2  epoch 2/2 validation"]
    assert timeless(search.table()) == timeless(table)
    # What is left of a trial that ended is small.
    assert not list((parts / "work").glob("*/trial-*/state.npz"))
    assert len(list((parts / "work").glob(f"*/trial-*/{RESULT}"))) == 2

    # The training proper may change in what a trial does not share with it: the search is the same.
    third = Screen()
    other = {**OPTIONS, "training": {**TRAINING, "epochs": 9, "max_minutes": None}}
    again = tuner_fn(arguments(parts, **other), third).tuner
    again.search()
    assert third.tasks == []
    assert again.table()["trials"] == search.table()["trials"]


def test_a_3d_network_is_searched_too(arguments: Callable[..., Any], tmp_path: Path) -> None:
    """Trials draw patches and validate on whole scans; how windows overlap makes another search."""
    training = {
        "steps_per_epoch": 2, "batch_size": 2, "patch_slices": 4, "patch_size": 16,
        "network": {"kind": "3d", "thick_levels": 1},
    }  # fmt: skip
    args = arguments(training=training, trials=1)
    search = tuner_fn(args, Silent()).tuner
    search.search()
    (row,) = search.table()["trials"]
    assert row["status"] == "completed" and 0 <= row["val_dice"] <= 1
    config = json.loads(args.custom_config[CONFIG_KEY])
    config["inference"]["overlap"] = 0.0
    args.custom_config[CONFIG_KEY] = json.dumps(config)
    tuner_fn(args, Silent())
    assert len(list((tmp_path / "work").glob("tuner-*"))) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IchError("epoch 1: the loss is nan"), "epoch 1: the loss is nan"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), "out of memory: OOM when allocating"),
    ],
)
def test_a_trial_that_fails_leaves_its_reason_and_no_checkpoint(
    arguments: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, reason: str
) -> None:
    sittings = []

    def diverge(task: Any, progress: Any) -> Any:
        sittings.append(task.training["learning_rate"])
        Path(task.folder).mkdir(parents=True)
        (Path(task.folder) / "state.npz").write_bytes(b"half way")
        raise error

    monkeypatch.setattr(trials_module, "fit", diverge)
    for _ in range(2):
        screen = Screen()
        with pytest.raises(IchError, match=f"all 2 trials failed, the last one with: {reason}"):
            tuner_fn(arguments(**OPTIONS), screen).tuner.search()
    assert len(sittings) == 2
    results = [json.loads(path.read_text()) for path in (tmp_path / "work").glob(f"*/trial-*/{RESULT}")]
    assert [result["failure"] for result in results] == [reason] * 2
    assert not list((tmp_path / "work").glob("*/trial-*/state.npz"))


def test_a_trial_is_trained_as_long_as_the_search_says_and_not_by_the_clock() -> None:
    config = small_config(epochs=30, max_minutes=5.0)
    made = trial_config(config, {"learning_rate": 0.5, "base_filters": 16}, 3)
    assert made["training"] == {**config["training"], "epochs": 3, "max_minutes": None, "learning_rate": 0.5}
    assert made["network"] == {**config["network"], "base_filters": 16}
    assert config["training"]["epochs"] == 30


def test_other_trials_make_another_search(arguments: Callable[..., Any], tmp_path: Path) -> None:
    def folders(**changes: Any) -> set[str]:
        tuner_fn(arguments(**{"trials": 2, **changes}), Silent())
        return {path.name for path in (tmp_path / "work").iterdir()}

    first = folders()
    assert len(first) == 1
    assert folders(trials=5) == folders(max_minutes=3.0) == folders(training={"epochs": 9}) == first
    others: list[dict[str, Any]] = [
        {"seed": 1}, {"epochs": 2}, {"algorithm": "bayesian"}, {"training": {"batch_size": 2}}
    ]  # fmt: skip
    for number, changes in enumerate(others, start=2):
        assert len(folders(**changes)) == number, changes


def test_a_training_split_without_lesion_is_refused(arguments: Callable[..., Any], tmp_path: Path) -> None:
    import numpy as np

    from tests.components.trainer.conftest import make_case, write_shard

    args = arguments()
    args.train_files = [write_shard(tmp_path / "Split-train" / "a.gz", make_case("n", 3, 0, np.random.default_rng(1)))]
    with pytest.raises(UsageError, match="no lesion in the whole training split"):
        tuner_fn(args, Silent())


def test_an_empty_split_is_refused(arguments: Callable[..., Any], tmp_path: Path) -> None:
    args = arguments()
    args.eval_files = [str(tmp_path / "none" / "*")]
    with pytest.raises(IchError, match="the validation split holds no shards"):
        tuner_fn(args, Silent())
