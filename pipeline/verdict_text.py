"""The verdict of a run in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.local_runner import PUSHED, Outcome

_NAMES = {"patient_dice": "mean test Dice", "patients": "number of test patients"}


def verdict_lines(outcome: Outcome, output: Path) -> Iterator[str]:
    """What the gate decided and why, and where everything is."""
    if outcome.unchanged is not None:
        yield f"in service: {outcome.model or 'no model'}"
        yield f"outputs:    {output}"
        return
    verdict = outcome.verdict
    overall = verdict["overall"]
    yield (
        f"test split: {overall['patients']:.0f} patients, Dice {overall['patient_dice']:.3f} ± "
        f"{overall['patient_dice_sd']:.3f}, {overall['false_positive_components']:.1f} false-positive components a scan"
    )
    baseline = verdict.get("baseline") or {}
    if baseline.get("overall"):
        yield f"in service:  version {baseline['version']}, Dice {baseline['overall']['patient_dice']:.3f}"
    if outcome.exit_code == PUSHED:
        yield f"pushed:     {outcome.model}"
    else:
        if verdict["failures"] or not outcome.held:
            yield "refused by the gate:"
            for failure in verdict["failures"]:
                yield f"  {_reason(failure)}"
            worst = sorted(verdict["by_case"].items(), key=lambda item: item[1]["patient_dice"])[:3]
            yield "  worst scans: " + ", ".join(f"{case} ({values['patient_dice']:.2f})" for case, values in worst)
        if outcome.held:
            yield "held by what was found against the data:"
            for finding in outcome.held:
                where = ", ".join(part for part in (finding["split"], finding["feature"]) if part)
                yield f"  {where}: {finding['description']}"
            kinds = sorted({finding["kind"] for finding in outcome.held})
            settings = " and ".join(f"--set validation.{kind}=note" for kind in kinds)
            yield f"  look at the data; if it is as it should be, run again with {settings}"
        kept = f"{outcome.model} stays in service" if outcome.model else "no model is in service"
        yield f"  {kept}"
    yield f"outputs:    {output}"
    yield f"log:        {outcome.log}"


def _reason(failure: dict[str, Any]) -> str:
    name = _NAMES.get(failure["metric"], failure["metric"])
    if failure["is_change"]:
        return f"{name} changed by {failure['value']:+.3f}, allowed is {failure['allowed_change']:+.3f}"
    return f"{name} is {failure['value']:.3f}, wanted at least {failure['lower_bound']:.3f}"
