"""docs/RESULTS.md: the plan makes valid configurations, and the page says what the figures say."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from benchmarks.results.measure import KEPT, configuration, merge
from benchmarks.results.page import page, patient_means
from benchmarks.results.plan import Row, rows, without
from pipeline.config import Config, load_config

PLAN = {row.name: row for row in rows()}


@pytest.mark.parametrize("row", PLAN.values(), ids=PLAN)
def test_every_row_is_a_valid_configuration_on_the_same_patients(row: Row) -> None:
    config = Config.model_validate(configuration(row, 2))
    shipped = load_config("real_mixed")
    assert config.training.seed == 2
    assert config.splits == shipped.splits
    assert {name: shipped.data.sources[name] for name in row.sources} == config.data.sources
    assert config.gate.min_mean_dice == 0


def test_the_ablation_ends_with_the_shipped_recipe_at_its_own_length() -> None:
    last = configuration([row for row in rows() if row.group == "ablation"][-1], 0)
    shipped = configuration(PLAN["real_mixed"], 0)
    for tree in (last, shipped):
        del tree["name"]
        tree["training"]["max_minutes"] = 1.0
    assert Config.model_validate({"name": "x", **last}) == Config.model_validate({"name": "x", **shipped})


def test_each_row_of_the_ablation_adds_to_the_one_before() -> None:
    trees = [configuration(row, 0) for row in rows() if row.group == "ablation"]
    for tree in trees:
        del tree["name"]
    assert all(earlier != later for earlier, later in itertools.pairwise(trees))
    assert trees[0]["postprocess"]["tune"] is False and trees[0]["training"]["ema"] == 0.0


def test_the_thesis_row_has_nothing_of_ours() -> None:
    config = Config.model_validate(configuration(PLAN["thesis_baseline"], 0))
    assert config.channels == 1 and not config.postprocess.tune and not config.inference.mirror
    assert (config.training.dice_weight, config.training.ema, config.training.lesion_fraction) == (0.0, 0.0, 1.0)
    augment = config.training.augment.model_dump()
    assert not any(augment[key] for key in ("flip", "affine_share", "elastic_share", "soften_share", "gamma",
                                            "intensity", "noise"))  # fmt: skip


def test_sections_are_merged_and_keys_taken_away() -> None:
    tree: dict[str, Any] = {"a": {"b": 1, "c": [1]}, "d": 2}
    merge(tree, {"a": {"c": [2, 3]}, "e": {"f": 4}})
    assert tree == {"a": {"b": 1, "c": [2, 3]}, "d": 2, "e": {"f": 4}}
    assert without(tree, ["a.c", "e"]) == {"a": {"b": 1}, "d": 2}
    assert tree["a"]["c"] == [2, 3]


def figures(row: str, seed: int, dice: list[float]) -> dict[str, Any]:
    test = {"ct_ich": {name: dice if name == "dice" else [float(seed)] * len(dice) for name in KEPT}}
    return {"row": row, "seed": seed, "minutes": 90.0 + seed, "hardware": "2 cores, X", "test": test}


def test_patients_are_averaged_over_seeds_before_anything_else() -> None:
    mine = [figures("real_mixed", 0, [0.2, 0.8]), figures("real_mixed", 1, [0.4, 1.0])]
    assert patient_means(mine, "test", "ct_ich", "dice") == pytest.approx([0.3, 0.9])
    assert patient_means(mine, "test", "phe_sich", "dice") == []


def test_the_page_shows_mean_deviation_interval_and_what_is_missing() -> None:
    scores = [0.25, 0.5, 0.75, 1.0]
    text = page([figures("real_mixed", 0, scores), figures("real_mixed", 1, scores)], rows())
    line = next(line for line in text.splitlines() if "(`real_mixed`)" in line)
    assert f"0.625 ± {np.std(scores, ddof=1):.3f} [" in line and "n = 4" in line
    assert "| 0, 1 |" in line and "| 0.50 | 90 | 2 cores, X |" in line
    assert "Not measured yet: `thesis_baseline`" in text


def test_a_page_without_figures_lists_all_rows_as_missing() -> None:
    text = page([], rows())
    assert all(f"`{row.name}`" in text for row in rows())
