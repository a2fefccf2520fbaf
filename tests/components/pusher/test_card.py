"""The model's card: its facts are those of the run, what is missing is named, and it reads as Markdown."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from components.evaluator.figures import figures
from components.pusher.card import LIMITS, model_card, to_markdown, weaknesses
from tests.components.data_report.listings import listing, record
from tests.components.run_report.runs import cohort, made_contract, measured_cases, scan, verdict

CONFIG = {
    "grid": {"size": 32}, "windows": [{"name": "brain", "level": 40.0, "width": 80.0}], "normalisation": "none",
    "network": {"block": "plain"}, "training": {"seed": 7, "max_minutes": None, "augment": {"flip": True}},
    "inference": {"mirror": False}, "data": {"image": "x"},
}  # fmt: skip


SERVED = {"load_seconds": 1.52, "seconds_per_scan": 2.75, "slices": 28, "peak_mib": 700.4}


def card(found: Any, measures: Any, served: Any = None, contract: Any = None, config: Any = CONFIG) -> dict[str, Any]:
    """The card of a push, through JSON."""
    result = verdict(measures, measured_cases(found), served, min_mean_dice=0.1)
    made = model_card(
        result,
        found,
        contract or made_contract(),
        {"measures": SERVED},
        config=config,
        version="1700000000",
        pushed="2000-01-01",
    )
    again: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    return again


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, without the head."""
    lines = text[text.index(heading) :].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table[2:]


def test_the_facts_are_those_of_the_run() -> None:
    found, measures = cohort(20)
    served = {case: {**values, "patient_dice": values["patient_dice"] * 0.95} for case, values in measures.items()}
    made = card(found, measures, served)
    measured = figures(measures, measured_cases(found))
    assert (made["measures"], made["slices"], made["volumes"]) == (
        measured["overall"], measured["slices"], measured["volumes"]
    )  # fmt: skip
    contract = made_contract()
    assert made["name"] == contract["model_name"]
    assert (made["version"], made["pushed"]) == ("1700000000", "2000-01-01")
    assert made["data"]["trained_on"] == contract["data_fingerprint"]
    assert (made["data"]["fingerprint"], made["data"]["spans"]) == (found["fingerprint"], [3, 2])
    assert made["data"]["splits"] == found["splits"]
    assert made["postprocess"] == contract["postprocess"] and made["tuned"]
    assert made["recipe"] == {key: value for key, value in CONFIG.items() if key != "data"}
    assert made["previous"]["version"] == "1600000000"
    assert made["previous"]["difference"]["mean"] == pytest.approx(0.05 * measured["overall"]["dice"]["mean"])
    assert {rule["rule"] for rule in made["gate"]} >= {"min_mean_dice", "max_dice_drop", "outlines_nothing"}
    assert made["calibration"]["brier"] > 0
    assert made["config_fingerprint"] == contract["config_fingerprint"] and made["versions"] == contract["versions"]
    assert made["missing"] == ["age, sex, scanner and hospital of the patients, which the data does not tell"]


def test_the_recipe_is_what_the_search_chose() -> None:
    found, measures = cohort(3)
    config = {**CONFIG, "training": {"seed": 7, "learning_rate": 1e-3}}
    chosen = {"learning_rate": 2.5e-3, "base_filters": 24}
    made = card(found, measures, contract=made_contract(hyperparameters=chosen), config=config)
    assert made["searched"] == chosen
    assert made["recipe"]["training"] == {"seed": 7, "learning_rate": 2.5e-3}
    assert made["recipe"]["network"] == {"block": "plain", "base_filters": 24}
    text = to_markdown(made)
    assert "Chosen by a search for the best Dice on the val split: base_filters 24, learning_rate 0.0025." in text
    recipe = text[text.index("## Recipe") :]
    assert dict(rows(recipe, "| setting"))["training.learning_rate"] == "0.0025"
    unknown = card(found, measures, contract=made_contract(hyperparameters=chosen), config={})
    assert unknown["recipe"] == {} and unknown["searched"] == chosen
    assert "Chosen by a search" not in to_markdown(card(found, measures))


def test_a_model_of_folds_was_tuned_on_what_each_network_had_not_seen() -> None:
    found, measures = cohort(3)
    contract = made_contract()
    contract["metrics"] = {"val_dice": 0.75, "folds": 5.0}
    config = {**CONFIG, "training": {"folds": 5, "patient_balance": 1.0, "source_shares": {}}}
    text = to_markdown(card(found, measures, contract=contract, config=config))
    assert "tuned on what each of the 5 networks made of the patients it had not seen:" in text
    assert "At export, on what each of the 5 networks" in text and "val split:" not in text
    recipe = dict(rows(text, "## Recipe"))
    assert recipe["training.folds"] == "5" and recipe["training.patient_balance"] == "1.0"
    assert recipe["training.source_shares"] == "none"
    assert "tuned on the val split:" in to_markdown(card(found, measures))


def test_no_patient_is_named() -> None:
    found, measures = cohort(20, prefix="a-patient-")
    made = card(found, measures)
    assert "a-patient-" not in json.dumps(made) + to_markdown(made)


def test_the_text_holds_the_same_figures() -> None:
    found, measures = cohort(20)
    made = card(found, measures)
    text = to_markdown(made)
    assert text.startswith("# ich, version 1700000000\n") and "**Not a medical device.**" in text
    assert all(f"- {limit}" in text for limit in LIMITS)
    dice = made["measures"]["dice"]
    first = rows(text, "## Measured on the test split")[0]
    assert first[:5] == ["Dice", "20", "0", f"{dice['mean']:.3f}", f"{dice['sd']:.3f}"]
    assert first[-1] == f"{dice['ci95_low']:.3f} to {dice['ci95_high']:.3f}"
    small = rows(text, "### Scans with a small lesion")[0]
    assert small[3] == f"{made['slices']['small']['measures']['dice']['mean']:.3f}"
    assert [row[0] for row in rows(text, "## Data")] == ["train", "val", "test"]
    assert [row[0] for row in rows(text, "## The gate")] == [f"`{rule['rule']}`" for rule in made["gate"]]
    recipe = dict(rows(text, "## Recipe"))
    assert recipe["training.seed"] == "7" and recipe["training.max_minutes"] == "off"
    assert recipe["training.augment"] == "flip yes" and recipe["inference.mirror"] == "no"
    assert recipe["windows"] == "name brain, level 40.0, width 80.0"
    assert dict(rows(text, "Post-processing, tuned"))["hu_range"] == "off"
    assert len(rows(text, "### Calibration")) == 10
    assert dict(rows(text, "| | |"))["in a fresh process"] == (
        "loaded in 1.5 s, 2.8 s for a scan of 28 slices, 700 MiB of memory at its peak"
    )
    # Every table is one: as many cells in each row as in its head.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_what_is_missing_is_said_to_be() -> None:
    found = listing(record("a", "test", 0.0))
    contract = {**made_contract(), "versions": {}, "tuning": {}, "metrics": {}}
    result = verdict({"a": scan(1.0, 0, 0, 0)}, measured_cases(found))
    del result["calibration"]
    made = model_card(result, found, contract, {"measures": {}}, config={}, version="1", pushed="2000-01-01")
    assert len(made["missing"]) == 8
    text = to_markdown(made)
    unknown = text[text.index("## Not known") :]
    for fact in ("spans", "splits", "recipe", "calibration", "intervals", "a model before", "packages", "Age, sex"):
        assert re.search(fact, unknown, re.I) or fact == "splits", fact
    assert "Patients and scans of each split" in unknown
    assert "Not compared with a model before: no model is in service yet." in text
    assert "Post-processing, as configured" in text
    assert "None" not in text and "nan" not in text


def test_weak_are_kinds_of_scan_far_below_the_whole_and_those_never_measured() -> None:
    records = [record(f"s{n}", "test", 2.0) for n in range(2)] + [record(f"l{n}", "test", 50.0) for n in range(2)]
    cases = measured_cases(listing(*records))
    measures = {case: scan(0.3 if case.startswith("s") else 0.9) for case in cases}
    found = weaknesses(figures(measures, cases))
    known = {item["slice"]: item["dice"] for item in found}
    assert known["small"] == pytest.approx(0.3)
    assert known["medium"] is known["no_bleed"] is known["thin"] is None
    assert "large" not in known and "thick" not in known
    text = to_markdown(card(listing(*records), measures))
    assert "- Scans with a small lesion: 0.300, 2 patients." in text
    assert "- Scans without blood: the test split has none." in text


def test_a_bar_in_a_setting_does_not_break_the_table() -> None:
    found, measures = cohort(3)
    made = card(found, measures, config={"normalisation": "a|b\nc"})
    assert dict(rows(to_markdown(made), "## Recipe"))["normalisation"] == "a\\|b c"
