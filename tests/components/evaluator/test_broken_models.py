"""Exported models that are broken in one way each, through the whole gate: each falls to the rule made for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.metrics import scan_metrics
from components.imaging.postprocess import outline, quantise
from tests.cases import SPACING_MM, Sample, cuboid
from tests.components.evaluator.runs import Result, evaluate, listed
from tests.models import Arithmetic, export, postprocess


def bleed(case_id: str, slices: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Sample:
    place = cuboid(slices, rows, columns)
    return Sample(case_id, [place], [place])


SAMPLES = [
    # 28.8 ml each, all on one side, two slices of five.
    bleed("large1", (1, 3), (22, 42), (12, 28)),
    bleed("large2", (2, 4), (22, 42), (12, 28)),
    bleed("large3", (1, 3), (24, 44), (12, 28)),
    bleed("large4", (2, 4), (20, 40), (14, 30)),
    bleed("small", (1, 3), (30, 36), (16, 22)),  # 3.2 ml
    Sample("none"),
]
LISTED = listed(SAMPLES)
GATE: dict[str, Any] = {
    "min_mean_dice": 0.7, "min_dice_interval": 0.42, "max_false_positives": 0.5, "max_dice_drop": 0.2,
    "min_test_patients": 6, "slices": {"small": 0.5, "large": 0.45, "no_bleed": 0.0},
}  # fmt: skip

REFERENCE = Arithmetic()


@dataclass(frozen=True)
class Broken:
    """A model, the rules that refuse it, and what the telling one says.

    Attributes:
        network: The model.
        refused_by: All rules that refuse it.
        telling: The rule that is made for it; the first of a name.
        value: What that found.
        worst: The scan it names first.
    """

    network: Arithmetic
    refused_by: list[str]
    telling: str
    value: Any
    worst: str


MODELS = {
    "all zero": Broken(
        Arithmetic(constant=0.0),
        ["min_mean_dice", "min_dice_interval", "slices.small", "slices.large", "max_dice_drop", "outlines_nothing"],
        "outlines_nothing", 0.0, "large1",
    ),
    "all one": Broken(
        Arithmetic(constant=1.0),
        ["min_mean_dice", "min_dice_interval", "slices.small", "slices.large", "max_dice_drop", "outlines_everything",
         "outlines_skull", "outlines_without_blood"],
        "outlines_everything", pytest.approx(5 * 64 * 64 / ((4 * 640 + 72) / 5)), "small",
    ),
    "skull": Broken(
        Arithmetic(level=150.0, upper=3000.0),
        ["min_mean_dice", "min_dice_interval", "max_false_positives", "slices.small", "slices.large", "max_dice_drop",
         "outlines_everything", "outlines_skull"],
        "outlines_skull", 1.0, "large1",
    ),
    "one slice off": Broken(
        Arithmetic(looks_at=-1), ["min_mean_dice", "max_dice_drop"],
        "min_mean_dice", pytest.approx((5 * 0.5 + 1) / 6), "large1",
    ),
    "mirrored": Broken(
        Arithmetic(mirrored=True),
        ["min_mean_dice", "min_dice_interval", "max_false_positives", "slices.small", "slices.large", "max_dice_drop"],
        "max_false_positives", pytest.approx(5 / 6), "large1",
    ),
    "good on large lesions only": Broken(
        Arithmetic(least_pixels=20), ["slices.small"], "slices.small", 0.0, "small"
    ),
    "sprays": Broken(
        Arithmetic(specks_every=14), ["max_false_positives", "max_dice_drop"], "max_false_positives", 2.5, "none"
    ),
    "not a number": Broken(
        Arithmetic(undefined=True), ["not_a_number"], "not_a_number", 6.0, "large1"
    ),
}  # fmt: skip


def run(folder: Path, network: Arithmetic) -> Result:
    """The gate on a model, with the reference in service."""
    export(folder / "candidate" / "Format-Serving", network, context_slices=1)
    export(folder / "served" / "Format-Serving", REFERENCE, context_slices=1)
    (folder / "served" / "baseline.json").write_text('{"version": "1", "used": true, "reason": ""}')
    shard = [record for sample in SAMPLES for record in sample.examples(context_slices=1)]
    return evaluate(folder, LISTED, [shard], folder / "candidate", folder / "served", **GATE)


def by_numpy(network: Arithmetic) -> dict[str, float]:
    """Dice by case without TensorFlow, TFMA or Beam."""
    found = {}
    for sample in SAMPLES:
        scan = sample.scan()
        mask = outline(quantise(np.nan_to_num(network.numpy(scan.examples(1)))), scan.geometry, postprocess())
        found[sample.case_id] = scan_metrics(sample.mask, mask, SPACING_MM).dice
    return found


def test_the_reference_keeps_every_rule_also_against_itself(tmp_path: Path) -> None:
    found = run(tmp_path, REFERENCE)
    assert found.blessed, found.verdict["failures"]
    assert found.verdict["overall"]["patient_dice"] == 1.0
    rules = {rule["rule"] for rule in found.verdict["rules"]}
    assert {failure.partition(".")[0] for model in MODELS.values() for failure in model.refused_by} <= rules
    assert found.verdict["baseline"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("name", MODELS)
def test_a_broken_model_is_refused_by_the_rule_made_for_it(tmp_path: Path, name: str) -> None:
    model = MODELS[name]
    found = run(tmp_path, model.network)
    assert not found.blessed
    failures = {
        f"slices.{failure['slice']}" if failure["rule"] == "slices" else failure["rule"]: failure
        for failure in found.verdict["failures"]
    }
    assert set(failures) == set(model.refused_by)
    telling = failures[model.telling]
    assert telling["value"] == model.value
    assert telling["message"]
    assert isinstance(telling["bound"], float)
    assert telling["worst"][0]["case_id"] == model.worst
    wanted = by_numpy(model.network)
    measured = {case: values["patient_dice"] for case, values in found.verdict["by_case"].items()}
    assert measured == pytest.approx(wanted, abs=1e-9)
