"""Which trials of a tuning make the curve of a setting."""

from __future__ import annotations

from typing import Any

from components.run_report.curves import curves
from tests.components.run_report.runs import trial, tuning


def by_setting(found: dict[str, Any]) -> dict[str, list[Any]]:
    """Values of each curve."""
    return {curve["setting"]: [point["value"] for point in curve["points"]] for curve in curves(found)}


def test_a_curve_holds_what_differs_in_its_setting_alone() -> None:
    assert by_setting(tuning()) == {
        "threshold": [0.3, 0.4, 0.6],
        "core_threshold": [0.4, 0.9],
        "min_component_ml": [0.0, 0.5],
        "hu_range": [None, [20.0, 110.0]],
        "head_only": [False, True],
    }
    threshold = curves(tuning())[0]
    assert [point["chosen"] for point in threshold["points"]] == [False, True, False]
    assert [point["dice"] for point in threshold["points"]] == [0.74, 0.75, 0.72]


def test_a_core_stays_while_the_threshold_moves_below_it_and_is_pushed_up_by_it() -> None:
    chosen = trial(threshold=0.4, core_threshold=0.7)
    curve = [
        chosen, trial(threshold=0.3, core_threshold=0.7), trial(threshold=0.8, core_threshold=0.8),
        trial(threshold=0.5, core_threshold=0.5),  # without a core: not the same in all else
    ]  # fmt: skip
    assert by_setting({"chosen": chosen, "curve": curve}) == {"threshold": [0.3, 0.4, 0.8]}


def test_a_setting_that_was_tried_in_one_way_has_no_curve() -> None:
    assert curves({"chosen": trial(), "curve": [trial()]}) == []
