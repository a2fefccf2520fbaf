"""docs/RESULTS.md: the plan makes valid configurations, and the page says what the figures say."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.results.folds import Member, manifest, stage
from benchmarks.results.measure import KEPT, configuration, merge
from benchmarks.results.page import page, patient_figures
from benchmarks.results.plan import FOLDS, SOURCES, Row, rows, without
from components.nifti_example_gen.layout import find_cases
from pipeline.config import Config

PLAN = {row.name: row for row in rows()}


def layouts(row: Row) -> dict[str, dict[str, str]]:
    return {source: {"manifest": f"{source}.csv"} for source in row.sources}


def made(row: Row) -> Config:
    return Config.model_validate(configuration(row, layouts(row)))


@pytest.mark.parametrize("row", PLAN.values(), ids=PLAN)
def test_every_row_is_a_valid_configuration_on_its_sources(row: Row) -> None:
    config = made(row)
    assert tuple(config.data.sources) == row.sources
    assert config.gate.min_mean_dice == 0
    assert row.minutes is None or config.training.max_minutes == row.minutes


def test_the_ablation_ends_with_the_shipped_recipe_at_its_own_length() -> None:
    last = made(PLAN[max(name for name in PLAN if name.startswith("ablation-"))]).model_dump()
    shipped = made(PLAN["real_mixed"]).model_dump()
    for tree in (last, shipped):
        del tree["name"], tree["training"]["max_minutes"]
    assert last == shipped


def test_each_row_of_the_ablation_adds_to_the_one_before() -> None:
    trees = [configuration(row, layouts(row)) for row in rows() if row.group == "ablation"]
    for tree in trees:
        del tree["name"]
    assert all(earlier != later for earlier, later in itertools.pairwise(trees))
    assert trees[0]["postprocess"]["tune"] is False and trees[0]["training"]["ema"] == 0.0


def test_the_thesis_row_has_nothing_of_ours() -> None:
    config = made(PLAN["thesis_baseline"])
    assert config.channels == 1 and not config.postprocess.tune and not config.inference.mirror
    assert (config.training.dice_weight, config.training.ema, config.training.lesion_fraction) == (0.0, 0.0, 1.0)
    augment = config.training.augment.model_dump()
    assert not any(augment[key] for key in ("flip", "affine_share", "elastic_share", "carve_share", "soften_share",
                                            "gamma", "intensity", "noise"))  # fmt: skip


def test_sections_are_merged_and_keys_taken_away() -> None:
    tree: dict[str, Any] = {"a": {"b": 1, "c": [1]}, "d": 2}
    merge(tree, {"a": {"c": [2, 3]}, "e": {"f": 4}})
    assert tree == {"a": {"b": 1, "c": [2, 3]}, "d": 2, "e": {"f": 4}}
    assert without(tree, ["a.c", "e"]) == {"a": {"b": 1}, "d": 2}
    assert tree["a"]["c"] == [2, 3]


def figures(row: str, fold: int, dice: list[float], part: str = "test") -> dict[str, Any]:
    found = {"ct_ich": {name: dice if name == "dice" else [float(fold)] * len(dice) for name in KEPT}}
    return {"row": row, "fold": fold, "minutes": 90.0 + fold, "hardware": "2 cores, X", part: found}


def test_test_patients_of_all_folds_stand_side_by_side() -> None:
    mine = [figures("real_mixed", 0, [0.2, 0.8]), figures("real_mixed", 1, [0.4])]
    assert patient_figures(mine, "test", "ct_ich", "dice") == [0.2, 0.8, 0.4]
    assert patient_figures(mine, "test", "phe_sich", "dice") == []


def test_patients_of_elsewhere_are_averaged_over_folds() -> None:
    mine = [figures("a", 0, [0.2, 0.8], "generalisation"), figures("a", 1, [0.4, 1.0], "generalisation")]
    assert patient_figures(mine, "generalisation", "ct_ich", "dice") == pytest.approx([0.3, 0.9])


def test_the_page_shows_mean_deviation_interval_and_what_is_missing() -> None:
    scores = [0.25, 0.5, 0.75, 1.0]
    text = page([figures("real_mixed", 0, scores[:2]), figures("real_mixed", 1, scores[2:])], rows())
    line = next(line for line in text.splitlines() if "(`real_mixed`)" in line)
    assert f"0.625 ± {np.std(scores, ddof=1):.3f} [" in line and "n = 4" in line
    assert "| 0, 1 |" in line and "| 0.50 | 90 | 2 cores, X |" in line
    assert "Not measured yet: `thesis_baseline`" in text


MEMBERS = [Member(f"{number:02}{scan}", f"{number:02}", f"i/{number}", f"m/{number}") for number in range(22)
           for scan in "ab"]  # fmt: skip


def dealt(fold: int) -> dict[str, str]:
    listed = list(csv.DictReader(manifest(MEMBERS, fold).splitlines()))
    splits = {row["patient_id"]: row["split"] for row in listed}
    assert len(listed) == len(MEMBERS)
    assert all(splits[row["patient_id"]] == row["split"] for row in listed), "a patient's scans stay together"
    return splits


def test_every_patient_is_tested_once_and_never_validated_or_trained_on_in_that_fold() -> None:
    folds = [dealt(fold) for fold in range(FOLDS)]
    for number in range(22):
        assert [fold[f"{number:02}"] for fold in folds].count("test") == 1
        assert [fold[f"{number:02}"] for fold in folds].count("val") <= 1
    for fold in folds:
        counts = Counter(fold.values())
        assert counts["test"] in (4, 5, 6) and counts["val"] in (2, 3) and counts["train"] >= 14


def test_the_order_of_the_cases_does_not_matter() -> None:
    assert manifest(reversed(MEMBERS), 3) == manifest(MEMBERS, 3)


def test_a_staged_folder_is_read_as_the_sources_themselves(tmp_path: Path) -> None:
    names = ("phe_sich/images/1", "phe_sich/masks/1", "ct_ich/7/image", "ct_ich/7/mask")
    for path in (f"{name}.nii.gz" for name in names):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).touch()
    sources = stage(tmp_path / "data", tmp_path / "staged", SOURCES, 0)
    stage(tmp_path / "data", tmp_path / "staged", SOURCES, 0)  # again changes nothing
    config = Config.model_validate({"name": "x", "data": {"sources": sources}})
    found = find_cases(tmp_path / "staged", config.data.model_dump()).cases
    assert {case.case_id for case in found} == {"phe_sich_1", "ct_ich_7"}
    assert all(case.image.is_file() and case.mask.is_file() and case.split for case in found)


def test_a_page_without_figures_lists_all_rows_as_missing() -> None:
    text = page([], rows())
    assert all(f"`{row.name}`" in text for row in rows())
