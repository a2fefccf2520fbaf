"""What is searched, where the configured recipe stands in it, and where the chosen values go."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from keras_tuner.engine.hyperparameters import HyperParameters

from components.imaging.errors import IchError
from components.trainer.hyperparameters import PLACES, apply, best_values, describe, searched
from components.tuner.space import configured, search_space
from pipeline.config import Config, SpaceConfig
from tests.components.trainer.conftest import small_config
from tests.components.tuner.conftest import tuner_section

EVERYTHING: dict[str, Any] = {
    "learning_rate": [1e-4, 1e-2],
    "dice_weight": [0.0, 2.0],
    "cross_entropy_weight": [0.5, 2.0],
    "miss_weight": [0.2, 0.8],
    "base_filters": [4, 8, 16],
}


def with_space(**space: Any) -> dict[str, Any]:
    """A configuration with lr 5e-3, weights 1 and 1, misses 0.5 and 8 filters, and a space to search."""
    return {**small_config(), "tuner": tuner_section(space=space)}


def test_every_key_of_the_space_has_a_place_in_the_configuration() -> None:
    config = Config.model_validate({"name": "a", "data": {"image": "i/{case}", "mask": "m/{case}"}})
    assert set(PLACES) == set(SpaceConfig.model_fields)
    for name, section in PLACES.items():
        assert hasattr(getattr(config, section), name)


def test_null_is_not_searched() -> None:
    assert search_space(tuner_section(space={"base_filters": [4, 8]})["space"]).values == {"base_filters": 4}
    assert set(search_space(tuner_section(space=EVERYTHING)["space"]).values) == set(EVERYTHING)


@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("learning_rate", 1e-3),  # the middle of the logarithm
        ("cross_entropy_weight", 1.0),
        ("dice_weight", 1.0),  # from 0, which has no logarithm
        ("miss_weight", 0.5),
    ],
)
def test_ranges_are_even_in_their_logarithm_where_they_can_be(name: str, middle: float) -> None:
    (found,) = search_space(tuner_section(space={name: EVERYTHING[name]})["space"]).space
    assert found.prob_to_value(0.5) == pytest.approx(middle)
    assert [found.prob_to_value(0.0), found.prob_to_value(1.0)] == pytest.approx(EVERYTHING[name])


def test_choices_are_those_given() -> None:
    (found,) = search_space(tuner_section(space={"base_filters": [8, 4, 16]})["space"]).space
    assert {found.random_sample(seed) for seed in range(50)} == {4, 8, 16}


def test_the_configured_recipe_is_known_where_it_lies_within() -> None:
    assert configured(with_space(**EVERYTHING)) == {
        "learning_rate": 5e-3, "dice_weight": 1.0, "cross_entropy_weight": 1.0, "miss_weight": 0.5, "base_filters": 8,
    }  # fmt: skip
    assert configured(with_space(learning_rate=[5e-3, 1e-2])) == {"learning_rate": 5e-3}
    assert configured(with_space(learning_rate=[6e-3, 1e-2], base_filters=[8, 16])) == {}
    assert configured(with_space(base_filters=[4, 16])) == {}


def test_values_go_to_their_sections_and_nothing_else_changes() -> None:
    config = small_config()
    before = copy.deepcopy(config)
    changed = apply(config, {"learning_rate": 0.25, "miss_weight": 0.7, "base_filters": 12})
    assert config == before
    assert changed["network"] == {**before["network"], "base_filters": 12}
    assert changed["training"] == {**before["training"], "learning_rate": 0.25, "miss_weight": 0.7}
    assert {key for key in before if changed[key] != before[key]} == {"network", "training"}
    assert apply(config, {}) == before


def test_what_a_search_chose_is_read_from_kerastuners_json() -> None:
    tuned = HyperParameters()
    tuned.Choice("base_filters", [4, 8])
    tuned.Float("learning_rate", 1e-4, 1e-2)
    tuned.values = {"base_filters": 8, "learning_rate": 2e-3, "tuner/epochs": 3, "tuner/trial_id": "0001"}
    handed = json.loads(json.dumps(tuned.get_config()))  # as TFX writes and reads it
    assert best_values(handed) == {"learning_rate": 2e-3, "base_filters": 8}
    assert best_values(None) == {}


def test_an_unknown_hyperparameter_is_refused() -> None:
    with pytest.raises(IchError, match="found dropout, wanted some of learning_rate"):
        searched({"dropout": 0.1, "learning_rate": 1e-3})


def test_the_line_has_four_digits() -> None:
    text = describe({"learning_rate": 0.00123456, "base_filters": 128, "miss_weight": 0.5})
    assert text == "learning_rate 0.001235, base_filters 128, miss_weight 0.5"
