"""Scores predicted masks against true ones: pairs the files, compares them on the truth's grid, shows the result.

The measures themselves are in `components.imaging.metrics`. Nothing here needs TFX or TensorFlow.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.table import Table
from rich.text import Text

from components.imaging.agreement import DEFINITION as AGREEMENT
from components.imaging.agreement import Agreement, bland_altman
from components.imaging.errors import ScanError, UsageError
from components.imaging.metrics import (
    DEFINITIONS,
    METRIC_NAMES,
    Mask,
    ScanMetrics,
    Summary,
    scan_metrics,
    summarise,
)
from components.imaging.nifti import Volume, read_volume

_EXTENSIONS = (".nii.gz", ".nii")
_GRID_TOLERANCE = 1e-3  # of a voxel
_MASK_WORDS = re.compile(r"(?<![a-z])(mask|label|labels|seg|segmentation|pred|prediction|truth|gt)(?![a-z])")
_NAMES_SHOWN = 10


@dataclass(frozen=True)
class CaseResult:
    """One scan's files and measures."""

    case: str
    prediction: Path
    truth: Path
    metrics: ScanMetrics


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of a comparison.

    Attributes:
        cases: The scored scans, by case id.
        summaries: One summary a measure, over `cases`.
        volumes: Agreement of true and predicted volumes in ml, over `cases`.
        missing_predictions: Cases with a truth and no prediction: not scored, only ever listed on request.
        missing_truths: Cases with a prediction and no truth: likewise.
    """

    cases: tuple[CaseResult, ...]
    summaries: Mapping[str, Summary]
    volumes: Agreement
    missing_predictions: tuple[str, ...]
    missing_truths: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Everything as JSON types; null stands for undefined."""
        return {
            "definitions": dict(DEFINITIONS),
            "summary": {name: summary.as_dict() for name, summary in self.summaries.items()},
            "volumes": {**self.volumes.as_dict(), "definition": AGREEMENT},
            "cases": [
                {
                    "case": result.case,
                    "prediction": str(result.prediction),
                    "truth": str(result.truth),
                    **result.metrics.as_dict(),
                }
                for result in self.cases
            ],
            "missing_predictions": list(self.missing_predictions),
            "missing_truths": list(self.missing_truths),
        }


def evaluate(
    predictions: Path,
    truth: Path,
    *,
    prediction_pattern: str | None = None,
    truth_pattern: str | None = None,
    allow_missing: bool = False,
    workers: int = 2,
) -> EvaluationReport:
    """Compare two mask files, or the masks of two folders case by case.

    Patterns such as `{case}/mask.nii.gz` are relative to their folder; `*` stands for any part of a name. Without one
    the layout is found: `<case>.nii.gz`, `<case>_mask.nii.gz` (any ending that all files of the folder share), or
    one folder a case.

    Args:
        predictions: A NIfTI file, or a folder of them.
        truth: The same kind of thing.
        prediction_pattern: Where the predictions are in their folder.
        truth_pattern: Where the true masks are in theirs.
        allow_missing: Score the cases found on both sides and list the others, which are otherwise an error.
        workers: Scans compared at once.

    Raises:
        UsageError: A path is missing or empty, the files do not pair up, or an option is wrong.
        ScanError: A file cannot be read or is no mask, or two masks are not on one grid.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}, wanted 1 or more")
    pairs = pair_cases(predictions, truth, prediction_pattern, truth_pattern)
    if not allow_missing:
        _refuse_missing(pairs, predictions, truth)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        found = list(pool.map(lambda pair: compare_files(pair[1], pair[2]), pairs.both))
    cases = tuple(CaseResult(*pair, metrics) for pair, metrics in zip(pairs.both, found, strict=True))
    values = [result.metrics.as_dict() for result in cases]
    summaries = {name: summarise([value[name] for value in values]) for name in METRIC_NAMES}
    volumes = bland_altman(
        [result.metrics.true_volume_ml for result in cases], [result.metrics.predicted_volume_ml for result in cases]
    )
    return EvaluationReport(cases, summaries, volumes, pairs.only_truth, pairs.only_predictions)


def compare_files(prediction: Path, truth: Path) -> ScanMetrics:
    """The measures of one predicted mask file against one true mask file.

    A prediction stored in another orientation is turned into the truth's first; nothing is resampled.

    Raises:
        ScanError: A file cannot be read or is no mask, or the two are not on one grid.
    """
    true_volume = read_volume(truth)
    predicted_volume = _as_oriented(read_volume(prediction), true_volume.affine)
    _check_grid(predicted_volume, prediction, true_volume, truth)
    rotation = true_volume.affine[:3, :3]
    x, y, z = (float(step) for step in nib.affines.voxel_sizes(true_volume.affine))
    return scan_metrics(
        _foreground(true_volume.data, truth),
        _foreground(predicted_volume.data, prediction),
        (x, y, z),
        voxel_volume_mm3=abs(float(np.linalg.det(rotation))),
    )


def _foreground(data: np.ndarray, path: Path) -> Mask:
    if data.size and data.min() < 0:
        raise ScanError(
            "mask-values",
            f"{path}: values from {data.min()} to {data.max()}, wanted a mask (0 and above, blood above 0.5); "
            "is this the image?",
        )
    return np.asarray(data > 0.5)


def _as_oriented(volume: Volume, affine: np.ndarray) -> Volume:
    """Flip and transpose a volume until its axes run as those of another grid do."""
    # Relative to the other grid rather than by axis codes: two nearly equal 45 degree obliques may differ in codes.
    turn = nib.orientations.io_orientation(np.linalg.inv(affine) @ volume.affine)
    turned = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.data.shape)
    return Volume(nib.orientations.apply_orientation(volume.data, turn), turned, volume.header)


def _check_grid(prediction: Volume, prediction_path: Path, truth: Volume, truth_path: Path) -> None:
    if prediction.data.shape != truth.data.shape:
        raise ScanError(
            "mask-shape",
            f"{prediction_path}: shape {prediction.data.shape} along the truth's axes, wanted {truth.data.shape} as "
            f"{truth_path} has; predict on the scan's own grid",
        )
    sizes = nib.affines.voxel_sizes(truth.affine)
    step = np.linalg.norm(prediction.affine[:3, :3] - truth.affine[:3, :3], axis=0) / sizes
    # A flip moves the file's origin to another corner, and rounded steps add up on the way: one corner has to agree.
    corners = np.array(np.meshgrid(*([0, size - 1] for size in truth.data.shape))).reshape(3, -1).T
    offsets = nib.affines.apply_affine(prediction.affine, corners) - nib.affines.apply_affine(truth.affine, corners)
    moved = float(np.linalg.norm(offsets, axis=1).min())
    if step.max() > _GRID_TOLERANCE or moved > _GRID_TOLERANCE * sizes.min():
        raise ScanError(
            "mask-affine",
            f"{prediction_path}: affine differs from that of {truth_path}: voxel axes by up to {step.max():.2g} of a "
            f"voxel ({_spacing(prediction)} against {_spacing(truth)} mm), position by {moved:.3g} mm; wanted within "
            f"{_GRID_TOLERANCE:g} of a voxel; resample the prediction to the truth's grid",
        )


def _spacing(volume: Volume) -> str:
    return "x".join(f"{step:.5g}" for step in nib.affines.voxel_sizes(volume.affine))


# --- Which prediction belongs to which truth


@dataclass(frozen=True)
class Pairs:
    """Cases of two folders.

    Attributes:
        both: Case id, prediction and truth, by case id.
        only_predictions: Case ids without a truth.
        only_truth: Case ids without a prediction.
    """

    both: tuple[tuple[str, Path, Path], ...]
    only_predictions: tuple[str, ...]
    only_truth: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """One way to read case ids off a folder's files; `rank` is lower for the likelier of two ways."""

    pattern: str
    cases: Mapping[str, Path]
    rank: int


def pair_cases(
    predictions: Path, truth: Path, prediction_pattern: str | None = None, truth_pattern: str | None = None
) -> Pairs:
    """Find the prediction of each truth, see `evaluate` for the layouts.

    Raises:
        UsageError: A path is missing or empty, a pattern is wrong or matches nothing, no case is on both sides, two
            files claim one case, or the layout is ambiguous.
    """
    for path in (predictions, truth):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    if predictions.is_dir() != truth.is_dir():
        raise UsageError(f"{predictions} and {truth}: one is a file and one a folder; give two files or two folders")
    if not truth.is_dir():
        for option, pattern in (("prediction", prediction_pattern), ("truth", truth_pattern)):
            if pattern is not None:
                raise UsageError(f"{option} pattern {pattern!r}: patterns are for folders, {truth} is a file")
        return Pairs(((_stem(truth.name) or truth.name, predictions, truth),), (), ())

    predicted, true = _choose(
        predictions, _layouts(predictions, prediction_pattern), truth, _layouts(truth, truth_pattern)
    )
    common = sorted(predicted.keys() & true.keys())
    return Pairs(
        tuple((case, predicted[case], true[case]) for case in common),
        tuple(sorted(predicted.keys() - true.keys())),
        tuple(sorted(true.keys() - predicted.keys())),
    )


def _refuse_missing(pairs: Pairs, predictions: Path, truth: Path) -> None:
    problems = [
        f"{folder}: no {what} for {len(cases)} of {len(cases) + len(pairs.both)} cases ({_listed(cases)})"
        for folder, what, cases in (
            (predictions, "prediction", pairs.only_truth),
            (truth, "true mask", pairs.only_predictions),
        )
        if cases
    ]
    if problems:
        raise UsageError("; ".join(problems) + "; add the files, or allow missing ones to score the rest")


def _choose(
    predictions: Path, predicted: list[_Layout], truth: Path, true: list[_Layout]
) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
    """The two layouts with most cases in common, the likelier ones where that is a draw."""

    def score(pair: tuple[_Layout, _Layout]) -> tuple[int, int]:
        return -len(pair[0].cases.keys() & pair[1].cases.keys()), pair[0].rank + pair[1].rank

    options = sorted(((left, right) for left in predicted for right in true), key=score)
    best = options[0]
    if score(best)[0] == 0:
        raise UsageError(
            f"{predictions} and {truth}: no case in common; predictions are {_listed(best[0].cases)}, "
            f"true masks are {_listed(best[1].cases)}; give the folders that hold them, or patterns such as "
            "{case}/mask.nii.gz"
        )
    drawn = [pair for pair in options if score(pair) == score(best)]
    for folder, side in ((predictions, 0), (truth, 1)):
        patterns = sorted({pair[side].pattern for pair in drawn})
        if len(patterns) > 1:
            raise UsageError(f"{folder}: which files are the masks? Give one of the patterns {', '.join(patterns)}")
    return best[0].cases, best[1].cases


def _layouts(folder: Path, pattern: str | None) -> list[_Layout]:
    if pattern is not None:
        return [_layout_of_pattern(folder, pattern)]
    flat = _masks_in(folder)
    if flat:
        return _flat_layouts(folder, flat)
    nested = [file for child in sorted(folder.iterdir()) if _visible(child) and child.is_dir()
              for file in _masks_in(child)]  # fmt: skip
    if not nested:
        raise UsageError(f"{folder}: no .nii or .nii.gz file in it or in its subfolders")
    return _nested_layouts(nested)


def _layout_of_pattern(folder: Path, pattern: str) -> _Layout:
    if "{case}" not in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise UsageError(f"pattern {pattern!r}: wanted a path below the folder with {{case}} in it")
    parts = re.split(r"(\{case\}|\*)", pattern)
    expression, search = "", ""
    for part in parts:
        if part == "{case}":
            expression += "(?P=case)" if "(?P<case>" in expression else "(?P<case>[^/]+)"
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
        search += "*" if part in ("{case}", "*") else glob.escape(part)
    matches = []
    for file in sorted(folder.glob(search)):
        match = re.fullmatch(expression, file.relative_to(folder).as_posix())
        if match and file.is_file() and _visible(file):
            matches.append((match["case"], file))
    if not matches:
        raise UsageError(f"{folder}: no file matches the pattern {pattern!r}")
    return _Layout(pattern, _unique(matches), 0)


def _flat_layouts(folder: Path, files: list[Path]) -> list[_Layout]:
    """The whole stems as case ids, and the stems without an ending that they all share."""
    stems = [_stem(file.name) or "" for file in files]
    shared = _shared_ending(stems)
    endings = ["", *(shared[index:] for index in range(len(shared) - 1, -1, -1) if shared[index] in "_-.")]
    found = []
    for rank, ending in enumerate(endings):
        ids = [stem.removesuffix(ending) for stem in stems]
        if all(ids):
            found.append(_Layout(f"{{case}}{ending}.nii.gz", _unique(zip(ids, files, strict=True)), rank))
    return found


def _nested_layouts(files: list[Path]) -> list[_Layout]:
    """One layout for each file name that recurs from folder to folder, the folder being the case."""
    groups: dict[str, list[tuple[str, Path]]] = {}
    for file in files:
        case = file.parent.name
        # Only a whole word of the name: the case "a" is not in "mask", nor is "1" in "label1".
        whole = rf"(?<![^\W_]){re.escape(case)}(?![^\W_])"
        name = re.sub(whole, "{case}", _stem(file.name) or "")
        groups.setdefault(name, []).append((case, file))
    return [
        _Layout(f"{{case}}/{name}.nii.gz", _unique(group), 0 if _MASK_WORDS.search(name.lower()) else 1)
        for name, group in sorted(groups.items())
    ]


def _unique(matches: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    cases: dict[str, Path] = {}
    for case, file in matches:
        if case in cases:
            raise UsageError(f"{cases[case]} and {file}: two files for case {case!r}; keep one, or give a pattern")
        cases[case] = file
    return cases


def _masks_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if _visible(file) and _stem(file.name) and file.is_file()]


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _stem(name: str) -> str | None:
    """The name without .nii or .nii.gz, None for other files."""
    for extension in _EXTENSIONS:
        if name.endswith(extension):
            return name.removesuffix(extension)
    return None


def _shared_ending(names: list[str]) -> str:
    return os.path.commonprefix([name[::-1] for name in names])[::-1]  # noqa: RUF071 - character by character is what is wanted


def _listed(cases: Iterable[str]) -> str:
    names = sorted(cases)
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- How the result looks


@dataclass(frozen=True)
class _Column:
    """How one measure is shown: its heading over the cases (None: only in the summary), its name, its decimals."""

    heading: str | None
    name: str
    decimals: int


_COLUMNS: dict[str, _Column] = {
    "dice": _Column("Dice", "Dice", 3),
    "nsd_0_42mm": _Column("NSD\n0.42mm", "NSD at 0.42 mm", 3),
    "nsd_1mm": _Column("NSD\n1mm", "NSD at 1 mm", 3),
    "nsd_2mm": _Column("NSD\n2mm", "NSD at 2 mm", 3),
    "hd95_mm": _Column("HD95\nmm", "HD95, mm", 1),
    "true_volume_ml": _Column("true\nml", "true volume, ml", 2),
    "predicted_volume_ml": _Column("pred.\nml", "predicted, ml", 2),
    "absolute_volume_error_ml": _Column(None, "volume error, ml", 2),
    "rvd": _Column("RVD", "RVD", 3),
    "lesion_f1": _Column("F1", "lesion F1", 3),
    "false_positive_components": _Column("FP", "FP components", 2),
    "missed_components": _Column("miss", "missed components", 2),
    "true_components": _Column(None, "true components", 2),
    "predicted_components": _Column(None, "pred. components", 2),
}
_NOTES = (
    "HD95: area-weighted, larger direction; the scan's diagonal where only one mask is empty. F1, FP, miss: lesions,"
    " 26-connected. RVD: undefined where only the truth is empty. sd: n - 1. Interval: 95 % bootstrap of the mean"
    " over patients."
)


def render_table(report: EvaluationReport) -> ConsoleRenderable:
    """Something for a rich console to print: the cases, then their summary. Plain text where it is no terminal."""
    return _View(report)


@dataclass(frozen=True)
class _View:
    report: EvaluationReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = box.SIMPLE_HEAD if options.is_terminal else None
        yield _case_table(self.report, lines)
        yield Text()
        yield _summary_table(self.report, lines)
        yield Text(_volumes(self.report.volumes))
        yield Text()
        yield Text(_NOTES, style="dim")
        for what, cases in (
            ("prediction", self.report.missing_predictions),
            ("true mask", self.report.missing_truths),
        ):
            if cases:
                yield Text(f"Not scored, no {what}: {', '.join(cases)} ({len(cases)})", style="bold")


def _volumes(found: Agreement) -> str:
    """Bias and limits of agreement in one line."""
    if found.bias is None or found.low is None or found.high is None:
        return "Volumes, predicted - true: limits of agreement need two cases."
    return (
        f"Volumes, predicted - true: bias {found.bias:.2f} ml (95 % interval {found.bias_low:.2f} to "
        f"{found.bias_high:.2f}), limits of agreement {found.low:.2f} to {found.high:.2f} ml (Bland-Altman)."
    )


def _table(lines: box.Box | None, first: str, others: Iterable[str]) -> Table:
    """A table whose first column folds where space is short: a number is never cut."""
    table = Table(box=lines, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold", vertical="top")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _case_table(report: EvaluationReport, lines: box.Box | None) -> Table:
    shown = {name: column for name, column in _COLUMNS.items() if column.heading is not None}
    table = _table(lines, "case", (column.heading or "" for column in shown.values()))
    for result in report.cases:
        values = result.metrics.as_dict()
        cells = (_number(values[name], column.decimals) for name, column in shown.items())
        table.add_row(Text(result.case), *cells)
    return table


def _summary_table(report: EvaluationReport, lines: box.Box | None) -> Table:
    table = _table(lines, "over patients", ("n", "undef.", "mean ± sd", "95 % interval", "median", "quartiles"))
    for name, column in _COLUMNS.items():
        summary = report.summaries[name]

        def show(value: float | None, decimals: int = column.decimals) -> str:
            return "n/a" if value is None else f"{value:.{decimals}f}"

        table.add_row(
            column.name,
            str(summary.n),
            str(summary.undefined),
            _span(show, summary.mean, summary.sd, " ± "),
            _span(show, summary.ci95_low, summary.ci95_high, "–"),
            show(summary.median),
            _span(show, summary.q1, summary.q3, "–"),
        )
    return table


def _span(show: Callable[[float | None], str], first: float | None, second: float | None, joint: str) -> str:
    return "n/a" if first is None else f"{show(first)}{joint}{show(second)}"


def _number(value: float | int | None, decimals: int) -> str:
    if value is None:
        return "undef."
    return str(value) if isinstance(value, int) else f"{value:.{decimals}f}"
