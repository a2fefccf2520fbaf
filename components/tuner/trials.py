"""One trial: our own training with other hyperparameters, whose outcome is kept as a small file."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import tensorflow as tf
from tfx.dsl.io import fileio

from components.imaging.errors import IchError
from components.storage import files
from components.trainer.checkpoint import FILE_NAME as CHECKPOINT
from components.trainer.data import total
from components.trainer.fingerprint import run_key
from components.trainer.fit import fit
from components.trainer.hyperparameters import apply
from components.trainer.progress import Progress
from components.trainer.run_fn import Part, count_drawable, make_task, unit_of

RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What became of a trial.

    Attributes:
        val_dice: Best mean Dice of the validation patients; None where it failed.
        epochs: Epochs trained.
        minutes: Time spent, over all restarts.
        failure: Why it failed; empty if it did not.
    """

    val_dice: float | None
    epochs: int
    minutes: float
    failure: str = ""


def trial_config(config: Mapping[str, Any], values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The configuration of a trial.

    Without the time limit of the training proper: with it the learning rate would follow the clock, and no two
    trials would be comparable.

    Args:
        config: Sections by name, network and training among them.
        values: Hyperparameters by name.
        epochs: How long a trial trains.
    """
    made = apply(config, values)
    made["training"] = {**made["training"], "epochs": epochs, "max_minutes": None}
    return made


class Trials:
    """Trains trials on the same data, one at a time.

    A trial lives in a folder named after its configuration. While it trains there is the checkpoint, from which a
    killed one goes on; afterwards only `result.json` and the TensorBoard logs, so that the disk does not fill up.
    """

    def __init__(
        self, config: Mapping[str, Any], train: Sequence[str], val: Sequence[str], tft_output: Any, folder: str
    ) -> None:
        """Looks at the training split once, for all trials.

        Args:
            config: The sections grid, windows, normalisation, network, training and postprocess; of a 3D network
                inference too.
            train: Shards of the training split.
            val: Those of the validation split.
            tft_output: The Transform output.
            folder: Folder or URI below which each trial has its own.

        Raises:
            UsageError: No lesion in the training split.
        """
        self._config = config
        self._tft_output = tft_output
        self._folder = folder.rstrip("/")
        patients = count_drawable(train, tft_output, config)
        total(patients, len(train), unit_of(config))
        self._part = Part(0, list(train), list(val), patients)

    def run(self, values: Mapping[str, Any], epochs: int, progress: Progress) -> Result:
        """Trains one trial, goes on with it, or says again what became of it.

        Args:
            values: Hyperparameters by name.
            epochs: How long to train.
            progress: Where the training reports to; what it raises ends the sitting, not the trial.

        Returns:
            The result; one that failed where the loss was no longer finite or the memory was too small.
        """
        config = trial_config(self._config, values, epochs)
        folder = f"{self._folder}/trial-{run_key(config)}"
        known = _read_result(folder)
        if known is not None:
            return known
        try:
            # What there is of slices and steps is the same for all trials, and not said again.
            state = fit(make_task(self._part, self._tft_output, config, folder, lambda text: None), progress)
            result = Result(state.best_dice, state.epochs, round(state.minutes, 3))
        except IchError as error:
            result = Result(None, 0, 0.0, str(error))
        except tf.errors.ResourceExhaustedError as error:
            result = Result(None, 0, 0.0, f"out of memory: {' '.join(str(error).split())[:200]}")
        finally:
            # Graphs and networks hold on to each other; without this each trial's stay until the end of the search.
            keras.utils.clear_session()
            gc.collect()
        _write_result(folder, result)
        return result


def _read_result(folder: str) -> Result | None:
    path = f"{folder}/{RESULT}"
    return Result(**json.loads(files.read(path))) if fileio.exists(path) else None


def _write_result(folder: str, result: Result) -> None:
    """Keeps the result in place of the checkpoint."""
    files.write(f"{folder}/{RESULT}", json.dumps(asdict(result)).encode())
    files.remove(f"{folder}/{CHECKPOINT}")
