"""Fits the network: epochs, validations, early stopping, checkpoints, one line an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from components.imaging.errors import IchError
from components.trainer.average import Average
from components.trainer.checkpoint import Checkpoint, State
from components.trainer.event_files import event_files
from components.trainer.progress import Progress
from components.trainer.schedule import learning_rate
from components.trainer.step import TrainStep, build_optimizer, make_train_step
from components.trainer.validation import Validation

LOST_SHARE, COST_SHARE = 0.04, 0.05
"""Of a training's time: how much a kill may lose, and how much checkpoints within epochs may take."""

TENSORBOARD = "tensorboard"
"""Folder of the event files, below the folder of the checkpoint."""


@dataclass(frozen=True)
class Task:
    """What is fitted to what.

    Attributes:
        network: With all outputs that it is trained on. Changed in place; ends with its best weights.
        batches: From the number of the first epoch, and how many of its steps are done, to an endless stream of
            batches.
        steps: Batches of an epoch.
        validate: Validates the network as it is.
        training: The section `training` of the configuration.
        folder: Folder or URI of checkpoint and TensorBoard logs; a run that was killed goes on from here.
        strategy: The devices that share the work, in whose scope the network was built; default: one device.
    """

    network: keras.Model
    batches: Callable[[int, int], tf.data.Dataset]
    steps: int
    validate: Callable[[], Validation]
    training: Mapping[str, Any]
    folder: str
    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)


def fit(task: Task, progress: Progress) -> State:
    """Trains until the epochs, the patience or the time are used up, and restores the best weights.

    Args:
        task: What to fit.
        progress: Where to report.

    Returns:
        The final state, with the history.

    Raises:
        IchError: The loss is no longer finite.
    """
    with task.strategy.scope():
        optimizer = build_optimizer(task.network, task.training)
    average = Average(task.network, task.training["ema"])
    checkpoint = Checkpoint(task.folder, task.network, optimizer, average.variables)
    state = checkpoint.load() or State()
    if state.finished:
        progress.say(f"already trained for {state.epochs} epochs ({state.finished}): best val Dice {_best(state)}")
    else:
        if state.steps:
            within = f" and {state.epoch_steps} of {task.steps} steps" if state.epoch_steps else ""
            progress.say(f"resuming after epoch {state.epochs}{within}: best val Dice so far {_best(state)}")
        _Run(task, progress, optimizer, average, checkpoint, state).train()
        progress.say(f"stopped: {state.finished}; best val Dice {_best(state)} at epoch {state.best_epoch}")
    checkpoint.restore_best()
    return state


def _best(state: State) -> str:
    return "-" if state.best_dice is None else f"{state.best_dice:.4f}"


class _Run:
    """One sitting of a training."""

    def __init__(
        self,
        task: Task,
        progress: Progress,
        optimizer: keras.optimizers.Optimizer,
        average: Average,
        checkpoint: Checkpoint,
        state: State,
    ) -> None:
        self._task = task
        self._progress = progress
        self._optimizer = optimizer
        self._average = average
        self._checkpoint = checkpoint
        self._state = state
        with task.strategy.scope():
            self._step: TrainStep = make_train_step(task.network, optimizer, task.training)
        self._spent, self._cost = state.minutes, 0.0
        self._began = self._saved = time.monotonic()

    def train(self) -> None:
        """Runs epochs until the state says that it is finished."""
        batches = iter(self._task.batches(self._state.epochs, self._state.epoch_steps))
        with event_files(f"{self._task.folder.rstrip('/')}/{TENSORBOARD}") as (writer, publish), writer.as_default():
            while not self._state.finished:
                row = self._epoch(batches)
                for name, value in row.items():
                    if name != "epoch" and value is not None:
                        tf.summary.scalar(name, value, step=self._state.epochs)
                writer.flush()
                publish()
                self._save()

    def _save(self) -> None:
        self._state.minutes = self._minutes()
        began = time.monotonic()
        self._checkpoint.save(self._state)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def _is_due(self) -> bool:
        """Whether a checkpoint is: in a short training sooner, so that a late kill costs but a small share of it."""
        within = max(LOST_SHARE * 60 * self._minutes(), self._cost / COST_SHARE)
        return time.monotonic() - self._saved >= min(within, 60 * self._task.training["checkpoint_minutes"])

    def _minutes(self) -> float:
        return self._spent + (time.monotonic() - self._began) / 60

    def _out_of_time(self) -> bool:
        limit = self._task.training["max_minutes"]
        return limit is not None and self._minutes() >= limit

    def _set_rate(self) -> float:
        """By steps done or, where that is further, by time spent: a training that time ends has cooled down too."""
        training = self._task.training
        done = self._state.steps / (training["epochs"] * self._task.steps)
        if training["max_minutes"] is not None:
            done = max(done, self._minutes() / training["max_minutes"])
        rate = learning_rate(
            done, peak=training["learning_rate"], warmup=training["warmup"], schedule=training["schedule"]
        )
        self._optimizer.learning_rate = rate
        return rate

    def _epoch(self, batches: Iterator[Any]) -> dict[str, Any]:
        """One epoch and, where it is due, a validation; updates the state."""
        state, training = self._state, self._task.training
        number = state.epochs + 1
        name = f"epoch {number}/{training['epochs']}"
        began = time.monotonic()
        losses = [tf.constant(loss, tf.float32) for loss in state.epoch_losses]
        slices = 0
        rate = 0.0
        for step in range(state.epoch_steps + 1, self._task.steps + 1):
            image, mask = next(batches)
            rate = self._set_rate()
            losses.append(self._step(image, mask))
            slices += math.prod(image.shape[:-3])  # of patches, all of them
            state.steps += 1
            self._average.update(state.steps)
            self._progress.step(name, step, self._task.steps, f"{slices / (time.monotonic() - began):.1f} slices/s")
            if self._out_of_time():
                break
            if step < self._task.steps and self._is_due():
                state.epoch_steps, state.epoch_losses = step, [float(loss) for loss in losses]
                self._save()
        loss = float(tf.reduce_mean(losses))
        seconds = time.monotonic() - began
        if not math.isfinite(loss):
            raise IchError(
                f"epoch {number}: the loss is {loss}; lower training.learning_rate (now {training['learning_rate']}) "
                "or set training.precision to float32"
            )
        state.epochs, state.epoch_steps, state.epoch_losses = number, 0, []
        last = number >= training["epochs"] or self._out_of_time()
        validated = self._validate(name) if last or number % training["validate_every"] == 0 else None
        state.minutes = self._minutes()
        state.finished = self._reason(validated)
        row = {
            "epoch": number,
            "loss": loss,
            "val_dice": validated,
            "learning_rate": rate,
            "slices_per_second": slices / seconds,
            "minutes": state.minutes,
        }
        state.history.append(row)
        shown = "       -" if validated is None else f"{validated:8.4f}{'*' if state.waited == 0 else ' '}"
        self._progress.say(
            f"{name}  loss {loss:.4f}  val Dice {shown}  {slices / seconds:.1f} slices/s  {state.minutes:.1f} min"
        )
        return row

    def _validate(self, name: str) -> float:
        """Validates, and keeps the weights if they are the best so far."""
        self._progress.step(f"{name} validation", 0, 1)
        state = self._state
        with self._average.applied():
            found = self._task.validate().mean
            if state.best_dice is None or found > state.best_dice:
                state.best_dice, state.best_epoch, state.waited = found, state.epochs, 0
                self._checkpoint.keep_best()
            else:
                state.waited += 1
        return found

    def _reason(self, validated: float | None) -> str:
        """Why training ends here; empty if it does not."""
        training = self._task.training
        if self._state.epochs >= training["epochs"]:
            return "all epochs done"
        if self._out_of_time():
            return f"{training['max_minutes']:g} minutes used"
        if validated is not None and self._state.waited >= training["patience"]:
            return f"no better val Dice in {training['patience']} validations"
        return ""
