"""Charts of a run as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from components.pages.svg import COLOURS, INK, LINE, as_svg, bare, drawing, unclipped

CANDIDATE, SERVED, HEALTHY, BOUND = (COLOURS[name] for name in ("test", "previous", "previous", "stopped"))
_WIDE, _NARROW = 7.2, 4.4
_NAMED_PATIENTS = 45
"""More than these have no room for their ids."""
_DOTTED_EPOCHS = 60
"""More than these are a line alone."""


def _dot(axes: Axes, x: float, y: float, colour: str, points: float = 2.6, *, hollow: bool = False) -> None:
    """A circle of so many points radius; a marker of matplotlib would be a definition that needs an id."""
    place = axes.figure.dpi_scale_trans + ScaledTranslation(x, y, axes.transData)  # type: ignore[arg-type]
    axes.add_patch(
        Circle(
            (0, 0), points / 72, transform=place, edgecolor=colour, linewidth=1.1,
            facecolor="none" if hollow else colour, clip_on=False, zorder=5,
        )
    )  # fmt: skip


def dice_bars(patients: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Dice of each patient, the best first, over the mean, one standard deviation each way and the interval.

    Args:
        patients: Entries of the content's `patients`.
        summary: That of the Dice.
    """
    n = len(patients)
    named = n <= _NAMED_PATIENTS
    longest = max(len(patient["patient_id"]) for patient in patients) if named else 0
    foot = 0.25 + min(longest, 18) * 0.066
    height = 2.2 + foot
    with drawing(_WIDE, height) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.06, right=0.995, top=1 - 0.1 / height, bottom=foot / height)
        axes.set(xlim=(-0.7, n - 0.3), ylim=(0, 1))
        bare(axes, grid="y")
        mean, sd = summary["mean"], summary["sd"]
        if sd is not None:
            axes.axhspan(max(mean - sd, 0), min(mean + sd, 1), color=LINE, alpha=0.55, linewidth=0)
            axes.axhspan(summary["ci95_low"], summary["ci95_high"], color=COLOURS["notes"], alpha=0.28, linewidth=0)
        for place, patient in enumerate(patients):
            colour = CANDIDATE if patient["true_volume_ml"] else HEALTHY
            axes.bar(place, patient["dice"], 0.72, color=colour, edgecolor=colour, linewidth=0.5)
        axes.axhline(mean, color=INK, linewidth=1.1)
        axes.set_ylabel("Dice", color=INK)
        if named:
            labels = [_short(patient["patient_id"]) for patient in patients]
            axes.set_xticks(range(n), labels, rotation=90, fontsize=6.5)
        else:
            axes.xaxis.set_major_locator(NullLocator())
            axes.set_xlabel(f"{n} patients", color=INK)
        unclipped(axes)
        return as_svg(figure)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def dice_by_slice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean Dice and its interval, one row each.

    Args:
        rows: `label`, `patients`, `mean`, `low` and `high` (None for a single patient), and `bound` or None.
    """
    foot, row = 0.28, 0.3
    height = row * len(rows) + foot + 0.05
    with drawing(_NARROW, height) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.3, right=0.97, top=1 - 0.05 / height, bottom=foot / height)
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        bare(axes, grid="x")
        axes.spines["left"].set_visible(False)
        for place, item in enumerate(rows):
            if item["low"] is not None:
                axes.plot([item["low"], item["high"]], [place, place], color=CANDIDATE, linewidth=2.2)
            _dot(axes, item["mean"], place, CANDIDATE, 3.2)
            if item["bound"] is not None:
                axes.plot([item["bound"]] * 2, [place - 0.34, place + 0.34], color=BOUND, linewidth=1.4)
            for text, size, drop in ((item["label"], 8, 4), (_count(item["patients"], "patient"), 6.5, -5)):
                axes.annotate(
                    text, (0, place), xytext=(-7, drop), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="center", color=INK, size=size,
                )  # fmt: skip
        axes.yaxis.set_major_locator(NullLocator())
        unclipped(axes)
        return as_svg(figure)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def false_positives(counted: Mapping[str, Any]) -> str:
    """How many scans have how many false-positive components."""
    scans = counted["scans"]
    with drawing(_NARROW, 2.2) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.1, right=0.985, top=0.93, bottom=0.19)
        axes.set(xlim=(-0.6, max(len(scans), 6) - 0.4), ylim=(0, max(scans) * 1.12))
        bare(axes)
        for value, number in enumerate(scans):
            axes.bar(value, number, 0.76, color=CANDIDATE, edgecolor=CANDIDATE, linewidth=0.5)
            if number:
                axes.annotate(
                    str(number), (value, number), xytext=(0, 2), textcoords="offset points", ha="center",
                    va="bottom", color=INK, size=6.5,
                )  # fmt: skip
        labels = [str(value) for value in range(len(scans))]
        if counted["open"]:
            labels[-1] = f"≥ {labels[-1]}"
        axes.set_xticks(range(len(scans)), labels, fontsize=7 if len(scans) < 16 else 5.5)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("false-positive components", color=INK, labelpad=2)
        axes.set_ylabel("scans", color=INK, labelpad=2)
        unclipped(axes)
        return as_svg(figure)


def agreement(patients: Sequence[Mapping[str, Any]], volumes: Mapping[str, Any]) -> str:
    """Bland and Altman's plot of the volumes of each patient, in ml."""
    means = [(patient["true_volume_ml"] + patient["predicted_volume_ml"]) / 2 for patient in patients]
    apart = [patient["predicted_volume_ml"] - patient["true_volume_ml"] for patient in patients]
    levels = [value for value in (volumes["low"], volumes["bias"], volumes["high"]) if value is not None]
    reach = max(map(abs, [*apart, *levels, 0.5])) * 1.15
    right = max(*means, 1.0) * 1.05
    with drawing(_NARROW, 2.9) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.13, right=0.83, top=0.97, bottom=0.15)
        axes.set(xlim=(-0.02 * right, right), ylim=(-reach, reach))
        bare(axes)
        axes.axhline(0, color=LINE, linewidth=0.8)
        for level, name in ((volumes["low"], "−1.96 sd"), (volumes["bias"], "bias"), (volumes["high"], "+1.96 sd")):
            if level is not None:
                # A dashed line would be clipped by a definition; a thin one tells the limits from the bias.
                axes.axhline(level, color=INK if name == "bias" else BOUND, linewidth=1.1 if name == "bias" else 0.8)
                axes.annotate(
                    f"{name}\n{level:+.1f}".replace("-", "−"), (1, level), xytext=(4, 0),
                    xycoords=("axes fraction", "data"), textcoords="offset points", va="center", color=INK, size=7,
                )  # fmt: skip
        for x, y in zip(means, apart, strict=True):
            _dot(axes, x, y, CANDIDATE)
        axes.set_xlabel("mean of true and predicted volume, ml", color=INK, labelpad=2)
        axes.set_ylabel("predicted − true, ml", color=INK, labelpad=2)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        unclipped(axes)
        return as_svg(figure)


def reliability(candidate: Mapping[str, Any], served: Mapping[str, Any] | None) -> str:
    """True share against mean probability in each bin; the larger the circle, the more pixels."""
    with drawing(_NARROW, 3.3) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(left=0.12, right=0.98, top=0.97, bottom=0.13)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        bare(axes, grid="both")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        for calibration, colour, hollow in ((served, SERVED, True), (candidate, CANDIDATE, False)):
            bins = [item for item in (calibration or {}).get("bins", ()) if item["pixels"]]
            if bins:
                most = max(item["pixels"] for item in bins)
                places = [(item["mean_probability"], item["true_share"]) for item in bins]
                axes.plot(*zip(*places, strict=True), color=colour, linewidth=1.1)
                for (x, y), item in zip(places, bins, strict=True):
                    _dot(axes, x, y, colour, 1.8 + 3.2 * math.sqrt(item["pixels"] / most), hollow=hollow)
        axes.set_xlabel("mean probability", color=INK, labelpad=2)
        axes.set_ylabel("share that is lesion", color=INK, labelpad=2)
        unclipped(axes)
        return as_svg(figure)


def tuning_curve(curve: Mapping[str, Any]) -> str:
    """Dice above, false-positive components below, against one setting of the post-processing."""
    points = curve["points"]
    numeric = all(isinstance(point["value"], int | float) and not isinstance(point["value"], bool) for point in points)
    places = [point["value"] if numeric else place for place, point in enumerate(points)]
    rows = (("dice", "val Dice"), ("false_positive_components", "FP a scan"))
    with drawing(_NARROW, 2.7) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(left=0.15, right=0.97, top=0.96, bottom=0.17, hspace=0.22)
        room = (max(places) - min(places)) * 0.06 or 1.0
        for axes, (key, label) in zip(panels, rows, strict=True):
            values = [point[key] for point in points]
            axes.set_xlim(min(places) - room, max(places) + room)
            if key == "dice":
                spare = max((max(values) - min(values)) * 0.15, 0.005)
                axes.set_ylim(min(values) - spare, max(values) + spare)
            else:
                top = max(*values, 0.2) * 1.15
                axes.set_ylim(-0.15 * top, top)  # room for a dot at 0 above the settings' names
            bare(axes, grid="y")
            axes.plot(places, values, color=CANDIDATE, linewidth=1.2)
            for x, y, point in zip(places, values, points, strict=True):
                _dot(axes, x, y, INK if point["chosen"] else CANDIDATE, 3.6 if point["chosen"] else 2.2)
            axes.set_ylabel(label, color=INK)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            unclipped(axes)
        panels[-1].set_xticks(places, [setting_text(point["value"]) for point in points])
        panels[-1].set_xlabel(curve["title"], color=INK, labelpad=2)
        return as_svg(figure)


def setting_text(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return f"{value[0]:g} to {value[1]:g}"
    return "off" if value is None else f"{value:g}"


def training_curves(epochs: Sequence[Mapping[str, Any]], best_epoch: float | None) -> str:
    """Loss, validation Dice and learning rate of each epoch, a line a fold; an upright one marks the epoch kept."""
    rows = (("loss", "loss"), ("val_dice", "val Dice"), ("learning_rate", "rate"))
    numbers = [row["epoch"] for row in epochs]
    with drawing(_NARROW, 3.6) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        figure.subplots_adjust(left=0.15, right=0.97, top=0.97, bottom=0.12, hspace=0.25)
        for axes, (key, label) in zip(panels, rows, strict=True):
            bare(axes, grid="y")
            axes.set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
            axes.set_ylabel(label, color=INK)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            values = [row[key] for row in epochs if row[key] is not None]
            if values:
                spare = (max(values) - min(values)) * 0.1 or max(abs(values[0]) * 0.1, 1e-6)
                axes.set_ylim(min(values) - spare, max(values) + spare)
            for fold in sorted({row["fold"] for row in epochs}):
                known = [(row["epoch"], row[key]) for row in epochs if row["fold"] == fold and row[key] is not None]
                if known:
                    axes.plot(*zip(*known, strict=True), color=CANDIDATE, linewidth=1.2)
                for x, y in known if len(epochs) <= _DOTTED_EPOCHS else ():
                    _dot(axes, x, y, CANDIDATE, 1.6)
            if best_epoch is not None and min(numbers) <= best_epoch <= max(numbers):
                axes.axvline(best_epoch, color=INK, linewidth=0.8)
            axes.ticklabel_format(axis="y", useOffset=False, style="plain")
            unclipped(axes)
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panels[-1].set_xlabel("epoch", color=INK, labelpad=2)
        return as_svg(figure)
