"""The page: figures, words for them, escaping, no reference to anything outside, its size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.imaging.agreement import bland_altman
from components.pages.html import number
from components.run_report import charts
from components.run_report.content import collect
from components.run_report.page import fixed, render
from pipeline.config import NO_RESULT, load_config
from tests.components.data_report.listings import finding, listing, record
from tests.components.run_report.runs import cohort, folds, history, made_contract, measured_cases, scan, verdict
from tests.pages import Page, is_accessible, needs_nothing

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
SECTIONS = ("gate", "dice", "measures", "false-positives", "volumes", "calibration", "postprocess", "training", "model",
            "scans")  # fmt: skip


def content(patients: int = 12, *, refused: bool = True, **changes: Any) -> dict[str, Any]:
    """Of a run against a model in service."""
    found, measures = cohort(patients, **changes)
    served = {case: {**values, "patient_dice": values["patient_dice"] * 0.9} for case, values in measures.items()}
    gate: dict[str, Any] = {"min_mean_dice": 0.999, "slices": {"small": 0.5}} if refused else {"min_mean_dice": 0.0}
    result = verdict(measures, measured_cases(found), served, **gate)
    config = load_config("demo")
    sections = json.loads(config.subset(*(name for name in type(config).model_fields if name not in NO_RESULT)))
    return collect(
        result, found, made_contract(), name="demo", config=sections, history=history(),
        findings=[finding("hold")], created="2000-01-01 00:00 UTC", code="c0de",
    )  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render(content())


def test_nothing_is_asked_of_the_network(page: str) -> None:
    needs_nothing(page)


def test_headings_landmarks_and_names_for_those_who_do_not_see_it(page: str) -> None:
    is_accessible(page)


def test_every_section_has_its_figure_and_each_figure_its_words(page: str) -> None:
    parsed = Page(page)
    assert {item["id"] for _, item in parsed.elements if "id" in item} >= set(SECTIONS)
    figures = [item for item in parsed.all("div") if item.get("role") == "img"]
    assert len(figures) == page.count("<svg") == 6 + 5  # and one a curve of the tuning
    words = " ".join(item["aria-label"] for item in figures)
    for text in (
        "Dice of 12 patients as bars", "Mean Dice by kind of scan", "false-positive components:", "limits of agreement",
        "Share that is lesion by mean probability", "3 epochs: loss from 0.9 to 0.4", "0.4 (chosen): Dice 0.750",
        "Inside the skull only. no (chosen): Dice 0.750", "yes: Dice 0.745",
    ):  # fmt: skip
        assert text in words, text


def test_the_verdict_comes_first_and_says_why(page: str) -> None:
    text = Page(page).text
    assert text.index("Refused") < text.index("Mean test Dice is") < text.index("The gate")
    for wanted in ("0.999", "Version 1600000000", "min_mean_dice", "slices.small", "broken", "kept"):
        assert wanted in text, wanted


def test_numbers_on_the_page_are_those_of_the_content(page: str) -> None:
    made, text = content(), Page(page).text
    overall = made["overall"]["dice"]
    assert f"Mean {fixed(overall['mean'])} ± {fixed(overall['sd'])}" in text
    assert f"interval of the mean {fixed(overall['ci95_low'])} to {fixed(overall['ci95_high'])}" in text
    assert f"Bias {number(made['volumes']['bias'])} ml" in text
    assert f"Brier score {fixed(made['calibration']['brier'], 4)}" in text
    for row in made["scans"]:
        assert row["case_id"] in text
    for item in made["slices"].values():
        if item["scans"]:
            assert f"{item['scans']} scan" in text


def test_the_settings_on_the_page_are_a_configuration(page: str, tmp_path: Path) -> None:
    """What one saves of it gives the model of the same fingerprint."""
    text = Page(page).text
    start = text.index("All settings") + len("All settings")
    saved = text[start : text.index("All test scans")]
    path = tmp_path / "run.yaml"
    path.write_text(saved)
    assert yaml.safe_load(saved)["name"] == "demo"
    assert load_config(path).fingerprint() == load_config("demo").fingerprint()
    assert load_config(path) == load_config("demo")


def test_text_from_the_data_is_escaped() -> None:
    made = content(2, prefix=EVIL)
    html = render(made)
    assert "<script>" not in html and "<img" not in html
    assert EVIL in Page(html).text
    needs_nothing(html)


def test_a_page_of_a_single_scan_with_nothing_tuned_nor_kept() -> None:
    found = listing(record("a", "test", 0.0))
    result = verdict({"a": scan(1.0, 0, 0, 0)}, measured_cases(found))
    result["calibration"] = {**result["calibration"], "pixels": 0}
    made = collect(result, found, {**made_contract(), "tuning": {}}, name="n", config={"name": "n"})
    text = Page(render(made)).text
    for wanted in (
        "Passed", "no model is in service yet", "It was not tuned", "No history of the training was kept",
        "Not measured: no pixel", "1 test patient",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "None" not in text and not re.search(r"\bnan\b", text)


def test_the_page_is_the_same_again_and_from_json(page: str) -> None:
    assert render(json.loads(json.dumps(content(), allow_nan=False))) == page


def test_a_hundred_patients_stay_far_below_15_mb() -> None:
    html = render(content(100, refused=False))
    assert 100_000 < len(html.encode()) < 2_000_000
    assert "Held" in Page(html).text


def test_bars_stand_for_the_dice_of_their_patients() -> None:
    """Heights in the drawing, from the best to the worst, those without blood in a colour of their own."""
    patients = [
        {"patient_id": name, "dice": dice, "true_volume_ml": true}
        for name, dice, true in (("a", 1.0, 0.0), ("b", 0.5, 3.0), ("c", 0.25, 3.0))
    ]
    svg = charts.dice_bars(patients, {"mean": 0.58, "sd": 0.38, "ci95_low": 0.3, "ci95_high": 0.9})
    bars = re.findall(r'<path d="M ([\d.]+) ([\d.]+) L ([\d.]+) [\d.]+ L [\d.]+ ([\d.]+)[^"]*" style="fill: '
                      r"var\(--(test|previous)\)", re.sub(r"\s+", " ", svg))  # fmt: skip
    assert [colour for *_, colour in bars] == ["previous", "test", "test"]
    heights = [float(bottom) - float(top) for _, bottom, _, top, _ in bars]
    assert heights == pytest.approx([heights[0], heights[0] / 2, heights[0] / 4], rel=1e-3)
    assert "id=" not in svg and "<style" not in svg and "clip-path" not in svg


def test_hundreds_of_patients_have_no_room_for_names() -> None:
    many = [{"patient_id": f"long_name_{n}", "dice": 0.5, "true_volume_ml": 1.0} for n in range(300)]
    svg = charts.dice_bars(many, {"mean": 0.5, "sd": 0.0, "ci95_low": 0.5, "ci95_high": 0.5})
    assert "long_name" not in svg and "300 patients" in svg


def test_a_broken_model_is_told_with_its_scans() -> None:
    records = [record(case, "test", 10.0) for case in ("a", "b")]
    measures = {"a": scan() | {"undefined_pixels": 37.0}, "b": scan(0.1) | {"outside_brain_ml": 9.0}}
    found = listing(*records)
    result = verdict(measures, measured_cases(found))
    text = Page(render(collect(result, found, made_contract(), name="n", config={"name": "n"}))).text
    assert "The model breaks one rule" in text and "Probabilities that are not numbers on 1 scan" in text
    assert "a: Dice 0.800, 37 pixels without a number" in text
    measures["a"]["outside_brain_ml"] = 3.0
    result = verdict(measures, measured_cases(found))
    text = Page(render(collect(result, found, made_contract(), name="n", config={"name": "n"}))).text
    assert "The model breaks 2 rules" in text and "67 % of what is outlined on scans with blood" in text
    assert re.search(r"b: Dice 0\.100, [^a]*9 ml on bone or outside the skull", text)


def test_what_a_search_chose_is_told_beside_the_settings(page: str) -> None:
    assert "Chosen by the search" not in Page(page).text
    made = content(2, refused=False)
    made["model"]["hyperparameters"] = {"learning_rate": 0.00125, "base_filters": 24}
    text = Page(render(made)).text
    assert "Chosen by the search" in text and "base_filters 24, in place of" in text
    assert f"learning_rate {number(0.00125)}, " in text


def test_what_the_network_sees_at_once(page: str) -> None:
    assert "0 neighbouring slices a side" in Page(page).text
    made = content(2, refused=False)
    made["model"]["input"] = "scan"
    text = Page(render(made)).text
    assert "whole scans at once" in text and "neighbouring" not in text


def test_each_fold_has_a_curve_a_row_and_words() -> None:
    found, measures = cohort(4)
    result = verdict(measures, measured_cases(found))
    made = collect(result, found, made_contract(), name="n", config={"name": "n"}, history=folds())
    html = render(made)
    text = Page(html).text
    assert "3 epochs of 2 folds, whose networks are averaged" in text and "0.700" in text
    assert "Fold 1, 2 epochs: loss from 1 to 0.5, val Dice from 0.110 to 0.120." in html
    assert "Fold 2, 1 epochs:" in html
    svg = charts.training_curves(made["training"]["epochs"], None)
    assert svg.count("stroke: var(--test)") >= 3 * 2  # a line a fold in each panel


def circles(svg: str) -> list[tuple[float, float]]:
    """Centres of the dots, in the drawing's points, downwards."""
    found = []
    for path in re.findall(r'<path d="(M[^"]*C[^"]*)"', svg):
        numbers = [float(value) for value in re.findall(r"-?[\d.]+", path)]
        found.append((float(np.mean([min(numbers[0::2]), max(numbers[0::2])])),
                      float(np.mean([min(numbers[1::2]), max(numbers[1::2])]))))  # fmt: skip
    return found


def test_dots_of_the_volumes_lie_where_bland_and_altman_put_them() -> None:
    pairs = [(10.0, 12.0), (20.0, 18.0), (30.0, 30.0), (0.0, 0.0)]
    patients = [{"true_volume_ml": true, "predicted_volume_ml": predicted} for true, predicted in pairs]
    svg = charts.agreement(patients, bland_altman(*zip(*pairs, strict=True)).as_dict())
    dots = circles(svg)
    assert len(dots) == 4
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = dots
    assert y2 == pytest.approx(y3, abs=0.02)  # no difference: on the line of nothing
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.02) and y0 < y2 < y1  # 2 ml more and 2 ml less
    assert (x1 - x0) / (x2 - x3) == pytest.approx((19 - 11) / 30, rel=1e-3)
    assert "bias" in svg and "+1.96 sd" in svg


def test_dots_of_the_reliability_lie_at_their_bins() -> None:
    bins = [
        {"pixels": pixels, "mean_probability": mean, "true_share": share}
        for pixels, mean, share in ((100, 0.0, 0.0), (50, 0.5, 0.25), (0, None, None), (400, 1.0, 1.0))
    ]
    dots = circles(charts.reliability({"bins": bins}, None))
    assert len(dots) == 3
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.5, rel=1e-3)
    assert (y0 - y1) / (y0 - y2) == pytest.approx(0.25, rel=1e-3)
    assert len(circles(charts.reliability({"bins": bins}, {"bins": bins}))) == 6


def test_a_curve_of_the_tuning_marks_what_was_chosen() -> None:
    points = [
        {"value": value, "dice": dice, "false_positive_components": 1.0, "chosen": value == 0.4}
        for value, dice in ((0.3, 0.5), (0.4, 0.9), (0.7, 0.6))
    ]
    svg = charts.tuning_curve({"title": "Threshold", "points": points})
    dots = circles(svg)[:3]
    assert [dots.index(dot) for dot in sorted(dots, key=lambda dot: dot[1])] == [1, 2, 0]  # the highest first
    assert (dots[1][0] - dots[0][0]) / (dots[2][0] - dots[0][0]) == pytest.approx(0.25, rel=1e-3)
    assert svg.count("fill: currentColor; stroke: currentColor") == 2  # the chosen one, above and below
