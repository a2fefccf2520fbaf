"""Counting scans by quantity and split, as plain numbers that charts and tables are then drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from components.data_report.quantities import QUANTITIES, Quantity, Record

PREVIOUS = "previous"
"""The group of the cohort that today's is compared with."""

_MOST_BINS = 18
_FEW_VALUES = 6
_FAR = 3.0
_MOST_NAMES = 8
_OTHERS = "others"


def distributions(groups: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Every quantity that the records hold.

    Args:
        groups: Records by group: the splits, and perhaps `PREVIOUS`.

    Returns:
        For each quantity its `key`, `title`, `unit`, `about`, and either `edges` of bins or `labels` of classes;
        `groups` holds of each group the `counts` per bin or class, the numbers of scans `below` and `above` all bins
        and of those `missing` the quantity, and for numbers a `summary` and the scans at its `extremes`.
    """
    found = []
    for quantity in QUANTITIES:
        values = {name: _values(quantity, records) for name, records in groups.items()}
        if any(value is not None for members in values.values() for value in members):
            made = _distribution(quantity, values)
            for name, records in groups.items():
                made["groups"][name]["extremes"] = _extremes(values[name], records)
            found.append(made)
    return found


def _extremes(values: Sequence[Any], records: Sequence[Record]) -> dict[str, str]:
    """The scans with the least and the greatest number, to find what a wrong figure comes from."""
    numbers = [(value, record["case_id"]) for value, record in zip(values, records, strict=True) if value is not None]
    if not numbers or isinstance(numbers[0][0], str):
        return {}
    return {"min": min(numbers)[1], "max": max(numbers)[1]}


def _values(quantity: Quantity, records: Sequence[Record]) -> list[float | str | None]:
    try:
        return [quantity.of(record) for record in records]
    except (KeyError, TypeError, IndexError):  # a listing of an older version
        return [None] * len(records)


def _distribution(quantity: Quantity, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    present = {name: [value for value in members if value is not None] for name, members in values.items()}
    pooled = [value for members in present.values() for value in members]
    named = isinstance(pooled[0], str)
    result: dict[str, Any] = {
        "key": quantity.key, "title": quantity.title, "unit": quantity.unit, "about": quantity.about,
    }  # fmt: skip
    if named:
        result["labels"], counts = _by_name(present)
    elif quantity.classes:
        result["labels"], counts = _by_class(present, quantity.classes)
    elif len({_short(value) for value in pooled}) <= _FEW_VALUES:
        result["labels"], counts = _by_value(present)
    else:
        result["edges"], counts = _by_bin(present, pooled)
    edges = result.get("edges")
    result["groups"] = {
        name: {
            "counts": counts[name],
            "below": sum(value < edges[0] for value in present[name]) if edges else 0,
            "above": sum(value > edges[-1] for value in present[name]) if edges else 0,
            "missing": len(values[name]) - len(present[name]),
            "summary": None if named or not present[name] else summary(present[name]),
        }
        for name in values
    }
    return result


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, extremes and percentiles, rounded to thousandths; percentiles are interpolated linearly."""
    low, p05, q25, median, q75, p95, high = np.percentile(values, (0, 5, 25, 50, 75, 95, 100)).round(3).tolist()
    return {
        "n": len(values), "min": low, "p05": p05, "q25": q25, "median": median, "q75": q75, "p95": p95, "max": high,
    }  # fmt: skip


def _short(value: float) -> str:
    return f"{round(value, 2):g}"


def _counted(labels: Sequence[str], present: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    counters = {name: Counter(members) for name, members in present.items()}
    return {name: [counter[label] for label in labels] for name, counter in counters.items()}


def _by_name(present: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, list[int]]]:
    """The most frequent names; the rest together, so that a cohort of a hundred matrices stays readable."""
    total = Counter(value for members in present.values() for value in members)
    labels = [name for name, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))]
    if len(labels) > _MOST_NAMES:
        kept = set(labels[: _MOST_NAMES - 1])
        present = {
            name: [value if value in kept else _OTHERS for value in members] for name, members in present.items()
        }
        labels = [*labels[: _MOST_NAMES - 1], _OTHERS]
    return labels, _counted(labels, present)


def _by_value(present: Mapping[str, Sequence[float]]) -> tuple[list[str], dict[str, list[int]]]:
    names = {name: [_short(value) for value in members] for name, members in present.items()}
    labels = sorted({value for members in names.values() for value in members}, key=float)
    return labels, _counted(labels, names)


def _by_class(
    present: Mapping[str, Sequence[float]], bounds: Sequence[float]
) -> tuple[list[str], dict[str, list[int]]]:
    """Classes from each bound to below the next; exactly 0 is a class of its own."""
    between = [f"{low:g}–{high:g}" for low, high in pairwise(bounds[1:])]
    labels = ["none", f"< {bounds[1]:g}", *between, f"≥ {bounds[-1]:g}"]
    counts = {}
    for name, members in present.items():
        places = np.where(np.asarray(members) <= 0, 0, np.searchsorted(bounds, members, side="right"))
        counts[name] = np.bincount(places.astype(int), minlength=len(labels)).tolist()
    return labels, counts


def _by_bin(
    present: Mapping[str, Sequence[float]], pooled: Sequence[float]
) -> tuple[list[float], dict[str, list[int]]]:
    """The same round bin edges for all groups; the last bin holds its upper edge.

    Values far outside the middle half (Tukey's far outliers, by three times its width) are left to `below` and
    `above`: one wrong scan would squeeze all others into one bin.
    """
    q25, q75 = np.percentile(pooled, (25, 75))
    reach = _FAR * (q75 - q25)
    inside = [value for value in pooled if q25 - reach <= value <= q75 + reach] if reach else list(pooled)
    locator = MaxNLocator(nbins=_MOST_BINS, steps=[1, 2, 2.5, 5, 10])
    edges = np.round(locator.tick_values(min(inside), max(inside)), 6)
    return edges.tolist(), {name: np.histogram(members, edges)[0].tolist() for name, members in present.items()}
