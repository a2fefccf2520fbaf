"""The verdict of a run in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.servability.rules import BOUNDS
from pipeline.local_runner import PUSHED, Outcome
from serving.versions import CARD_FILES

_OF_A_SCAN = {
    "served_dice": "in service {:.2f}",
    "false_positive_components": "{:.0f} false-positive components",
    "undefined_pixels": "{:.0f} pixels",
    "outside_brain_ml": "{:.1f} ml on bone or outside the skull",
    "predicted_volume_ml": "{:.1f} ml outlined",
    "true_volume_ml": "{:.1f} ml of blood",
}


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
        f"{overall['patient_dice_sd']:.3f}{_interval(verdict.get('interval'))}, "
        f"{overall['false_positive_components']:.1f} false-positive components a scan"
    )
    baseline = verdict.get("baseline") or {}
    if baseline.get("overall"):
        yield (
            f"in service:  version {baseline['version']}, Dice {baseline['overall']['patient_dice']:.3f}"
            f"{_difference(baseline.get('difference'))}"
        )
    elif baseline.get("version"):
        yield f"in service:  version {baseline['version']}, not compared: {baseline['reason']}"
    for note in verdict.get("notes", []):
        yield f"note:       {note}"
    if outcome.exit_code == PUSHED:
        yield f"pushed:     {outcome.model}"
        card = outcome.model / CARD_FILES[0] if outcome.model else None
        if card and card.is_file():  # a model that an older version of the program pushed has none
            yield f"model card: {card}"
    else:
        if verdict["failures"] or not (outcome.held or outcome.unservable):
            yield "refused by the gate:"
            told: list[dict[str, Any]] = []
            for failure in verdict["failures"]:
                name = f"{failure['rule']}.{failure['slice']}" if failure["rule"] == "slices" else failure["rule"]
                yield f"  {name}: {failure['message']}"
                worst = failure["worst"]
                if worst and worst != told:
                    yield f"    worst: {'; '.join(map(_scan, worst))}"
                    told = worst
            yield "  look at the worst in the report; the bounds are in the section gate (docs/GATE.md)"
        if outcome.unservable:
            yield "refused as not servable:"
            for rule in outcome.unservable:
                yield f"  servability.{rule['rule']}: {rule['message']}"
            bounds = [rule["rule"] for rule in outcome.unservable if rule["rule"] in BOUNDS]
            if bounds:
                settings = " and ".join(f"--set servability.{name}=null" for name in bounds)
                yield f"  if it may be served all the same, run again with {settings}, or a wider bound"
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
    page = output / "reports" / outcome.log.stem / "index.html"
    if page.is_file():
        yield f"report:     {page}"
    yield f"outputs:    {output}"
    yield f"log:        {outcome.log}"


def _interval(found: dict[str, Any] | None, digits: int = 2) -> str:
    """Of the Dice; nothing for a single patient, who has none."""
    if not found or found["low"] is None:
        return ""
    return f" (95 % interval {found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _difference(found: dict[str, Any] | None) -> str:
    """Of the candidate's Dice to that of the model in service."""
    return f", the candidate {found['mean']:+.3f}{_interval(found, 3)}" if found else ""


def _scan(entry: dict[str, Any]) -> str:
    """A scan in a list of the worst, with its patient where the id does not say it."""
    patient = "" if entry["patient_id"] == entry["case_id"] else f" of patient {entry['patient_id']}"
    more = [text.format(entry[name]) for name, text in _OF_A_SCAN.items() if name in entry]
    return f"{entry['case_id']}{patient} (Dice {', '.join([format(entry['dice'], '.2f'), *more])})"
