"""The content of a report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.data_report.charts import chart
from components.data_report.distributions import PREVIOUS
from schema.features import SPLITS

_FOLDER = Path(__file__).parent
_GROUPS = (*SPLITS, PREVIOUS)
_DIGITS = ((1000, 0), (100, 1), (1, 2))
"""Digits after the point, by the least size of the number."""


def render(content: Mapping[str, Any]) -> str:
    """The page.

    Args:
        content: What `content.collect` returned, or the same read back from JSON.

    Returns:
        HTML without scripts or references to anything outside; text from the data is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "percent": percent, "sentence": lambda text: text[:1].upper() + text[1:]}
    distributions = content["distributions"]
    return environment.get_template("page.html.j2").render(
        content,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        same=[item for item in distributions if len(item.get("labels", ())) == 1],
        charts=[
            {**item, "svg": Markup(chart(item)), "alt": alt_text(item)}
            for item in distributions
            if len(item.get("labels", "12")) > 1
        ],
        groups=[name for name in _GROUPS if content["cohort"][name]],
        quarantine_codes=Counter(item["code"] for item in content["quarantine"]).most_common(),
        total=len(content["cases"]) + len(content["quarantine"]),
    )


def number(value: Any) -> str:
    """A figure with three or four digits that count, and thin spaces between thousands; a dash for none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int) or value == int(value):
        text = f"{value:,.0f}"
    elif abs(value) < 1:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{next(digits for least, digits in _DIGITS if abs(value) >= least)}f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")


def percent(part: float, whole: float) -> str:
    """A share, such as `12 %`; a dash of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f}\N{NARROW NO-BREAK SPACE}%" if share >= 1 or not part else "< 1\N{NARROW NO-BREAK SPACE}%"


def alt_text(distribution: Mapping[str, Any]) -> str:
    """A chart in words: the median and range of each group, or its most frequent classes."""
    unit = f" {distribution['unit']}" if distribution["unit"] else ""
    parts = []
    for name, group in distribution["groups"].items():
        total = sum(group["counts"]) + group["below"] + group["above"]
        if not total:
            continue
        if "edges" in distribution:
            figures = group["summary"]
            median, low, high = (number(figures[key]) for key in ("median", "min", "max"))
            found = f"median {median}{unit}, from {low} to {high}"
        else:
            ranked = sorted(zip(group["counts"], distribution["labels"], strict=True), key=lambda item: -item[0])
            found = ", ".join(f"{label}{unit} {percent(count, total)}" for count, label in ranked[:3] if count)
        parts.append(f"{name}, {total} scans: {found}")
    return f"{distribution['title']}. {'; '.join(parts)}."
