"""The state of a training as one file, replaced in one go, so that a killed run finds a whole one."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tfx.dsl.io import fileio

from components.storage import files

FILE_NAME = "state.npz"


@dataclass
class State:
    """How far a training is, apart from its arrays.

    Attributes:
        epochs: Epochs done.
        steps: Steps done, those of the epoch under way too.
        epoch_steps: Steps done of the epoch under way.
        epoch_losses: Their losses.
        minutes: Time spent so far, over all restarts.
        best_dice: Best validation Dice; None before the first validation.
        best_epoch: Epochs done when it was reached.
        waited: Validations since then.
        finished: Why training ended; empty while it goes on.
        history: Figures of each epoch.
    """

    epochs: int = 0
    steps: int = 0
    epoch_steps: int = 0
    epoch_losses: list[float] = field(default_factory=list)
    minutes: float = 0.0
    best_dice: float | None = None
    best_epoch: int = 0
    waited: int = 0
    finished: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


class Checkpoint:
    """Keeps the network, the optimizer, the best weights and the state in `<folder>/state.npz`.

    Args:
        folder: A folder or a URI; made if need be.
        network: The network.
        optimizer: Its optimizer, built.
        others: Further variables to keep.
    """

    def __init__(
        self,
        folder: str,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        others: Sequence[tf.Variable] = (),
    ) -> None:
        self._path = f"{folder.rstrip('/')}/{FILE_NAME}"
        self._variables = [*network.variables, *optimizer.variables, *others]
        self._network = network
        self._best: list[np.ndarray] = []

    def keep_best(self) -> None:
        """Remembers the present weights as the best."""
        self._best = self._network.get_weights()

    def restore_best(self) -> None:
        """Gives the network its best weights."""
        if self._best:
            self._network.set_weights(self._best)

    def save(self, state: State) -> None:
        """Writes everything."""
        arrays = {f"variable{index}": np.asarray(value) for index, value in enumerate(self._variables)}
        arrays |= {f"best{index}": value for index, value in enumerate(self._best)}
        buffer = io.BytesIO()
        np.savez(buffer, state=np.array(json.dumps(asdict(state))), **arrays)  # type: ignore[arg-type]
        files.write(self._path, buffer.getvalue())

    def load(self) -> State | None:
        """Restores everything; None where there is nothing that fits."""
        if not fileio.exists(self._path):
            return None
        data = files.read(self._path)
        try:
            with np.load(io.BytesIO(data)) as arrays:
                state = State(**json.loads(str(arrays["state"])))
                values = [arrays[f"variable{index}"] for index in range(len(self._variables))]
                best = [arrays[name] for name in sorted(filter(_is_best, arrays.files), key=_number)]
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        if any(tuple(value.shape) != tuple(mine.shape) for value, mine in zip(values, self._variables, strict=True)):
            return None
        for mine, value in zip(self._variables, values, strict=True):
            mine.assign(value)
        self._best = best
        return state


def _is_best(name: str) -> bool:
    return name.startswith("best")


def _number(name: str) -> int:
    return int(name.removeprefix("best"))
