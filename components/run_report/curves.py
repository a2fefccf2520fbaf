"""The curves of a tuned post-processing: what one setting alone does around the settings that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "threshold": "Threshold",
    "core_threshold": "Core threshold",
    "min_component_ml": "Smallest component, ml",
    "fill_holes": "Holes filled",
    "hu_range": "HU of a component",
    "head_only": "Inside the skull only",
}
"""The settings in the order in which they are shown, as headings."""

_FIGURES = ("dice", "false_positive_components")
"""What a trial holds besides its settings."""


def curves(tuning: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One curve a setting that was tried in more than one way.

    A trial belongs to a setting's curve when all others are as chosen. A core threshold that is switched off follows
    the threshold.

    Args:
        tuning: `tuning` of a contract: `chosen` and `curve`.

    Returns:
        For each such setting its `setting`, `title` and `points`: `value`, `dice`, `false_positive_components` and
        whether it is the one `chosen`, in the order of their values.
    """
    chosen = tuning["chosen"]
    settings = [name for name in chosen if name not in _FIGURES]
    known = [name for name in TITLES if name in settings]
    found = []
    for setting in [*known, *(name for name in settings if name not in TITLES)]:
        others = [name for name in settings if name != setting]
        trials = [trial for trial in tuning["curve"] if _differs_only_in(setting, others, trial, chosen)]
        points = [
            {
                "value": trial[setting],
                "dice": trial["dice"],
                "false_positive_components": trial["false_positive_components"],
                "chosen": trial[setting] == chosen[setting],
            }
            for trial in trials
        ]
        if len(points) > 1:
            points.sort(key=lambda point: _order(point["value"]))
            found.append({"setting": setting, "title": TITLES.get(setting, setting), "points": points})
    return found


def _differs_only_in(setting: str, others: Sequence[str], trial: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    if setting == "threshold":
        core = chosen["core_threshold"] if _has_core(chosen) else trial["threshold"]
        if trial["core_threshold"] != max(core, trial["threshold"]):
            return False
        others = [name for name in others if name != "core_threshold"]
    return all(trial[name] == chosen[name] for name in others)


def _has_core(settings: Mapping[str, Any]) -> bool:
    return bool(settings["core_threshold"] > settings["threshold"])


def _order(value: Any) -> tuple[float, ...]:
    """Numbers by size; no range of HU before any."""
    if value is None:
        return ()
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),)
