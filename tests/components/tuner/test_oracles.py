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
RATE_ALONE = {"learning_rate": [1e-4, 1e-2]}
ALGORITHMS = ["random", "bayesian", "hyperband"]


def off(values: dict[str, Any], best: float = 2e-3) -> float:
    """Powers of ten between a rate and the best one."""
    return abs(math.log10(values["learning_rate"] / best))


def propose(
    folder: Path, *, stop: int = 1000, first: dict[str, Any] | None = None, best: float = 2e-3, **changes: Any
) -> list[dict[str, Any]]:
    """Values of the trials that an oracle proposes in this sitting, where rates near `best` score best."""
    section = tuner_section(**{"trials": 7, "epochs": 4, "space": SPACE, **changes})
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
        made.update_trial(trial.trial_id, {OBJECTIVE: 1 - off(trial.hyperparameters.values, best)})
        trial.status = "COMPLETED"
        made.end_trial(trial)
        made.save()
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_configured_recipe_comes_first(tmp_path: Path, algorithm: str) -> None:
    found = propose(tmp_path / "a", stop=2, algorithm=algorithm)
    assert {name: found[0][name] for name in FIRST} == FIRST
    assert found[1]["learning_rate"] != FIRST["learning_rate"]
    without = propose(tmp_path / "b", stop=1, algorithm=algorithm, first={})
    assert without[0]["learning_rate"] != FIRST["learning_rate"]


@pytest.mark.parametrize("algorithm", ["random", "hyperband"])
def test_the_seed_alone_decides(tmp_path: Path, algorithm: str) -> None:
    """Seed 0 too, which KerasTuner itself takes for none."""
    one, again, other = (
        propose(tmp_path / str(number), algorithm=algorithm, seed=seed) for number, seed in enumerate((0, 0, 1))
    )
    assert one == again
    assert one[1:] != other[1:]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_interrupted_search_goes_the_same_way(tmp_path: Path, algorithm: str) -> None:
    """With Bayesian optimisation after its random beginning of 3."""
    options: dict[str, Any] = {"algorithm": algorithm}
    if algorithm == "bayesian":
        options |= {"trials": 5, "space": RATE_ALONE, "first": {}}
    whole = propose(tmp_path / "whole", **options)
    parts = propose(tmp_path / "parts", stop=4, **options) + propose(tmp_path / "parts", **options)
    assert len(parts) == len(whole) == options.get("trials", 7)
    for one, other in zip(parts, whole, strict=True):
        assert one == pytest.approx(other)


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    whole = propose(tmp_path / "whole", trials=12)
    assert propose(tmp_path / "parts", trials=4) + propose(tmp_path / "parts", trials=12) == whole


@pytest.mark.parametrize("best", [5e-4, 6e-3])
def test_bayesian_optimisation_looks_where_it_was_good(tmp_path: Path, best: float) -> None:
    """After the same random beginning it comes nearer to either optimum."""
    found = propose(tmp_path, best=best, algorithm="bayesian", trials=6, space=RATE_ALONE, first={})
    distance = [off(values, best) for values in found]
    assert min(distance[3:]) < 0.1 < min(distance[:3])


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
    distance = [off(values) for values in found]
    assert sorted(distance[5:]) == sorted(distance[:5])[:2]
