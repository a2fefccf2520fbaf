"""What is searched, as KerasTuner has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras_tuner

from components.trainer.hyperparameters import PLACES

LINEAR = ("miss_weight",)
"""Sampled evenly; all other ranges evenly in their logarithm, as far as they do not begin at 0."""


def search_space(space: Mapping[str, Any]) -> keras_tuner.HyperParameters:
    """The space to search.

    Args:
        space: The section `tuner.space`: ranges, choices, or null for what is not searched.

    Returns:
        A hyperparameter for each key that is not null.
    """
    made = keras_tuner.HyperParameters()
    for name in PLACES:
        given = space[name]
        if given is None:
            continue
        if name == "base_filters":
            made.Choice(name, given)
        else:
            sampling = "linear" if name in LINEAR or given[0] == 0 else "log"
            made.Float(name, given[0], given[1], sampling=sampling)
    return made


def configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configured values of what is searched; empty if one of them lies outside of its range.

    Args:
        config: The sections network, training and tuner.
    """
    found = {}
    for name, place in PLACES.items():
        given, value = config["tuner"]["space"][name], config[place][name]
        if given is None:
            continue
        if not (value in given if name == "base_filters" else given[0] <= value <= given[1]):
            return {}
        found[name] = value
    return found
