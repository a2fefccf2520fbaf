"""The search: KerasTuner proposes and remembers, our own training scores."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import keras_tuner
from keras_tuner import errors
from keras_tuner.engine.trial import Trial, TrialStatus
from tfx.dsl.io import fileio

from components.imaging.errors import IchError
from components.storage.files import copy_tree
from components.storage.uri import is_remote
from components.trainer.hyperparameters import describe, searched
from components.trainer.progress import Progress
from components.tuner.oracles import OBJECTIVE
from components.tuner.trials import Result

PROJECT = "search"
"""Folder of KerasTuner's own notes."""

EPOCHS = "tuner/epochs"
"""Where Hyperband notes how long a trial trains."""

Train = Callable[[Mapping[str, Any], int, Progress], Result]
"""Trains with some hyperparameters for so many epochs; see `Trials.run`."""


class _OutOfTimeError(errors.FatalError):
    """The time of the search is used up."""


class _CarrierError(errors.FatalError):
    """Carries its cause past KerasTuner, which would take any error for that of a trial."""


class Search(keras_tuner.Tuner):
    """Searches hyperparameters for the best validation Dice.

    Every trial trains from its beginning, with Hyperband too, for the learning rate follows the length of the
    training: what is cut short is something else than what was meant to be short.

    A search that was killed goes on with the trial it was in. A trial that fails is noted, and the search goes on.

    Attributes:
        finished: Why the search ended; empty before.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        train: Train,
        *,
        folder: str,
        epochs: int,
        max_minutes: float | None,
        progress: Progress,
        overwrite: bool = False,
    ) -> None:
        """Takes up the search that is in the folder, if there is one.

        Args:
            oracle: Who proposes trials.
            train: Trains one.
            folder: Folder or URI of the notes on the search.
            epochs: How long a trial trains, where the oracle does not say.
            max_minutes: When to stop, over all restarts; None for never.
            progress: Where to report.
            overwrite: Begin anew.
        """
        self._train = train
        self._epochs = epochs
        self._max_minutes = max_minutes
        self._progress = progress
        self._minutes: dict[str, float] = {}
        self._results: dict[str, Result] = {}
        self.finished = ""
        self._kept = f"{folder.rstrip('/')}/{PROJECT}" if is_remote(folder) else ""
        if self._kept:  # KerasTuner asks TensorFlow for its files, which knows no buckets
            self._notes = tempfile.TemporaryDirectory(prefix="ich-")
            folder = self._notes.name
            if not overwrite:
                copy_tree(self._kept, f"{folder}/{PROJECT}")
            elif fileio.isdir(self._kept):
                fileio.rmtree(self._kept)
        super().__init__(oracle=oracle, directory=folder, project_name=PROJECT, overwrite=overwrite)

    def save(self) -> None:
        """Writes the notes on the search; of a URI, puts them there."""
        super().save()
        if self._kept:
            copy_tree(self.project_dir, self._kept)

    def get_state(self) -> dict[str, Any]:
        """What is kept besides the oracle's state."""
        return {
            "minutes": self._minutes,
            "results": {number: asdict(result) for number, result in self._results.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up what was kept."""
        self._minutes = dict(state["minutes"])
        self._results = {number: Result(**result) for number, result in state["results"].items()}

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Runs trials until none is left, or no time.

        Raises:
            IchError: No trial succeeded.
        """
        if self._results:
            best = self._best()
            self._progress.say(
                f"taking up the search after {len(self._results)} of {self.oracle.max_trials} trials: best val Dice "
                f"so far {'-' if best is None else f'{best:.4f}'}"
            )
        try:
            super().search(*args, **kwargs)
            self.finished = "all trials done"
        except _OutOfTimeError:
            self.finished = f"{self._max_minutes:g} minutes used"
        except _CarrierError as carrier:
            raise carrier.__cause__ or carrier from None
        self.save()
        self._refuse_nothing()

    def pre_create_trial(self) -> None:
        """Ends the search between two trials, unless one has its result and KerasTuner has not heard of it yet."""
        if not any(self.oracle.get_trial(number).status == TrialStatus.RUNNING for number in self._results):
            self._watch_time()

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trains one trial and says what became of it.

        Raises:
            FailedTrialError: The trial failed.
        """
        name = f"trial {self._number(trial)}/{self.oracle.max_trials}"
        values = searched(trial.hyperparameters.values)
        watch = _Watch(self, trial.trial_id, name)
        try:
            result = self._train(values, self._epochs_of(trial), watch)
        except errors.FatalError:
            raise
        except Exception as error:
            raise _CarrierError from error
        # A result that was already there brings its time along.
        self._minutes[trial.trial_id] = max(result.minutes, self._minutes.get(trial.trial_id, 0.0))
        self._results[trial.trial_id] = result
        self.save()
        line = f"{name}  {describe(values)}"
        if result.failure:
            self._progress.say(f"{line}  failed: {result.failure}")
            raise errors.FailedTrialError(result.failure)
        assert result.val_dice is not None
        self._progress.say(
            f"{line}  val Dice {result.val_dice:.4f}{'*' if result.val_dice == self._best() else ' '} "
            f"{result.epochs} epoch{'s' if result.epochs > 1 else ' '}  {self._minutes[trial.trial_id]:.1f} min"
        )
        return {OBJECTIVE: result.val_dice}

    def table(self) -> dict[str, Any]:
        """All trials, in the order in which they began, to be kept as JSON."""
        rows = []
        for number in self.oracle.start_order:
            trial, result = self.oracle.get_trial(number), self._results.get(number)
            rows.append(
                {
                    "trial": self._number(trial),
                    "hyperparameters": searched(trial.hyperparameters.values),
                    "epochs": self._epochs_of(trial),
                    "status": _status(trial),
                    "val_dice": result.val_dice if result else None,
                    "minutes": round(self._minutes.get(number, 0.0), 2),
                    "failure": result.failure if result else "",
                }
            )
        return {
            "objective": OBJECTIVE,
            "finished": self.finished,
            "best": self._number(self.oracle.get_best_trials(1)[0]),
            "trials": rows,
        }

    def _best(self) -> float | None:
        return max((found.val_dice for found in self._results.values() if found.val_dice is not None), default=None)

    def _number(self, trial: Trial) -> int:
        return int(self.oracle.start_order.index(trial.trial_id)) + 1

    def _epochs_of(self, trial: Trial) -> int:
        return int(trial.hyperparameters.values.get(EPOCHS, self._epochs))

    def _watch_time(self) -> None:
        if self._max_minutes is not None and sum(self._minutes.values()) >= self._max_minutes:
            raise _OutOfTimeError

    def _refuse_nothing(self) -> None:
        """Raises where there is nothing to choose from."""
        if self._best() is not None:
            return
        if self._results:
            *_, last = self._results.values()
            raise IchError(
                f"tuner: all {len(self._results)} trials failed, the last one with: {last.failure}; narrow tuner.space"
            )
        raise IchError(
            f"tuner: found no trial that came to its end within tuner.max_minutes ({self._max_minutes:g}); "
            "raise it, or lower tuner.epochs"
        )


class _Watch:
    """What a trial reports to: its bar is shown, its lines are not, and the time is kept."""

    def __init__(self, search: Search, trial_id: str, name: str) -> None:
        self._search = search
        self._id = trial_id
        self._name = name
        self._before = search._minutes.get(trial_id, 0.0)
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        """An epoch has ended: its time is noted with it, so that a kill does not give it back."""
        self._note()
        self._search.save()

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        """Ends the search where its time is used up."""
        self._note()
        self._search._watch_time()
        self._search._progress.step(f"{self._name}  {task}", done, total, note)

    def _note(self) -> None:
        self._search._minutes[self._id] = self._before + (time.monotonic() - self._began) / 60


def _status(trial: Trial) -> str:
    known = {TrialStatus.COMPLETED: "completed", TrialStatus.FAILED: "failed"}
    return known.get(trial.status, "unfinished")
