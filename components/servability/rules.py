"""What a model must do to be served; each rule with value and bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FILE_NAME = "servability.json"
"""The verdict, in the blessing's folder."""

CHECKS = {
    "load": "the SavedModel loads",
    "signatures": "names, types and shapes of the signatures",
    "describe": "describe returns the contract beside the model",
    "warmup": "the warm-up requests are answered",
    "probabilities": "numbers from 0 to 1 for a whole scan",
    "agreement": "serving_default and predict_slices give the same",
    "batches": "requests of any size give the same",
    "empty": "an empty request gets an empty answer",
    "repeats": "the same request gets the same answer",
}
BOUNDS = {
    "max_load_seconds": ("load_seconds", "the model loaded in {:.1f} s, wanted at most {:g} s"),
    "max_seconds_per_scan": ("seconds_per_scan", "a scan takes {:.1f} s, wanted at most {:g} s"),
    "max_memory_mib": ("peak_mib", "{:.0f} MiB of memory at its peak, wanted at most {:g} MiB"),
}
"""Of each bound in the configuration: what is measured, and how it is said."""


@dataclass(frozen=True)
class Rule:
    """One rule and what became of it.

    Attributes:
        rule: Its name: a check, a bound's name in the configuration, or `alive`.
        passed: None where the probe did not get so far.
        message: What was found, and what was wanted.
        value: What was measured.
        bound: What was allowed.
    """

    rule: str
    passed: bool | None
    message: str
    value: float | None = None
    bound: float | None = None


def judge(report: Mapping[str, Any], ended: str, bounds: Mapping[str, float | None]) -> dict[str, Any]:
    """The verdict on what a probe found.

    Args:
        report: Content of the probe's report; empty where it wrote none.
        ended: How the probe ended where it did not end well; else empty.
        bounds: The configuration's section `servability`.

    Returns:
        `blessed`, `skipped`, `rules` and `failures` as mappings of `Rule`'s attributes, and `measures`; ready for JSON.
    """
    doing = report.get("doing") or "starting"
    if not ended and not report.get("finished"):
        ended = "left no finished report and stopped"
    rules = [Rule("alive", not ended, f"the probe {ended} while it was {doing}" if ended else "the probe ended well")]
    for name, title in CHECKS.items():
        if name in report.get("problems", {}):
            rules.append(Rule(name, False, report["problems"][name]))
        else:
            rules.append(Rule(name, True if name in report.get("passed", ()) else None, title))
    measures = dict(report.get("measures", {}))
    for name, (measure, text) in BOUNDS.items():
        value, bound = measures.get(measure), bounds[name]
        if value is None or bound is None:
            rules.append(Rule(name, None, "not measured" if value is None else "off", value, bound))
        else:
            rules.append(Rule(name, value <= bound, text.format(value, bound), value, bound))
    return verdict(rules, measures, skipped=False)


def refused(rule: str, message: str) -> dict[str, Any]:
    """The verdict on a model that cannot even be put to the test."""
    return verdict([Rule(rule, False, message)], {}, skipped=False)


def not_looked_at() -> dict[str, Any]:
    """The verdict where the gate refused the model: it will not be served, so nobody need wait for this."""
    return verdict([], {}, skipped=True)


def in_short(found: Mapping[str, Any]) -> str:
    """One line on a verdict."""
    if found["skipped"]:
        return "not looked at: the gate refused the model"
    if not found["blessed"]:
        return f"refused: {', '.join(rule['rule'] for rule in found['failures'])}"
    measures = found["measures"]
    return (
        f"servable: loads in {measures['load_seconds']:.1f} s, {measures['seconds_per_scan']:.1f} s for a scan of "
        f"{measures['slices']:.0f} slices, {measures['peak_mib']:.0f} MiB"
    )


def verdict(rules: list[Rule], measures: Mapping[str, float], *, skipped: bool) -> dict[str, Any]:
    """Rules as JSON; blessed when the model was looked at and no rule failed."""
    failures = [rule for rule in rules if rule.passed is False]
    return {
        "blessed": not skipped and not failures,
        "skipped": skipped,
        "rules": [asdict(rule) for rule in rules],
        "failures": [asdict(rule) for rule in failures],
        "measures": dict(measures),
    }
