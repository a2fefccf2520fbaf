"""The content of a report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.data_report.charts import chart
from components.data_report.distributions import PREVIOUS
from components.pages.html import environment, number, percent, style
from schema.features import SPLITS

_FOLDER = Path(__file__).parent
_GROUPS = (*SPLITS, PREVIOUS)


def render(content: Mapping[str, Any]) -> str:
    """The page.

    Args:
        content: What `content.collect` returned, or the same read back from JSON.

    Returns:
        HTML without scripts or references to anything outside; text from the data is escaped.
    """
    distributions = content["distributions"]
    return (
        environment(_FOLDER)
        .get_template("page.html.j2")
        .render(
            content,
            style=style(_FOLDER / "page.css"),
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
    )


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
