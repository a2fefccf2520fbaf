"""The page: figures, words for them, escaping, no reference to anything outside, its size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.evaluator.rules import SLICES
from components.imaging.agreement import bland_altman
from components.pages.html import number
from components.run_report import charts
from components.run_report.content import collect, complete
from components.run_report.page import duration, fixed, render
from pipeline.config import NO_RESULT, load_config
from tests.components.data_report.listings import finding, listing, record
from tests.components.run_report.runs import (
    cohort,
    folds,
    history,
    made_contract,
    measured_cases,
    scan,
    strips,
    verdict,
)  # fmt: skip
from tests.pages import Page, is_accessible, needs_nothing

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
SECTIONS = ("gate", "dice", "measures", "false-positives", "volumes", "calibration", "looks", "postprocess", "training",
            "data", "stages", "card", "model", "scans")  # fmt: skip


def content(
    patients: int = 12, *, refused: bool = True, drawn: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Of a run against a model in service; `drawn` says how its strips are."""
    found, measures = cohort(patients, **changes)
    served = {case: {**values, "patient_dice": values["patient_dice"] * 0.9} for case, values in measures.items()}
    gate: dict[str, Any] = {"min_mean_dice": 0.999, "slices": {"small": 0.5}} if refused else {"min_mean_dice": 0.0}
    result = verdict(measures, measured_cases(found), served, **gate)
    config = load_config("demo")
    sections = json.loads(config.subset(*(name for name in type(config).model_fields if name not in NO_RESULT)))
    return collect(
        result, found, made_contract(), name="demo", config=sections, history=history(),
        findings=[finding("hold"), finding("note", feature="slice_spacing_mm")],
        strips=strips(measures, measured_cases(found), **(drawn or {})), created="2000-01-01 00:00 UTC", code="c0de",
    )  # fmt: skip


STAGES: list[dict[str, Any]] = [
    {"name": "start", "state": "done", "seconds": 3.0, "peak_mib": 500},
    {"name": "NiftiExampleGen", "state": "done", "cached": True, "seconds": 0.5, "peak_mib": 510},
    {"name": "Trainer", "state": "done", "cached": False, "seconds": 121.0, "peak_mib": 2345, "note": "x"},
]  # fmt: skip


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
    slices = sum(len(strip["slices"]) for strip in content()["strips"])
    assert len(figures) == 6 + 5 + slices  # one a curve of the tuning, and one a slice
    assert page.count("<svg") == 6 + 5 + 4 * slices
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
    assert html.count("<script>") == 1 and "<img" not in html  # the page's own
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


def test_strips_say_who_they_are_and_hold_each_picture_once(page: str) -> None:
    made, text = content(), Page(page).text
    assert [role for strip in made["strips"] for role in strip["roles"]] == [
        "best", "median", "worst", "false_positives"
    ]  # fmt: skip
    for strip, words in zip(made["strips"], ("The best patient", "The median patient", "The worst patient",
                                             "The most false-positive components"), strict=True):  # fmt: skip
        assert f"{words}: {strip['case_id']}" in text
        assert f"Dice {fixed(strip['dice'])} (the gate measured {fixed(strip['measures']['dice'])})" in text
        for item in strip["slices"]:
            assert page.count(item["image"]) == 1
            assert f"{item['cm2']['missed']:.3g} cm² missed" in text or "no blood" in text
    assert page.count('<div class="panel">') == page.count("<image") * 4 == (page.count("<use") + page.count("<image"))


def test_a_drawn_dice_that_is_the_gates_is_said_once() -> None:
    made = content(4)
    for strip in made["strips"]:
        strip["measures"]["dice"] = strip["dice"]
    assert "(the gate measured" not in Page(render(made)).text


def test_without_blood_nor_false_positives_no_strip_and_no_script() -> None:
    made = {**content(4), "strips": []}
    html = render(made)
    assert "No test scan has blood" in Page(html).text and "<script" not in html


def test_how_the_run_ended(page: str) -> None:
    assert "Not known while this page was made" in Page(page).text
    made = content(4, refused=False) | {"held": []}
    made["verdict"] = {"status": "passed", "headline": "The model keeps all 8 rules of the gate.", "reasons": []}
    measured = {"load_seconds": 1.5, "seconds_per_scan": 2.5, "slices": 28, "peak_mib": 700.0}
    found = complete(made, STAGES, version="1700000000", servability={"measures": measured, "failures": []})
    assert found["verdict"]["status"] == "pushed" and made["verdict"]["status"] == "passed"
    html = render(json.loads(json.dumps(found)))
    text = " ".join(Page(html).text.split())
    assert '<th scope="row">Trainer</th><td>2 min 01 s</td><td>97\N{NARROW NO-BREAK SPACE}%</td>' in html
    for wanted in (
        "Pushed The model keeps all 8 rules of the gate. It is in service as version 1700000000.",
        "2 min 04 s in all", "345 MiB of resident memory at the most", "unchanged, reused",
        "loads in 1.5 s, takes 2.5 s for a scan of 28 slices, and 700 MiB", "model_card.md in version 1700000000",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_a_model_that_cannot_be_served_is_refused_in_the_end() -> None:
    made = content(4) | {"verdict": {"status": "passed", "headline": "x", "reasons": []}}
    unservable = {"measures": {}, "failures": [{"message": "41.0 s for a scan, wanted at most 30.0 s"}]}
    found = complete(made, STAGES, servability=unservable)
    assert found["verdict"]["status"] == "refused" and found["verdict"]["reasons"] == [
        "41.0 s for a scan, wanted at most 30.0 s"
    ]
    assert "In a fresh process" not in Page(render(found)).text
    # What the gate refused stays refused by the gate, and what the data holds stays held.
    for status in ("refused", "held"):
        made["verdict"] = {"status": status, "headline": "x", "reasons": []}
        assert complete(made, STAGES, servability=unservable)["verdict"] == made["verdict"]


def test_a_run_that_failed_after_the_gate_says_so() -> None:
    found = complete(content(4), STAGES, error="stage Pusher failed: OSError: no space left")
    text = Page(render(found)).text
    assert "Failed" in text and "no space left" in text and "In service" not in text


def test_sources_have_measures_and_a_place_in_the_chart() -> None:
    records = [record(case, "test", 10.0, source=case[0]) for case in ("a1", "a2", "b1")]
    measures = {"a1": scan(0.8), "a2": scan(0.6), "b1": scan(0.3)}
    result = verdict(measures, measured_cases(listing(*records)))
    made = collect(result, listing(*records), made_contract(), name="n", config={"name": "n"})
    assert {name: item["measures"]["dice"]["mean"] for name, item in made["sources"].items()} == {
        "a": pytest.approx(0.7), "b": pytest.approx(0.3)
    }  # fmt: skip
    html = render(made)
    assert "From the source a: 2 patients, 2 scans, Dice 0.700" in Page(html).text
    assert "from b 0.300 of 1 patients" in html
    assert content(4)["sources"] == {}


def test_what_was_found_against_the_data_is_on_the_page() -> None:
    found, measures = cohort(4)
    found |= {
        "quarantined": [{"case_id": "q", "code": "truncated", "reason": "x"}] * 2,
        "findings": [{"case_id": "p001", "code": "metal", "severity": "warning", "message": "x"}],
    }
    result = verdict(measures, measured_cases(found))
    made = collect(result, found, made_contract(), name="n", config={"name": "n"}, findings=[finding("note")])
    text = " ".join(Page(render(made)).text.split())
    assert "Quarantined: 2 truncated." in text and "Warnings and repairs: 1 metal." in text
    assert "differs from the data before" in text and "data.html beside this page" in text


def test_the_card_names_what_the_model_is_weak_at(page: str) -> None:
    weak = content()["card"]["weaknesses"]
    assert weak and "Known weaknesses" in Page(page).text
    for item in weak:
        assert f"{SLICES[item['slice']][0].upper()}{SLICES[item['slice']][1:]}: " in Page(page).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.4, "59 min 59 s"), (7380, "2 h 03 min")],
)
def test_times_as_one_reads_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_page_is_the_same_again_and_from_json(page: str) -> None:
    assert render(json.loads(json.dumps(content(), allow_nan=False))) == page


def test_a_hundred_patients_stay_far_below_15_mb() -> None:
    """Although all four scans are shown in forty slices of a grid as large as in `production_gpu`, full of noise."""
    made = content(100, refused=False, drawn={"slices": 40, "size": 512, "noise": 25.0})
    assert [len(strip["slices"]) for strip in made["strips"]] == [40] * 4
    html = render(made)
    assert 2_000_000 < len(html.encode()) < 10_000_000
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
