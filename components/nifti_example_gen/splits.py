"""Dealing patients out to train, val and test: by hash, so that a patient stays where it is as data grows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from components.imaging.errors import UsageError
from components.nifti_example_gen.layout import Case
from schema.features import SPLITS


def split_of(case: Case, splits: Mapping[str, Any]) -> str:
    """The split of a case: the manifest's, else by the hash of the patient id.

    Args:
        case: The case.
        splits: The configuration's section `splits`: percentages by split, and `salt`.
    """
    if case.split:
        return case.split
    digest = hashlib.sha256(f"{splits['salt']}:{case.patient_id}".encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    if bucket < splits["train"]:
        return "train"
    return "val" if bucket < splits["train"] + splits["val"] else "test"


def deal(cases: Iterable[Case], splits: Mapping[str, Any]) -> dict[str, list[Case]]:
    """Cases by split.

    Raises:
        UsageError: A split has no patient.
    """
    dealt: dict[str, list[Case]] = {name: [] for name in SPLITS}
    for case in cases:
        dealt[split_of(case, splits)].append(case)
    refuse_empty({name: len({case.patient_id for case in members}) for name, members in dealt.items()})
    return dealt


def refuse_empty(patients: Mapping[str, int]) -> None:
    """Raises a UsageError when a split has no patient, naming the counts."""
    if not all(patients.values()):
        counts = ", ".join(f"{name} {count}" for name, count in patients.items())
        raise UsageError(
            f"splits: patients per split are {counts}, wanted at least one in each; "
            "add patients, try another splits.salt, or fix the splits in a manifest"
        )
