"""Checks between cases: leakage from one split to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.imaging.checks.finding import Finding, apply_policy


@dataclass(frozen=True)
class Member:
    """A case as the cohort sees it.

    Attributes:
        case_id: The case.
        patient_id: Its patient.
        split: Its split.
        digest: Hash of its scan; empty where it could not be read.
    """

    case_id: str
    patient_id: str
    split: str
    digest: str = ""


def cohort_findings(members: Iterable[Member], policy: Mapping[str, str]) -> dict[str, tuple[Finding, ...]]:
    """Findings by case id: one image under several case ids, one patient in several splits.

    The first case by id stays, those after it get the finding, so that what stays is free of leakage and does not
    depend on the order of reading. Of a patient in several splits, the split with most of its scans stays, the first
    by case id among equals.

    Args:
        members: The cases that are to be used.
        policy: The configuration's `data.checks`.
    """
    ordered = sorted(members, key=lambda member: member.case_id)
    found: dict[str, list[Finding]] = defaultdict(list)
    for case_id, finding in (*_patients(ordered), *_images(ordered)):
        found[case_id].append(finding)
    return {case_id: kept for case_id, items in found.items() if (kept := apply_policy(items, policy))}


def _patients(members: list[Member]) -> Iterable[tuple[str, Finding]]:
    by_patient: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        by_patient[member.patient_id].append(member)
    for patient, group in by_patient.items():
        splits = [member.split for member in group]
        stays = max(dict.fromkeys(splits), key=splits.count)  # the first of equals
        for member in group:
            if member.split != stays:
                text = f"{member.case_id}: patient {patient} is in {member.split} and, as other scans, in {stays}"
                yield member.case_id, Finding.of("patient-in-splits", text)


def _images(members: list[Member]) -> Iterable[tuple[str, Finding]]:
    first: dict[str, Member] = {}
    for member in members:
        if not member.digest:
            continue
        known = first.setdefault(member.digest, member)
        if known is member:
            continue
        if known.split == member.split:
            yield member.case_id, Finding.of("duplicate-image", f"{member.case_id}: the same image as {known.case_id}")
        else:
            text = f"{member.case_id} in {member.split}: the same image as {known.case_id} in {known.split}"
            yield member.case_id, Finding.of("duplicate-across-splits", text)
