"""Leakage between splits: what stays, what goes."""

from __future__ import annotations

import itertools

import pytest

from components.imaging.checks.cohort import Member, cohort_findings

M = Member


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([], {}),
        ([M("a", "p", "train", "1"), M("b", "p", "train", "2")], {}),
        ([M("a", "p", "train", "1"), M("b", "q", "train", "1")], {"b": "duplicate-image"}),
        ([M("a", "p", "train", "1"), M("b", "q", "test", "1")], {"b": "duplicate-across-splits"}),
        (
            [M("a", "p", "train", "1"), M("b", "q", "train", "1"), M("c", "r", "val", "1")],
            {"b": "duplicate-image", "c": "duplicate-across-splits"},
        ),
        ([M("a", "p", "train", "1"), M("b", "p", "test", "2")], {"b": "patient-in-splits"}),
        # The split with more scans stays, whatever the order of the ids.
        (
            [M("a", "p", "test", "1"), M("b", "p", "train", "2"), M("c", "p", "train", "3")],
            {"a": "patient-in-splits"},
        ),
        # Nothing is known of the content of scans that could not be read.
        ([M("a", "p", "train", ""), M("b", "q", "test", "")], {}),
    ],
)
def test_what_is_found(members: list[Member], expected: dict[str, str]) -> None:
    for order in itertools.permutations(members):
        found = cohort_findings(order, {})
        assert {case: finding.code for case, (finding,) in found.items()} == expected


def test_one_case_may_have_both() -> None:
    found = cohort_findings([M("a", "p", "train", "1"), M("b", "p", "test", "1")], {})
    assert [finding.code for finding in found["b"]] == ["patient-in-splits", "duplicate-across-splits"]
    assert "a" in found["b"][1].message and "train" in found["b"][1].message


def test_the_policy_counts_here_too() -> None:
    members = [M("a", "p", "train", "1"), M("b", "q", "train", "1")]
    assert cohort_findings(members, {"duplicate-image": "off"}) == {}
    assert cohort_findings(members, {"duplicate-image": "error"})["b"][0].severity == "error"
