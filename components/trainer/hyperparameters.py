"""Hyperparameters by the name under which they are searched, and where they stand in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.imaging.errors import IchError

PLACES = {
    "learning_rate": "training",
    "dice_weight": "training",
    "cross_entropy_weight": "training",
    "miss_weight": "training",
    "base_filters": "network",
}
"""Section of each key that can be searched."""

OWN = "tuner/"
"""Names that begin so are KerasTuner's own notes, such as the epochs of a Hyperband trial."""


def searched(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that belong into the configuration, in the order of `PLACES`.

    Args:
        values: By name, KerasTuner's own notes among them.

    Raises:
        IchError: A name that has no place in the configuration.
    """
    unknown = [name for name in values if name not in PLACES and not name.startswith(OWN)]
    if unknown:
        raise IchError(
            f"hyperparameters: found {', '.join(unknown)}, wanted some of {', '.join(PLACES)}; "
            "run the search anew with this version of the program"
        )
    return {name: values[name] for name in PLACES if name in values}


def best_values(tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a search chose.

    Args:
        tuned: The configuration of KerasTuner's `HyperParameters`, as TFX hands it to a trainer; None without search.

    Raises:
        IchError: As for `searched`.
    """
    return searched(tuned["values"]) if tuned else {}


def apply(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with some hyperparameters in place; the given one is left as it is.

    Args:
        config: Sections by name, network and training among them.
        values: From `searched` or `best_values`.
    """
    changed = dict(config)
    for name, value in values.items():
        changed[PLACES[name]] = {**changed[PLACES[name]], name: value}
    return changed


def describe(values: Mapping[str, Any]) -> str:
    """The values in one line, numbers to 4 digits."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
