"""The content of a run report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from components.evaluator.figures import TITLES
from components.evaluator.rules import SLICES
from components.imaging.metrics import Summary
from components.pages.html import environment, number, script, style
from components.run_report import charts
from components.run_report.strips import ROLES
from schema.features import SPLITS

_FOLDER = Path(__file__).parent
_PANELS = {"CT": (), "Truth": ("truth",), "Prediction": ("prediction",), "Error": ("false_positive", "missed")}
"""Of each slice the pictures side by side, and the masks drawn on each."""

_OF_A_SCAN = {
    "served_dice": "in service",
    "false_positive_components": "false-positive components",
    "predicted_volume_ml": "ml outlined",
    "true_volume_ml": "ml of blood",
    "outside_brain_ml": "ml on bone or outside the skull",
    "undefined_pixels": "pixels without a number",
}


def render(content: Mapping[str, Any]) -> str:
    """The page.

    Args:
        content: What `content.collect` returned, or the same read back from JSON.

    Returns:
        HTML without references to anything outside; text from the data is escaped. The page's own script turns strips
        into stacks, and its policy lets no other run.
    """
    made = environment(_FOLDER)
    made.filters |= {"setting": charts.setting_text, "fixed": fixed, "duration": duration}
    scrolling, allowed = script(_FOLDER / "page.js")
    return made.get_template("page.html.j2").render(
        content,
        style=style(_FOLDER / "page.css"),
        script=scrolling,
        script_source=allowed,
        roles=ROLES,
        panels=_PANELS,
        drawn={name: {"svg": Markup(svg), "alt": alt} for name, (svg, alt) in _charts(content).items()},
        tuned=[
            {**curve, "svg": Markup(charts.tuning_curve(curve)), "alt": tuning_text(curve)}
            for curve in (content["tuning"] or {"curves": ()})["curves"]
        ],
        titles=TITLES,
        slice_titles=SLICES,
        splits=SPLITS,
        statistics=[name for name in Summary.__dataclass_fields__ if name not in ("n", "undefined")],
        of_a_scan=_OF_A_SCAN,
        settings=yaml.safe_dump(content["config"], sort_keys=False, allow_unicode=True),
    )


def _charts(content: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Chart and its words, by name; those that there is data for."""
    patients, overall = content["patients"], content["overall"]["dice"]
    found = {
        "dice": (charts.dice_bars(patients, overall), dice_text(patients, overall)),
        "slices": _slices(content),
        "false_positives": (
            charts.false_positives(content["false_positives"]),
            false_positives_text(content["false_positives"]),
        ),
        "volumes": (charts.agreement(patients, content["volumes"]), volumes_text(content["volumes"])),
    }
    if content["calibration"] and content["calibration"]["pixels"]:
        served = content["served"]["calibration"]
        found["calibration"] = (
            charts.reliability(content["calibration"], served),
            calibration_text(content["calibration"]),
        )
    training = content["training"]
    if training:
        found["training"] = (
            charts.training_curves(training["epochs"], training["best_epoch"]),
            training_text(training),
        )
    return found


def _slices(content: Mapping[str, Any]) -> tuple[str, str]:
    everyone = {"patients": len(content["patients"]), "measures": content["overall"], "bound": None}
    rows = []
    sources = {f"from {name}": {**item, "bound": None} for name, item in content["sources"].items()}
    for name, item in {"all": everyone, **content["slices"], **sources}.items():
        dice = item["measures"]["dice"]
        if dice["n"]:
            rows.append(
                {
                    "label": name.replace("_", " "), "patients": item["patients"], "mean": dice["mean"],
                    "low": dice["ci95_low"], "high": dice["ci95_high"], "bound": item["bound"],
                }
            )  # fmt: skip
    parts = [f"{row['label']} {fixed(row['mean'])} of {row['patients']} patients" for row in rows]
    return charts.dice_by_slice(rows), f"Mean Dice by kind of scan: {'; '.join(parts)}."


def fixed(value: float | None, digits: int = 3) -> str:
    """A figure with so many digits after the point; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """A time as one reads it: `12.3 s`, `4 min 05 s` or `2 h 03 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def dice_text(patients: Sequence[Mapping[str, Any]], overall: Mapping[str, Any]) -> str:
    """The bars in words."""
    best, worst = patients[0], patients[-1]
    spread = f", standard deviation {fixed(overall['sd'])}" if overall["sd"] is not None else ""
    return (
        f"Dice of {len(patients)} patients as bars, the best first: mean {fixed(overall['mean'])}{spread}, "
        f"median {fixed(overall['median'])}, from {fixed(worst['dice'])} ({worst['patient_id']}) to "
        f"{fixed(best['dice'])} ({best['patient_id']})."
    )


def false_positives_text(counted: Mapping[str, Any]) -> str:
    """The bars in words."""
    last = len(counted["scans"]) - 1
    parts = [
        f"{scans} with {value}{' or more' if counted['open'] and value == last else ''}"
        for value, scans in enumerate(counted["scans"])
        if scans
    ]
    return f"Scans by their number of false-positive components: {', '.join(parts)}."


def volumes_text(volumes: Mapping[str, Any]) -> str:
    """Bias and limits in words."""
    limits = (
        f", limits of agreement {number(volumes['low'])} to {number(volumes['high'])} ml"
        if volumes["low"] is not None
        else ""
    )
    return (
        f"Differences of predicted and true volumes against their means, {volumes['n']} patients: bias "
        f"{number(volumes['bias'])} ml{limits}."
    )


def calibration_text(calibration: Mapping[str, Any]) -> str:
    """The bins in words."""
    parts = [
        f"{fixed(item['mean_probability'], 2)}: {fixed(item['true_share'], 2)}"
        for item in calibration["bins"]
        if item["pixels"]
    ]
    return f"Share that is lesion by mean probability: {', '.join(parts)}."


def tuning_text(curve: Mapping[str, Any]) -> str:
    """The points in words."""
    parts = [
        f"{charts.setting_text(point['value'])}{' (chosen)' if point['chosen'] else ''}: Dice {fixed(point['dice'])}, "
        f"{fixed(point['false_positive_components'], 2)} false-positive components a scan"
        for point in curve["points"]
    ]
    return f"{curve['title']}. {'; '.join(parts)}."


def training_text(training: Mapping[str, Any]) -> str:
    """First and last epoch of each fold in words, and the best one."""
    parts = []
    for fold in sorted({row["fold"] for row in training["epochs"]}):
        rows = [row for row in training["epochs"] if row["fold"] == fold]
        first, last = rows[0], rows[-1]
        parts.append(
            f"{f'Fold {fold}, ' if fold else ''}{last['epoch']} epochs: loss from {number(first['loss'])} to "
            f"{number(last['loss'])}, val Dice from {fixed(first['val_dice'])} to {fixed(last['val_dice'])}."
        )
    if training["best_epoch"]:
        parts.append(f"The weights of epoch {training['best_epoch']:.0f} were kept.")
    return " ".join(parts)
