"""Counting: figures worked out by hand, classes at their bounds, one wrong scan among many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.data_report.distributions import PREVIOUS, distributions, summary
from components.data_report.quantities import QUANTITIES
from tests.components.data_report.listings import random_cohort, record


def one(key: str, **groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The distribution of a quantity."""
    return next(item for item in distributions(groups) if item["key"] == key)


def test_a_summary_by_hand() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 11.0]) == {
        "n": 5, "min": 1.0, "p05": 1.2, "q25": 2.0, "median": 3.0, "q75": 4.0, "p95": 9.6, "max": 11.0,
    }  # fmt: skip


def test_blood_volumes_fall_into_fixed_classes_with_none_apart() -> None:
    volumes = [0.0, 0.0, 0.2, 1.0, 4.999, 5.0, 24.9, 25.0, 99.9, 100.0, 250.0]
    found = one("lesion_ml", train=[record(str(n), lesion_ml=ml) for n, ml in enumerate(volumes)])
    assert found["labels"] == ["none", "< 1", "1–5", "5–10", "10–25", "25–50", "50–100", "≥ 100"]
    assert found["groups"]["train"]["counts"] == [2, 1, 2, 1, 1, 1, 1, 2]


def test_few_values_are_classes_of_their_own_in_order() -> None:
    thick = [record(str(n), spacing_mm=[mm, 0.5, 0.5]) for n, mm in enumerate((10.0, 5.0, 5.001, 2.5))]
    found = one("slice_spacing", train=thick, val=[record("v", "val", spacing_mm=[10.0, 0.5, 0.5])])
    assert found["labels"] == ["2.5", "5", "10"]
    assert found["groups"]["train"]["counts"] == [1, 2, 1]
    assert found["groups"]["val"]["counts"] == [0, 0, 1]


def test_many_names_are_cut_to_the_most_frequent_and_none_is_lost() -> None:
    sizes = [n for n in range(20) for _ in range(20 - n)]
    records = [record(str(i), native_shape=[20, 100 + n, 200]) for i, n in enumerate(sizes)]
    found = one("matrix", train=records)
    assert found["labels"][:2] == ["200 × 100", "200 × 101"]
    assert len(found["labels"]) == 8 and found["labels"][-1] == "others"
    assert found["groups"]["train"]["counts"][:2] == [20, 19]
    assert sum(found["groups"]["train"]["counts"]) == len(records)


def test_bins_are_those_of_numpy_and_the_same_for_all_groups() -> None:
    records = random_cohort(200)
    groups = {split: [item for item in records if item["split"] == split] for split in ("train", "val", "test")}
    found = one("brain_hu_mean", **groups, previous=random_cohort(50, seed=1))
    assert set(found["groups"]) == {"train", "val", "test", PREVIOUS}
    for split, members in groups.items():
        values = np.array([item["brain_hu_mean"] for item in members])
        expected, _ = np.histogram(values, found["edges"])
        group = found["groups"][split]
        assert group["counts"] == expected.tolist()
        assert sum(group["counts"]) + group["below"] + group["above"] == len(values)
        assert group["summary"]["median"] == pytest.approx(np.median(values), abs=1e-3)
    assert np.allclose(np.diff(found["edges"]), found["edges"][1] - found["edges"][0])


def test_one_wrong_scan_does_not_squeeze_the_others_into_one_bin() -> None:
    records = [*random_cohort(60), record("wrong", brain_hu_mean=1060.0), record("low", brain_hu_mean=-900.0)]
    found = one("brain_hu_mean", train=records)
    group = found["groups"]["train"]
    assert (group["below"], group["above"]) == (1, 1)
    assert sum(group["counts"]) == 60 and sum(count > 0 for count in group["counts"]) > 5
    assert (group["summary"]["min"], group["summary"]["max"]) == (-900.0, 1060.0)
    assert group["extremes"] == {"min": "low", "max": "wrong"}
    assert one("matrix", train=records)["groups"]["train"]["extremes"] == {}


def test_what_a_scan_lacks_is_counted_and_what_all_lack_is_left_out() -> None:
    found = one("brain_hu_mean", train=[record("a", brain_hu_mean=None), record("b"), record("c", brain_hu_mean=40.0)])
    assert found["groups"]["train"]["missing"] == 1
    assert sum(found["groups"]["train"]["counts"]) == 2
    keys = {item["key"] for item in distributions({"train": [record("a", brain_hu_mean=None, source="")]})}
    assert keys == {quantity.key for quantity in QUANTITIES} - {"brain_hu_mean", "source"}


def test_sources_are_counted_where_there_are_several() -> None:
    found = one("source", train=[record(name, source=name[0]) for name in ("a1", "b1", "b2")], previous=[record("a1")])
    assert found["labels"] == ["b", "a"]
    assert found["groups"]["train"]["counts"] == [2, 1]
    assert found["groups"]["previous"]["missing"] == 1


def test_a_listing_of_an_older_version_shows_what_it_holds() -> None:
    old = {"case_id": "a", "patient_id": "a", "split": "train", "slices": 20, "lesion_slices": 1, "lesion_ml": 2.0}
    assert {item["key"] for item in distributions({"train": [old]})} == {"lesion_ml", "slices"}


def test_nothing_of_nothing() -> None:
    assert distributions({"train": [], "val": [], "test": []}) == []
