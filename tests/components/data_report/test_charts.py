"""The charts: bars in proportion, colours and fonts left to the page, nothing that two charts could share."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from components.data_report.charts import chart
from components.data_report.distributions import distributions
from components.pages.svg import SVG
from tests.components.data_report.listings import random_cohort, record


def bars(svg: str, group: str) -> list[float]:
    """Heights of the bars of a group, from left to right."""
    heights = []
    for path in ET.fromstring(svg).iter(f"{{{SVG}}}path"):
        if f"fill: var(--{group})" in path.get("style", ""):
            heights.append([float(y) for _, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))])
    return [max(ys) - min(ys) for ys in heights]


def test_bars_are_in_proportion_and_empty_classes_have_none() -> None:
    volumes = [0.0, 0.0, 0.0, 0.0, 12.0, 30.0, 31.0]
    (found,) = [d for d in distributions({"train": [record(str(n), lesion_ml=ml) for n, ml in enumerate(volumes)]})
                if d["key"] == "lesion_ml"]  # fmt: skip
    none, ten, twenty_five = bars(chart(found), "train")
    assert none / ten == pytest.approx(4, rel=1e-3)
    assert twenty_five / ten == pytest.approx(2, rel=1e-3)


def test_every_chart_of_a_cohort_is_drawn_by_the_page() -> None:
    records = random_cohort(60)
    groups = {split: [item for item in records if item["split"] == split] for split in ("train", "val", "test")}
    found = distributions({**groups, "previous": random_cohort(20, seed=1)})
    assert len(found) == 13
    for item in found:
        svg = chart(item)
        assert all(bars(svg, name) for name in item["groups"])
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b|\bid=|url\(|<style|<script|font-family|xlink|metadata", svg)
        assert "train" in svg and "36 scans" in svg


def test_a_group_without_scans_has_no_row_and_outliers_are_counted() -> None:
    records = [*random_cohort(60), record("far", brain_hu_mean=1060.0)]
    (found,) = [d for d in distributions({"train": records, "val": [], "test": []}) if d["key"] == "brain_hu_mean"]
    svg = chart(found)
    assert "61 scans" in svg and "1 beyond" in svg
    assert ">val<" not in svg


def test_names_from_files_are_text() -> None:
    (found,) = [d for d in distributions({"train": [record("a", orientation="<b>&$x_1$"), record("b")]})
                if d["key"] == "orientation"]  # fmt: skip
    texts = ["".join(text.itertext()) for text in ET.fromstring(chart(found)).iter(f"{{{SVG}}}text")]
    assert "<b>&$x_1$" in texts
