"""docs/RESULTS.md from the kept figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.results.measure import WITHOUT_MASK
from benchmarks.results.plan import FOLDS, SOURCES, Row
from components.imaging.metrics import summarise

GROUPS = {
    "recipes": "The shipped recipe against the one this project started from",
    "ablation": "One thing added at a time, at equal training time",
}
_INTRODUCTION = f"""# Results on real head CT

Written by `python -m benchmarks.results` (`--help` says how to repeat one row); the figures behind it are in
`results.json` beside this page. Every row is cross-validated over {FOLDS} folds of patients, the same for all rows:
each training leaves a fifth of the patients out, tunes on a tenth, and is measured on the fifth by its gate. With all
folds done, every patient has been measured once by a model that never saw it. Dice is the mean over patients, on each
scan's own grid and after post-processing, with standard deviation and 95 % bootstrap interval over patients. False
positives are components that touch no true voxel, per scan. What the sources are: [DATA.md](DATA.md).
"""


def page(found: Sequence[dict[str, Any]], rows: Sequence[Row]) -> str:
    """The page as Markdown.

    Args:
        found: What `measure` returned, of some rows.
        rows: The plan; rows without figures are listed as not measured.
    """
    parts = [_INTRODUCTION]
    for group, heading in GROUPS.items():
        members = [row for row in rows if row.group == group]
        parts.append(f"## {heading}\n\n" + _table(members, found))
    parts.append("## Other sources than those trained on\n\n" + _generalisation(rows, found))
    return "\n".join(parts)


def _table(rows: Sequence[Row], found: Sequence[dict[str, Any]]) -> str:
    heads = ["recipe", "folds"]
    for source in SOURCES:
        heads += [f"{source} Dice", f"{source} false positives"]
    lines = [_line([*heads, "minutes", "on"]), _line(["---"] * (len(heads) + 2))]
    missing = []
    for row in rows:
        mine = _of(row, found)
        if not mine:
            missing.append(f"`{row.name}`")
            continue
        cells = [f"{row.title} (`{row.name}`)", ", ".join(str(one["fold"]) for one in mine)]
        for source in SOURCES:
            cells += [_dice(mine, "test", source), _mean(mine, "test", source, "false_positive_components")]
        minutes = [one["minutes"] for one in mine]
        cells += [f"{sum(minutes) / len(minutes):.0f}", "; ".join(sorted({one["hardware"] for one in mine}))]
        lines.append(_line(cells))
    text = "\n".join(lines) + "\n"
    return text + (f"\nNot measured yet: {', '.join(missing)}.\n" if missing else "")


def _generalisation(rows: Sequence[Row], found: Sequence[dict[str, Any]]) -> str:
    names = list(WITHOUT_MASK)
    heads = ["recipe", "trained on", "measured on all patients of", "Dice", "false positives"]
    heads += [f"{name.rpartition('/')[2]} ({what}), ml" for name, what in WITHOUT_MASK.items()]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        mine = _of(row, found)
        if not row.elsewhere or not mine:
            continue
        others = sorted(mine[0].get("generalisation", {})) or [""]
        for source in others:
            scores = (
                [source, _dice(mine, "generalisation", source),
                 _mean(mine, "generalisation", source, "false_positive_components")]
                if source else ["-", "-", "-"]
            )  # fmt: skip
            volumes = [[one["volumes_ml"][name] for one in mine if name in one.get("volumes_ml", {})] for name in names]
            cells = [f"`{row.name}`", ", ".join(row.sources), *scores]
            lines.append(_line([*cells, *(f"{sum(some) / len(some):.2f}" if some else "-" for some in volumes)]))
    return "\n".join(lines) + "\n"


def patient_figures(mine: Sequence[dict[str, Any]], part: str, source: str, measure: str) -> list[float]:
    """Each patient's figure: test patients of all folds one after another, those of elsewhere averaged over folds.

    Args:
        mine: A row's figures by fold.
        part: `test`, where each fold has patients of its own, or `generalisation`, where all have the same.
        source: The source.
        measure: The measure.
    """
    by_fold = [one[part][source][measure] for one in mine if source in one.get(part, {})]
    if part == "test":
        return [value for values in by_fold for value in values]
    return [sum(values) / len(values) for values in zip(*by_fold, strict=True)]


def _of(row: Row, found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((one for one in found if one["row"] == row.name), key=lambda one: int(one["fold"]))


def _dice(mine: Sequence[dict[str, Any]], part: str, source: str) -> str:
    values = patient_figures(mine, part, source, "dice")
    if not values:
        return "-"
    summary = summarise(values)
    if summary.ci95_low is None or summary.sd is None:
        return f"{summary.mean:.3f} (1 patient)"
    return f"{summary.mean:.3f} ± {summary.sd:.3f} [{summary.ci95_low:.3f}, {summary.ci95_high:.3f}], n = {summary.n}"


def _mean(mine: Sequence[dict[str, Any]], part: str, source: str, measure: str) -> str:
    values = patient_figures(mine, part, source, measure)
    return f"{sum(values) / len(values):.2f}" if values else "-"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
