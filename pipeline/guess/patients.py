"""Whose scans they are, told by the case ids, and how few patients are dealt out."""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.nifti_example_gen.layout import Case
from components.nifti_example_gen.splits import split_of
from schema.features import SPLITS

_VISIT = "ses|session|visit|scan|time|tp|day|fu|followup|follow-up|baseline|pre|post|admission|control|repeat"
_EXPRESSIONS = (
    rf"^(.+?)(?:[-_.](?:{_VISIT})[-_]?\w*)?$",
    r"^(.+?)(?:[-_.]\d{4}-?\d{2}-?\d{2})?$",
    r"^(.+?)(?:[-_.]\d{1,2})?$",
    r"^(.*\d)[-_.]?[a-eA-E]?$",
)
"""Regular expressions whose first group is the patient where several scans share what is before an ending."""

_LEAST_PATIENTS = 3
_MOST_SCANS = 4
"""On average; more would rather be a site's or a series of numbers."""
_SMALL = 40
"""Patients; among more, the hash buckets hold about the shares that they should."""


def patient_expression(cases: Sequence[str]) -> tuple[str, int] | None:
    """An expression that tells patients by case ids, and how many there are; None where each scan is its own.

    It must match every case id, and give patients that look like such: some with several scans, none with many, each
    with a number or in capitals.

    Args:
        cases: Case ids of one source.
    """
    for expression in _EXPRESSIONS:
        found = [match[1] if (match := re.match(expression, case)) else "" for case in cases]
        groups = Counter(found)
        several = sum(count > 1 for count in groups.values())
        if (
            several
            and "" not in groups
            and _LEAST_PATIENTS <= len(groups) < len(cases)
            and len(cases) <= _MOST_SCANS * len(groups)
            and all(any(letter.isdigit() for letter in name) for name in groups)
        ):
            return expression, len(groups)
    return None


def dealt(cases: Sequence[Case], splits: Mapping[str, Any]) -> dict[str, int]:
    """Patients by split."""
    members: dict[str, set[str]] = {name: set() for name in SPLITS}
    for case in cases:
        members[split_of(case, splits)].add(case.patient_id)
    return {name: len(found) for name, found in members.items()}


def fitting_salt(cases: Sequence[Case], splits: Mapping[str, Any]) -> tuple[str, dict[str, int]] | None:
    """A salt with which few patients are dealt out about as they should; None where the usual one is as good.

    Of several sources each is looked at, too.

    Args:
        cases: The cases; a manifest's splits stay.
        splits: The configuration's section `splits`.
    """
    by_source: dict[str, list[Case]] = {}
    for case in cases:
        by_source.setdefault(case.source, []).append(case)
    parts = [*by_source.values(), *([list(cases)] if len(by_source) > 1 else [])]

    def misfit(salt: str) -> tuple[int, float]:
        """Empty splits over all patients, and how far the counts are from the shares, in patients."""
        empty, far = 0, 0.0
        for part in parts:
            counts = dealt(part, {**splits, "salt": salt})
            total = sum(counts.values())
            wanted = {name: max(1.0, total * splits[name] / 100) for name in SPLITS}
            far += sum(abs(counts[name] - wanted[name]) for name in SPLITS)
            far += 10 * sum(not count for count in counts.values()) if part is not parts[-1] else 0
            empty = sum(not count for count in counts.values())
        return empty, far

    patients = len({case.patient_id for case in cases})
    usual = misfit(splits["salt"])
    if usual[0] == 0 and (patients > _SMALL or usual[1] <= 0.15 * patients):
        return None
    letters = itertools.chain(string.ascii_lowercase, map("".join, itertools.product(string.ascii_lowercase, repeat=2)))
    best = min(itertools.islice(letters, 26 if patients > _SMALL else 400), key=misfit)
    if misfit(best) >= usual:
        return None
    return best, dealt(cases, {**splits, "salt": best})
