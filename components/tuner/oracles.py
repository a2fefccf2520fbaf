"""Who proposes the next trial: KerasTuner's oracles, made to repeat themselves and to begin with what is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from components.tuner.halving import FACTOR

OBJECTIVE = "val_dice"
"""Mean Dice of the validation patients, on their native grids."""


class _BeginsConfigured(keras_tuner.Oracle):
    """Proposes what is configured first, so that what is chosen is no worse than that on the validation split."""

    first: Mapping[str, Any] = {}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """What to try next."""
        found: dict[str, Any] = super().populate_space(trial_id)
        if not self.trials and found["status"] == TrialStatus.RUNNING:
            found["values"] = {**found["values"], **self.first}
        return found


class _Random(_BeginsConfigured, RandomSearchOracle):
    """Random search."""


class _Hyperband(_BeginsConfigured, HyperbandOracle):
    """Hyperband, of at most so many trials."""


class _RepeatingBayesian(BayesianOptimizationOracle):
    """Bayesian optimisation whose proposal depends on the seed and the trials alone.

    KerasTuner keeps a stream of random numbers that it does not save: a search that is taken up again would go
    another way than one that was never interrupted.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        self._random_state = np.random.RandomState(self.seed + len(self.trials))
        found: dict[str, Any] = super().populate_space(trial_id)
        return found


class _Bayesian(_BeginsConfigured, _RepeatingBayesian):
    """The same, after the configured values."""


def make_oracle(
    section: Mapping[str, Any], space: keras_tuner.HyperParameters, first: Mapping[str, Any]
) -> keras_tuner.Oracle:
    """The oracle that the configuration asks for.

    Args:
        section: The section `tuner` of the configuration.
        space: What is searched.
        first: Values to begin with; empty for none in particular.
    """
    options = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": space,
        "allow_new_entries": False,
        "tune_new_entries": False,
        "seed": section["seed"] + 1,  # 0 would be no seed
        # Failures are no reason to stop, however many there are: that is for the end of the search to say.
        "max_consecutive_failed_trials": section["trials"] + 1,
    }
    if section["algorithm"] == "hyperband":
        # As many brackets as the trials allow.
        oracle = _Hyperband(
            max_epochs=section["epochs"], factor=FACTOR, hyperband_iterations=section["trials"], **options
        )
        oracle.max_trials = section["trials"]
    elif section["algorithm"] == "bayesian":
        # KerasTuner's default of 3 random trials a dimension would be more than all trials.
        points = max(len(space.space) + 1, 3)
        oracle = _Bayesian(max_trials=section["trials"], num_initial_points=points, **options)
    else:
        oracle = _Random(max_trials=section["trials"], **options)
    oracle.first = dict(first)
    oracle.verbose = 0
    return oracle
