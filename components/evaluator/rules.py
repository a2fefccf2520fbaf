"""The gate's rules: measures by case in, one decision with its reasons out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

THICK_MM = 4.0
"""Slices further apart than this are thick."""

SLICES: dict[str, str] = {
    "small": "scans with a small lesion",
    "medium": "scans with a medium lesion",
    "large": "scans with a large lesion",
    "no_bleed": "scans without blood",
    "thick": f"scans with slices more than {THICK_MM:g} mm apart",
    "thin": f"scans with slices up to {THICK_MM:g} mm apart",
}
"""What may be bounded in `gate.slices`, and what it holds; sizes are those of `schema.features.SIZE_BINS_ML`."""

EVERYTHING_RATIO = 5.0
EVERYTHING_DICE = 0.2
EVERYTHING_ML = 300.0
SKULL_SHARE = 0.5
"""Of experts' outlines up to 16 % of a scan lie on pixels with bone in them (thin subdurals on a grid of 0.9 mm; 3 % of
the whole cohort), up to 39 % where the pixels are 3.6 mm wide."""
SURE_SHARE = 0.25
"""Share of `max_dice_drop` that is allowed where the drop is no chance."""
SURE_PATIENTS = 6
"""Among 5, chance alone makes all differences negative in 3.1 % of the cases, more than the 2.5 % of the interval."""

WORST = 3
_ROUNDING = 1e-9  # so that 0.88 against 0.90 is a drop of 0.02 and no more

Cases = Mapping[str, Mapping[str, Any]]
Measures = Mapping[str, Mapping[str, float]]
_Measure = Callable[[str], float]


@dataclass(frozen=True)
class Interval:
    """A mean over patients and its 95 % interval, whose ends are None for fewer than two patients."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Rule:
    """A rule, held against a model.

    Attributes:
        rule: Its name: a key of the section `gate`, or that of a degenerate model.
        metric: What it bounds.
        slice: Which scans it looks at: a key of `SLICES`, `bleed` for those with blood, or empty for all.
        value: What was found; None where there was nothing to measure.
        bound: What was wanted.
        wanted: How the value must lie to the bound: `at least`, `at most` or `more than`.
        passed: Whether it holds.
        message: What was found and wanted, in words.
        worst: The scans that did most harm: `case_id`, `patient_id`, `dice`, and the measure that the rule bounds.
    """

    rule: str
    metric: str
    slice: str
    value: float | None
    bound: float
    wanted: str
    passed: bool
    message: str = ""
    worst: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """By name, without what concerns failures only."""
        return {name: value for name, value in asdict(self).items() if name not in ("message", "worst")}

    def as_failure(self) -> dict[str, Any]:
        """By name, with message and worst scans."""
        found = asdict(self)
        del found["passed"]
        return {**found, "worst": list(found["worst"])}


@dataclass(frozen=True)
class Decision:
    """What the gate decided.

    Attributes:
        rules: Every rule that was looked at.
        interval: Of the mean Dice over patients.
        slices: By slice `patients`, `scans`, and `mean`, `low` and `high` of the Dice.
        difference: Of the mean Dice to that of the model in service; None where there was none to compare with.
        notes: What could not be looked at, and why.
    """

    rules: tuple[Rule, ...]
    interval: Interval
    slices: dict[str, dict[str, Any]]
    difference: Interval | None
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[Rule, ...]:
        """The rules that do not hold."""
        return tuple(rule for rule in self.rules if not rule.passed)

    @property
    def blessed(self) -> bool:
        """Whether every rule holds."""
        return not self.failures


def decide(gate: Mapping[str, Any], cases: Cases, candidate: Measures, baseline: Measures | None = None) -> Decision:
    """Holds a model against all rules.

    Scans are averaged within a patient, then over patients. Intervals are percentile bootstraps over patients (Efron
    1979, Annals of Statistics 7(1)) with 2000 resamples and a fixed seed; see `components.imaging.metrics.summarise`.

    The bounds are those of the section `gate`. `max_dice_drop` is held against the mean of the paired differences to
    the model in service. Only a quarter of it is allowed where the drop is no chance, which is where the whole 95 %
    interval of the mean difference lies below 0 among 6 patients or more.

    Degenerate models are always refused, whatever the configuration:

    - `not_a_number`: a probability that is not a number in any scan;
    - `outlines_nothing`: no voxel in any scan with blood;
    - `outlines_everything`: on scans with blood a mean volume of more than 5 times the mean true volume, with a mean
      Dice below 0.2;
    - `outlines_skull`: on scans with blood more than half of the outlined volume on bone, in air or outside the skull;
    - `outlines_without_blood`: more than 300 ml on average on scans without blood.

    Args:
        gate: `min_mean_dice`, `max_dice_drop`, `min_test_patients`, and where wanted `min_dice_interval`,
            `max_false_positives` and `slices`.
        cases: By case id `patient_id`, `size_bin` and `spacing_mm` (slices first), as in `cases.json`.
        candidate: By case id `patient_dice`, `true_volume_ml`, `predicted_volume_ml`, `outside_brain_ml` (all three in
            ml), `false_positive_components` and `undefined_pixels`.
        baseline: The same of the model in service, if there is one.

    Raises:
        ValueError: A model was not measured on just these cases, or a measure is not finite: no decision then.
    """
    for name, measures in (("candidate", candidate), ("model in service", baseline)):
        if measures is not None:
            _check_measures(name, measures, cases)
    found = _Cohort(cases, candidate, baseline)
    notes: list[str] = []
    rules = [_test_patients(gate, found), _mean_dice(gate, found)]
    if gate.get("min_dice_interval") is not None:
        rules.append(_dice_interval(gate, found))
    if gate.get("max_false_positives") is not None:
        rules.append(_false_positives(gate, found))
    for name, bound in (gate.get("slices") or {}).items():
        if found.members(name):
            rules.append(_slice(name, bound, found))
        else:
            notes.append(f"gate.slices.{name} was not looked at: no {SLICES[name]} in the test split")
    difference = None
    if baseline is not None:
        difference = found.interval(found.all, found.change)
        rules.append(_drop(gate, found, difference))
        if lost := sum(values["undefined_pixels"] > 0 for values in baseline.values()):
            notes.append(f"the model in service gives probabilities that are not numbers on {_count(lost, 'scan')}")
    rules += _degenerate(found)
    if not found.bleeding:
        notes.append("no scan of the test split has blood: nothing was outlined that could be right")
    slices = {}
    for name in SLICES:
        members = found.members(name)
        slices[name] = {
            "patients": len(found.by_patient(members, found.dice)),
            "scans": len(members),
            **asdict(found.interval(members, found.dice)),
        }
    return Decision(tuple(rules), found.interval(found.all, found.dice), slices, difference, tuple(notes))


def in_slice(name: str, case: Mapping[str, Any]) -> bool:
    """Whether a case belongs to a slice.

    Args:
        name: A key of `SLICES`.
        case: With `size_bin` and `spacing_mm`.
    """
    if name in ("thick", "thin"):
        return (float(case["spacing_mm"][0]) > THICK_MM) == (name == "thick")
    return bool(case["size_bin"] == ("none" if name == "no_bleed" else name))


class _Cohort:
    """Scans, patients and their measures."""

    def __init__(self, cases: Cases, candidate: Measures, baseline: Measures | None) -> None:
        self._cases, self._candidate, self._baseline = cases, candidate, baseline or {}
        self.all = sorted(cases)
        self.bleeding = [case for case in self.all if self.true_ml(case) > 0]
        self.healthy = [case for case in self.all if self.true_ml(case) == 0]

    def dice(self, case: str) -> float:
        return self._candidate[case]["patient_dice"]

    def change(self, case: str) -> float:
        return self.dice(case) - self._baseline[case]["patient_dice"]

    def true_ml(self, case: str) -> float:
        return self._candidate[case]["true_volume_ml"]

    def predicted_ml(self, case: str) -> float:
        return self._candidate[case]["predicted_volume_ml"]

    def outside_ml(self, case: str) -> float:
        return self._candidate[case]["outside_brain_ml"]

    def undefined(self, case: str) -> float:
        return self._candidate[case]["undefined_pixels"]

    def alarms(self, case: str) -> float:
        return self._candidate[case]["false_positive_components"]

    def members(self, name: str) -> list[str]:
        return [case for case in self.all if in_slice(name, self._cases[case])]

    def by_patient(self, members: Sequence[str], measure: _Measure) -> list[float]:
        """Each patient's mean, in the order of their ids."""
        scans: dict[str, list[float]] = {}
        for case in members:
            scans.setdefault(str(self._cases[case]["patient_id"]), []).append(measure(case))
        return [math.fsum(scans[patient]) / len(scans[patient]) for patient in sorted(scans)]

    def mean(self, members: Sequence[str], measure: _Measure) -> float | None:
        values = self.by_patient(members, measure)
        return math.fsum(values) / len(values) if values else None

    def interval(self, members: Sequence[str], measure: _Measure) -> Interval:
        from components.imaging.metrics import summarise  # the configuration needs but the names of the slices

        summary = summarise(self.by_patient(members, measure))
        return Interval(summary.mean, summary.ci95_low, summary.ci95_high)

    def worst(
        self, members: Sequence[str], measure: _Measure, *, highest: bool = False, also: Sequence[str] = ()
    ) -> tuple[dict[str, Any], ...]:
        """The scans with the least or highest measure, then the least Dice."""
        sign = -1 if highest else 1
        chosen = sorted(members, key=lambda case: (sign * measure(case), self.dice(case), case))[:WORST]
        entries = []
        for case in chosen:
            entry = {"case_id": case, "patient_id": self._cases[case]["patient_id"], "dice": self.dice(case)}
            if case in self._baseline and "served_dice" in also:
                entry["served_dice"] = self._baseline[case]["patient_dice"]
            entries.append({**entry, **{name: self._candidate[case][name] for name in also if name != "served_dice"}})
        return tuple(entries)


_NEEDED = (
    "patient_dice",
    "true_volume_ml",
    "predicted_volume_ml",
    "outside_brain_ml",
    "false_positive_components",
    "undefined_pixels",
)


def _check_measures(name: str, measures: Measures, cases: Cases) -> None:
    if set(measures) != set(cases):
        missing, foreign = sorted(set(cases) - set(measures)), sorted(set(measures) - set(cases))
        raise ValueError(
            f"the {name} was measured on {len(measures)} scans, wanted the {len(cases)} of the split; "
            f"missing: {', '.join(missing[:5]) or 'none'}, not in the split: {', '.join(foreign[:5]) or 'none'}"
        )
    for case, values in measures.items():
        for measure in _NEEDED:
            if not math.isfinite(values[measure]):
                raise ValueError(f"{measure} of the {name} on {case} is {values[measure]}, wanted a finite number")


def _at_least(value: float | None, bound: float) -> bool:
    return value is not None and value >= bound - _ROUNDING


def _at_most(value: float | None, bound: float) -> bool:
    return value is not None and value <= bound + _ROUNDING


def _texts(value: float | None, bound: float, digits: int = 3) -> tuple[str, str]:
    """Both rounded, with as many digits as it takes to tell them apart."""
    if value is None:
        return "unknown", f"{bound:.{digits}f}"
    while f"{value:.{digits}f}" == f"{bound:.{digits}f}" and digits < 9:
        digits += 1
    return f"{value:.{digits}f}", f"{bound:.{digits}f}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _test_patients(gate: Mapping[str, Any], found: _Cohort) -> Rule:
    value, bound = len(found.by_patient(found.all, found.dice)), gate["min_test_patients"]
    message = f"{_count(value, 'test patient')}, wanted at least {bound}"
    return Rule("min_test_patients", "patients", "", float(value), float(bound), "at least", value >= bound, message)


def _mean_dice(gate: Mapping[str, Any], found: _Cohort) -> Rule:
    value, bound = found.mean(found.all, found.dice), float(gate["min_mean_dice"])
    text, wanted = _texts(value, bound)
    message = f"mean test Dice is {text}, wanted at least {wanted}"
    worst = found.worst(found.all, found.dice)
    return Rule("min_mean_dice", "dice", "", value, bound, "at least", _at_least(value, bound), message, worst)


def _dice_interval(gate: Mapping[str, Any], found: _Cohort) -> Rule:
    value, bound = found.interval(found.all, found.dice).low, float(gate["min_dice_interval"])
    text, wanted = _texts(value, bound)
    message = f"lower end of the 95 % interval of the mean test Dice is {text}, wanted at least {wanted}"
    worst = found.worst(found.all, found.dice)
    return Rule("min_dice_interval", "dice_low", "", value, bound, "at least", _at_least(value, bound), message, worst)


def _false_positives(gate: Mapping[str, Any], found: _Cohort) -> Rule:
    value, bound = found.mean(found.all, found.alarms), float(gate["max_false_positives"])
    text, wanted = _texts(value, bound, 1)
    metric = "false_positive_components"
    message = f"{text} false-positive components a scan, wanted at most {wanted}"
    worst = found.worst(found.all, found.alarms, highest=True, also=[metric])
    return Rule("max_false_positives", metric, "", value, bound, "at most", _at_most(value, bound), message, worst)


def _slice(name: str, bound: float, found: _Cohort) -> Rule:
    members = found.members(name)
    value = found.mean(members, found.dice)
    text, wanted = _texts(value, bound)
    patients = len(found.by_patient(members, found.dice))
    message = f"mean Dice on {SLICES[name]} ({_count(patients, 'patient')}) is {text}, wanted at least {wanted}"
    worst = found.worst(members, found.dice)
    return Rule("slices", "dice", name, value, float(bound), "at least", _at_least(value, bound), message, worst)


def _drop(gate: Mapping[str, Any], found: _Cohort, difference: Interval) -> Rule:
    patients = len(found.by_patient(found.all, found.change))
    sure = difference.high is not None and difference.high < 0 and patients >= SURE_PATIENTS
    bound = -float(gate["max_dice_drop"]) * (SURE_SHARE if sure else 1.0)
    text, wanted = _texts(difference.mean, bound)
    message = f"mean test Dice changed by {text} against the model in service, allowed is {wanted}"
    if sure:
        message += f", a quarter of max_dice_drop: the 95 % interval is {difference.low:.3f} to {difference.high:.3f}"
    worst = found.worst(found.all, found.change, also=["served_dice"])
    passed = _at_least(difference.mean, bound)
    return Rule("max_dice_drop", "dice_change", "", difference.mean, bound, "at least", passed, message, worst)


def _degenerate(found: _Cohort) -> list[Rule]:
    """Those that apply: all but the first need scans with blood, the last one needs scans without."""
    undefined = [case for case in found.all if found.undefined(case) > 0]
    message = f"probabilities that are not numbers on {_count(len(undefined), 'scan')}; the model is broken"
    worst = found.worst(undefined, found.undefined, highest=True, also=["undefined_pixels"])
    value, metric = float(len(undefined)), "undefined_pixels"
    rules = [Rule("not_a_number", metric, "", value, 0.0, "at most", not undefined, message, worst)]
    outlined, volumes = found.mean(found.bleeding, found.predicted_ml), ["predicted_volume_ml", "true_volume_ml"]
    true, dice = found.mean(found.bleeding, found.true_ml), found.mean(found.bleeding, found.dice)
    if outlined is not None and true is not None and dice is not None:
        message = f"nothing is outlined on {_count(len(found.bleeding), 'scan')} with blood"
        worst = found.worst(found.bleeding, found.true_ml, highest=True, also=volumes)
        metric = "predicted_volume_ml"
        rules.append(
            Rule("outlines_nothing", metric, "bleed", outlined, 0.0, "more than", outlined > 0, message, worst)
        )
        ratio = outlined / true
        message = (
            f"on scans with blood {ratio:.1f} times the true volume is outlined, at a mean Dice of {dice:.3f}; "
            f"wanted at most {EVERYTHING_RATIO:g} times, or a Dice of {EVERYTHING_DICE:g}"
        )
        worst = found.worst(found.bleeding, found.predicted_ml, highest=True, also=volumes)
        passed = _at_most(ratio, EVERYTHING_RATIO) or _at_least(dice, EVERYTHING_DICE)
        metric = "volume_ratio"
        rules.append(
            Rule("outlines_everything", metric, "bleed", ratio, EVERYTHING_RATIO, "at most", passed, message, worst)
        )
        outside = found.mean(found.bleeding, found.outside_ml) or 0.0
        share = outside / outlined if outlined > 0 else 0.0
        text, wanted = _texts(100 * share, 100 * SKULL_SHARE, 0)
        message = (
            f"{text} % of what is outlined on scans with blood lies on bone, in air or outside the skull, "
            f"wanted at most {wanted} %"
        )
        worst = found.worst(found.bleeding, found.outside_ml, highest=True, also=["outside_brain_ml", *volumes])
        passed, metric = _at_most(share, SKULL_SHARE), "outside_brain_share"
        rules.append(Rule("outlines_skull", metric, "bleed", share, SKULL_SHARE, "at most", passed, message, worst))
    outlined = found.mean(found.healthy, found.predicted_ml)
    if outlined is not None:
        text, wanted = _texts(outlined, EVERYTHING_ML, 0)
        message = f"{text} ml are outlined on average on scans without blood, wanted at most {wanted} ml"
        worst = found.worst(found.healthy, found.predicted_ml, highest=True, also=volumes[:1])
        passed = _at_most(outlined, EVERYTHING_ML)
        rules.append(
            Rule(
                "outlines_without_blood", "predicted_volume_ml", "no_bleed", outlined, EVERYTHING_ML, "at most",
                passed, message, worst,
            )
        )  # fmt: skip
    return rules
