"""The search around the trials: what is said and kept, failures, time, kills and half-written notes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import IchError
from components.trainer.progress import Progress, Silent
from components.tuner import search as module
from components.tuner import tuner_fn as tuner_module
from components.tuner.oracles import make_oracle
from components.tuner.search import PROJECT, Search, Train
from components.tuner.space import search_space
from components.tuner.summary import search_summary
from components.tuner.trials import Result
from components.tuner.tuner_fn import tuner_fn
from tests.buckets import Bucket
from tests.components.tuner.conftest import tuner_section


class Screen(Silent):
    """Collects lines and bars."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        self.bars.append(task)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


class Lab:
    """Trials whose val Dice is 40 times the rate, up to the rate where they fail; knows what it was asked to train."""

    def __init__(self, clock: Clock | None = None, minutes: float = 0.0, fails_from: float = 1.0) -> None:
        self.trained: list[Mapping[str, Any]] = []
        self.epochs: list[int] = []
        self._clock = clock
        self._minutes = minutes
        self._fails_from = fails_from

    def __call__(self, values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        self.trained.append(values)
        self.epochs.append(epochs)
        for epoch in range(1, epochs + 1):
            progress.step(f"epoch {epoch}/{epochs}", 1, 1)
            if self._clock:
                self._clock.seconds += 60 * self._minutes / epochs
            progress.say(f"epoch {epoch} done")
        if values["learning_rate"] >= self._fails_from:
            return Result(None, 0, 0.0, "epoch 1: the loss is nan")
        return Result(40 * values["learning_rate"], epochs, self._minutes)


def make(
    folder: Path | str, train: Train, screen: Progress | None = None, kind: type[Search] = Search, **changes: Any
) -> Search:
    """A search for the rate alone, from 1e-3 to 1e-2, begun with 5e-3; 4 trials of 2 epochs."""
    options: dict[str, Any] = {"trials": 4, "epochs": 2, "space": {"learning_rate": [1e-3, 1e-2]}, **changes}
    section = tuner_section(**options)
    return kind(
        make_oracle(section, search_space(section["space"]), {"learning_rate": 5e-3}),
        train,
        folder=str(folder),
        epochs=section["epochs"],
        max_minutes=section["max_minutes"],
        progress=screen or Silent(),
    )


def test_the_best_of_all_trials_is_found_and_everything_kept(tmp_path: Path) -> None:
    lab, screen = Lab(), Screen()
    search = make(tmp_path, lab, screen)
    search.search()
    rates = [values["learning_rate"] for values in lab.trained]
    assert len(rates) == 4 and rates[0] == 5e-3
    assert lab.epochs == [2] * 4
    assert search.get_best_hyperparameters()[0].values == {"learning_rate": max(rates)}
    table = json.loads(json.dumps(search.table()))
    assert [row["hyperparameters"]["learning_rate"] for row in table["trials"]] == rates
    assert [row["val_dice"] for row in table["trials"]] == pytest.approx([40 * rate for rate in rates])
    assert {row["status"] for row in table["trials"]} == {"completed"}
    assert rates[table["best"] - 1] == max(rates)
    assert table["finished"] == "all trials done"
    # One line a trial, the best so far marked; the epochs' own lines are not shown, their bars are.
    assert [line.split("  ")[0] for line in screen.lines] == [f"trial {number}/4" for number in (1, 2, 3, 4)]
    best_so_far = [max(rates[: number + 1]) == rate for number, rate in enumerate(rates)]
    assert ["*" in line for line in screen.lines] == best_so_far
    assert f"learning_rate 0.005  val Dice {40 * 5e-3:.4f}*" in screen.lines[0]
    assert screen.bars[:3] == ["trial 1/4  epoch 1/2", "trial 1/4  epoch 2/2", "trial 2/4  epoch 1/2"]
    assert search_summary(table) == (
        f"trial {table['best']} of 4: learning_rate {max(rates):.4g}; val Dice {40 * max(rates):.4f}"
    )


def test_a_failed_trial_is_noted_and_the_search_goes_on(tmp_path: Path) -> None:
    screen = Screen()
    search = make(tmp_path, Lab(fails_from=5e-3), screen)
    search.search()
    table = search.table()
    assert len(table["trials"]) == 4
    for row in table["trials"]:
        failed = row["hyperparameters"]["learning_rate"] >= 5e-3
        assert row["status"] == ("failed" if failed else "completed")
        assert row["failure"] == ("epoch 1: the loss is nan" if failed else "")
        assert (row["val_dice"] is None) == failed
    assert screen.lines[0] == "trial 1/4  learning_rate 0.005  failed: epoch 1: the loss is nan"
    best = search.get_best_hyperparameters()[0].values["learning_rate"]
    assert best == max(
        row["hyperparameters"]["learning_rate"] for row in table["trials"] if row["status"] == "completed"
    )
    failed_count = sum(row["status"] == "failed" for row in table["trials"])
    assert f"of 4, {failed_count} failed: learning_rate" in search_summary(table)


def test_a_search_in_which_all_trials_fail_says_so_again_and_again(tmp_path: Path) -> None:
    """More in a row than KerasTuner would bear by itself."""
    lab = Lab(fails_from=0.0)
    for _ in range(2):
        with pytest.raises(IchError, match=r"all 5 trials failed, the last one with: epoch 1: the loss is nan; narrow"):
            make(tmp_path, lab, trials=5).search()
    assert len(lab.trained) == 5


@pytest.mark.parametrize("remote", [False, True])
def test_a_killed_search_goes_on_with_the_trial_it_was_in(
    tmp_path: Path, bucket: Bucket, clock: Clock, remote: bool
) -> None:
    parts = bucket.uri("work") if remote else str(tmp_path / "parts")
    whole = Lab()
    uninterrupted = make(tmp_path / "whole", whole)
    uninterrupted.search()

    class KilledError(Exception):
        """Stands for a process that dies."""

    first = Lab()

    def dies(values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        if len(first.trained) == 1:
            raise KilledError
        return first(values, epochs, progress)

    with pytest.raises(KilledError):
        make(parts, dies).search()
    second, screen = Lab(), Screen()
    search = make(parts, second, screen)
    search.search()
    assert first.trained + second.trained == whole.trained
    assert screen.lines[0] == "taking up the search after 1 of 4 trials: best val Dice so far 0.2000"
    assert screen.lines[1].startswith("trial 2/4 ")
    assert search.table() == uninterrupted.table()
    # And once more, when there is nothing left to do.
    third = Lab()
    again = make(parts, third)
    again.search()
    assert third.trained == []
    assert again.table() == uninterrupted.table()


def test_what_is_no_failure_of_a_trial_ends_the_search(tmp_path: Path) -> None:
    def broken(values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        make(tmp_path, broken).search()
    # Nothing was taken for a result.
    lab = Lab()
    make(tmp_path, lab).search()
    assert len(lab.trained) == 4


def test_time_is_up_within_a_trial(tmp_path: Path, clock: Clock) -> None:
    """Trials of 4 minutes, 10 in all: the third is cut after its first epoch, and does not count."""
    lab, screen = Lab(clock, 4.0), Screen()
    search = make(tmp_path, lab, screen, max_minutes=10)
    search.search()
    table = search.table()
    assert [row["status"] for row in table["trials"]] == ["completed", "completed", "unfinished"]
    assert [row["minutes"] for row in table["trials"]] == pytest.approx([4, 4, 2])
    assert table["trials"][2]["val_dice"] is None
    assert table["finished"] == "10 minutes used"
    assert table["best"] in (1, 2)
    assert "of 3, 1 unfinished: learning_rate" in search_summary(table)
    # Nothing more is trained in the same time; with more of it the search goes on with the trial it was in.
    same, more = Lab(clock, 4.0), Lab(clock, 4.0)
    make(tmp_path, same, max_minutes=10).search()
    assert same.trained == []
    longer = make(tmp_path, more, max_minutes=100)
    longer.search()
    assert more.trained[0] == lab.trained[2]
    assert len(more.trained) == 2
    assert {row["status"] for row in longer.table()["trials"]} == {"completed"}


def test_time_is_up_between_two_trials(tmp_path: Path, clock: Clock) -> None:
    lab = Lab(clock, 4.0)
    search = make(tmp_path, lab, max_minutes=8)
    search.search()
    assert len(lab.trained) == len(search.table()["trials"]) == 2


def test_time_before_a_kill_counts(tmp_path: Path, clock: Clock) -> None:
    """Killed after 2 of 4 minutes of the first trial: 8 minutes are then used up within the second one."""
    lab = Lab(clock, 4.0)

    def dies(values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        clock.seconds += 120
        progress.say("epoch 1 done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, dies, max_minutes=8).search()
    search = make(tmp_path, lab, max_minutes=8)
    search.search()
    assert [row["status"] for row in search.table()["trials"]] == ["completed", "unfinished"]
    assert [row["minutes"] for row in search.table()["trials"]] == pytest.approx([6, 2])


def test_a_result_counts_although_the_search_was_killed_right_after_it(tmp_path: Path, clock: Clock) -> None:
    """The first trial failed, the second one has its result, and then there is no time left."""
    known: dict[float, Result] = {}

    def remembers(values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        rate = values["learning_rate"]
        if rate not in known:
            clock.seconds += 240
            known[rate] = Result(0.5, epochs, 4.0) if known else Result(None, 0, 0.0, "nan")
            progress.say("done")
        return known[rate]

    class Dies(Search):
        def on_trial_end(self, trial: Any) -> None:
            if len(known) == 2:
                raise KeyboardInterrupt
            super().on_trial_end(trial)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, remembers, kind=Dies, max_minutes=8).search()
    search = make(tmp_path, remembers, max_minutes=8)
    search.search()
    table = search.table()
    assert len(known) == 2
    assert [row["status"] for row in table["trials"]] == ["failed", "completed"]
    assert (table["best"], table["finished"]) == (2, "8 minutes used")


def test_a_search_too_short_for_one_trial_is_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(IchError, match=re.escape("no trial that came to its end within tuner.max_minutes (1)")):
        make(tmp_path, Lab(clock, 4.0), max_minutes=1).search()


def test_hyperband_says_how_long_a_trial_trains(tmp_path: Path) -> None:
    lab = Lab()
    search = make(tmp_path, lab, algorithm="hyperband", trials=7, epochs=4)
    search.search()
    assert lab.epochs == [2] * 5 + [4] * 2
    table = search.table()
    assert [row["epochs"] for row in table["trials"]] == lab.epochs
    assert all(set(row["hyperparameters"]) == {"learning_rate"} for row in table["trials"])
    best = max(values["learning_rate"] for values in lab.trained)
    assert search.get_best_hyperparameters()[0].values["learning_rate"] == best


@pytest.mark.parametrize("file", ["oracle.json", "tuner0.json", "trial_1/trial.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_half_written_notes_are_written_anew_from_the_results(
    arguments: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, damage: str
) -> None:
    results: dict[float, Result] = {}
    trained = []

    class Remembering:
        """Trials that, as the real ones, know what became of them."""

        def __init__(self, *_: Any) -> None:
            pass

        def run(self, values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
            rate = values["learning_rate"]
            if rate not in results:
                trained.append(rate)
                if len(trained) == 3:
                    raise KeyboardInterrupt
                results[rate] = Result(40 * rate, epochs, 1.0)
            return results[rate]

    monkeypatch.setattr(tuner_module, "Trials", Remembering)
    options: dict[str, Any] = {"trials": 3, "space": {"learning_rate": [1e-3, 1e-2]}}
    with pytest.raises(KeyboardInterrupt):
        tuner_fn(arguments(**options), Silent()).tuner.search()
    (folder,) = (tmp_path / "work").glob(f"tuner-*/{PROJECT}")
    path = folder / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    search = tuner_fn(arguments(**options), Silent()).tuner
    search.search()
    assert len(trained) == 4 and trained[2] == trained[3]
    table = search.table()
    scores = [40 * rate for rate in (*trained[:2], trained[3])]
    assert [row["val_dice"] for row in table["trials"]] == pytest.approx(scores)
    assert {row["status"] for row in table["trials"]} == {"completed"}
