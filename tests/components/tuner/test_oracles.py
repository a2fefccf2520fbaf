"""Who proposes trials: the configured recipe first, the same again by seed, interrupted or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras_tuner
import pytest

from components.tuner.halving import first_bracket
from components.tuner.oracles import OBJECTIVE, make_oracle
from components.tuner.space import search_space
from tests.components.tuner.conftest import tuner_section

FIRST = {"learning_rate": 5e-3, "miss_weight": 0.5}
SPACE = {"learning_rate": [1e-4, 1e-2], "miss_weight": [0.2, 0.8]}
ALGORITHMS = ["random", "bayesian", "hyperband"]


def propose(folder: Path, *, stop: int = 1000, first: dict[str, Any] | None = None, **changes: Any) -> list[Any]:
    """Values of the trials that an oracle proposes in this sitting, where rates near 2e-3 are best."""
    section = tuner_section(**{"trials": 12, "epochs": 4, "space": SPACE, **changes})
    made = make_oracle(section, search_space(section["space"]), FIRST if first is None else first)
    made._set_project_dir(str(folder), "p")
    if (folder / "p" / "oracle.json").exists():
        made.reload()
    found = []
    for _ in range(stop):
        trial = made.create_trial("tuner0")
        if trial.status != "RUNNING":
            break
        found.append(dict(trial.hyperparameters.values))
        score = 1 - abs(math.log10(trial.hyperparameters.values["learning_rate"] / 2e-3))
        made.update_trial(trial.trial_id, {OBJECTIVE: score})
        trial.status = "COMPLETED"
        made.end_trial(trial)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_configured_recipe_comes_first(tmp_path: Path, algorithm: str) -> None:
    found = propose(tmp_path / "a", stop=2, algorithm=algorithm)
    assert {name: found[0][name] for name in FIRST} == FIRST
    assert found[1]["learning_rate"] != FIRST["learning_rate"]
    without = propose(tmp_path / "b", stop=1, algorithm=algorithm, first={})
    assert without[0]["learning_rate"] != FIRST["learning_rate"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_seed_alone_decides(tmp_path: Path, algorithm: str) -> None:
    """Seed 0 too, which KerasTuner itself takes for none."""
    one, again, other = (
        propose(tmp_path / str(number), stop=8, algorithm=algorithm, seed=seed) for number, seed in enumerate((0, 0, 1))
    )
    assert one == again
    assert one[1:] != other[1:]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupted_search_goes_the_same_way(tmp_path: Path, algorithm: str, stop: int) -> None:
    whole = propose(tmp_path / "whole", algorithm=algorithm)
    parts = propose(tmp_path / "parts", algorithm=algorithm, stop=stop) + propose(
        tmp_path / "parts", algorithm=algorithm
    )
    assert len(parts) == len(whole) == 12
    for one, other in zip(parts, whole, strict=True):
        assert one == pytest.approx(other)


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    whole = propose(tmp_path / "whole", trials=12)
    assert propose(tmp_path / "parts", trials=4) + propose(tmp_path / "parts", trials=12) == whole


def test_bayesian_optimisation_looks_where_it_was_good(tmp_path: Path) -> None:
    """After its random beginning, within a dozen trials, nearer to the best rate than chance."""
    found = [abs(math.log10(values["learning_rate"] / 2e-3)) for values in propose(tmp_path, algorithm="bayesian")]
    assert sum(found[6:]) / 6 < sum(found[1:4]) / 3
    assert min(found[4:]) < 0.05


def test_a_small_space_ends_the_search_early(tmp_path: Path) -> None:
    found = propose(tmp_path, first={"learning_rate": 5e-3}, space={"base_filters": [4, 8]} | {"learning_rate": None})
    assert found == []  # the score of this test needs a rate: see the next one


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 8, 9, 10, 27, 30])
def test_the_first_bracket_is_kerastuners(tmp_path: Path, epochs: int) -> None:
    """Counted by letting its own oracle propose until it begins the next bracket."""
    oracle = keras_tuner.oracles.HyperbandOracle(keras_tuner.Objective("s", "max"), epochs, factor=3, seed=1)
    oracle.hyperparameters.Float("x", 0, 1)
    oracle.verbose = 0
    oracle._set_project_dir(str(tmp_path), "p")
    rounds: list[int] = []
    bracket: int | None = None
    while (trial := oracle.create_trial("t")).status == "RUNNING":
        values = trial.hyperparameters.values
        bracket = values["tuner/bracket"] if bracket is None else bracket
        if values["tuner/bracket"] != bracket:
            break
        rounds += [0] * (values["tuner/round"] + 1 - len(rounds))
        rounds[values["tuner/round"]] += 1
        oracle.update_trial(trial.trial_id, {"s": values["x"]})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert rounds == first_bracket(epochs)


def test_hyperband_gives_the_better_third_thrice_the_epochs(tmp_path: Path) -> None:
    found = propose(tmp_path, algorithm="hyperband", trials=7, epochs=4)
    assert [values["tuner/epochs"] for values in found] == [2] * 5 + [4] * 2
    distance = [abs(math.log10(values["learning_rate"] / 2e-3)) for values in found]
    assert sorted(distance[5:]) == sorted(distance[:5])[:2]
