"""The post-processing that suits the validation split: counts of each scan, then a search that needs no arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from components.imaging.geometry import Geometry
from components.imaging.metrics import dice_from_counts
from components.imaging.postprocess import Components, Postprocess, find_components, to_native
from components.imaging.skull import inside_skull

SLACK = 0.002
"""What a change of a setting must gain: less than this hangs on a few voxels of a few patients."""

MAX_SWEEPS = 3
"""Times that all settings are gone through; one more only where the last one changed anything."""


@dataclass(frozen=True)
class CaseCounts:
    """All that the choice needs of one scan: a few numbers for each component at each threshold.

    Attributes:
        patient: The scan's patient.
        voxel_ml: Volume of a native voxel.
        true_voxels: Voxels of the true mask.
        found: By threshold and whether holes are filled: the components, and how many of their voxels are true.
    """

    patient: str
    voxel_ml: float
    true_voxels: int
    found: Mapping[tuple[float, bool], tuple[Components, np.ndarray]]

    def measure(self, post: Postprocess) -> tuple[float, int]:
        """Dice and false-positive components of the mask that `outline` makes, as `scan_metrics` defines them."""
        components, true = self.found[post.threshold, post.fill_holes]
        keep = components.kept(post, self.voxel_ml)
        hits, predicted = int(true[keep].sum()), int(components.voxels[keep].sum())
        return (
            dice_from_counts(hits, predicted - hits, self.true_voxels - hits),
            int(np.count_nonzero(true[keep] == 0)),
        )


@dataclass(frozen=True)
class Trial:
    """One candidate and what the validation split says to it.

    Attributes:
        post: The settings.
        dice: Mean Dice over patients, whose scans are averaged first.
        false_positive_components: Their mean number a scan, averaged likewise.
        objective: What is maximised: Dice less a little for each false-positive component.
    """

    post: Postprocess
    dice: float
    false_positive_components: float
    objective: float

    def to_dict(self) -> dict[str, Any]:
        """Settings and figures side by side, ready for JSON."""
        return {
            **self.post.to_dict(),
            "dice": round(self.dice, 5),
            "false_positive_components": round(self.false_positive_components, 3),
        }


@dataclass(frozen=True)
class Tuning:
    """What was tried and chosen.

    Attributes:
        start: The configured settings.
        chosen: The settings to use.
        curve: All that was tried, in order.
    """

    start: Trial
    chosen: Trial
    curve: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """`start`, `chosen` and `curve`, ready for JSON."""
        return {
            "start": self.start.to_dict(),
            "chosen": self.chosen.to_dict(),
            "curve": [trial.to_dict() for trial in self.curve],
        }

    def summary(self) -> str:
        """One line: what was chosen, and what it gained."""
        post, before, after = self.chosen.post, self.start, self.chosen
        settings = [f"threshold {post.threshold:g}"]
        if post.core_threshold > post.threshold:
            settings.append(f"core {post.core_threshold:g}")
        settings.append(f"components of {post.min_component_ml:g} ml or more")
        if post.fill_holes:
            settings.append("holes filled")
        if post.hu_range is not None:
            settings.append(f"{post.hu_range[0]:g} to {post.hu_range[1]:g} HU")
        if post.head_only:
            settings.append("inside the skull")
        gain = (
            f"val Dice {before.dice:.4f} -> {after.dice:.4f}, false-positive components a scan "
            f"{before.false_positive_components:.2f} -> {after.false_positive_components:.2f}"
        )
        kept = "as configured: " if post == before.post else ""
        return f"post-processing tuned, {kept}{', '.join(settings)}; {gain}"


def thresholds(section: Mapping[str, Any]) -> tuple[float, ...]:
    """The thresholds to count at, ascending: those to try and the configured one.

    Args:
        section: The section `postprocess` of the configuration.
    """
    return tuple(sorted({*section["thresholds"], section["threshold"]}))


def count_case(
    patient: str,
    quantised: np.ndarray,
    truth: np.ndarray,
    geometry: Geometry,
    wanted: Sequence[float],
    hu: np.ndarray,
) -> CaseCounts:
    """Counts one scan; its arrays can be let go of afterwards.

    Args:
        patient: The scan's patient.
        quantised: Probabilities, uint8 of shape (slices, size, size) from `quantise`.
        truth: The true mask, bool of shape `geometry.native_shape`.
        geometry: The scan's geometry.
        wanted: Thresholds, ascending.
        hu: HU on the model grid, int16 of the shape of `quantised`.
    """
    found: dict[tuple[float, bool], tuple[Components, np.ndarray]] = {}
    native = to_native(quantised, geometry, wanted[0], hu, inside_skull(hu, geometry.grid_spacing_mm))
    true = truth[native.place] if native else None
    for threshold in wanted:
        for fill_holes in (False, True):
            if native is None or true is None:
                none, nothing = np.zeros(0, np.int64), np.zeros(0)
                found[threshold, fill_holes] = Components(none, np.zeros(0, np.float32), nothing, nothing), none
                continue
            labels, components = find_components(native, threshold, fill_holes=fill_holes)
            overlap = np.bincount(labels[true], minlength=len(components.voxels) + 1)[1:]
            found[threshold, fill_holes] = components, overlap
    return CaseCounts(patient, geometry.voxel_ml, int(np.count_nonzero(truth)), found)


def tune(cases: Sequence[CaseCounts], section: Mapping[str, Any]) -> Tuning:
    """Chooses the settings by coordinate ascent from the configured ones.

    One setting at a time takes, of the candidates within `SLACK` of the best, the one nearest to what is configured:
    a value that is better by chance, or at the far end of a plateau, is not taken. The order is threshold, core,
    smallest component, holes, HU, skull.

    Args:
        cases: Counts of the validation split, at least one.
        section: The section `postprocess` of the configuration.

    Returns:
        Start, choice and all candidates.
    """
    start = Postprocess.from_dict(section)
    tried: dict[Postprocess, Trial] = {}

    def trial(post: Postprocess) -> Trial:
        if post not in tried:
            tried[post] = _measure(cases, post, section["false_positive_weight"])
        return tried[post]

    current = start
    trial(start)
    for _ in range(MAX_SWEEPS):
        before = current
        for alternatives in _SETTINGS:
            candidates = [(trial(post), distance) for post, distance in alternatives(current, start, section)]
            best = max(found.objective for found, _ in candidates)
            good = [(distance, -found.objective, found) for found, distance in candidates
                    if found.objective >= best - SLACK]  # fmt: skip
            current = min(good, key=lambda item: item[:2])[2].post
        if current == before:
            break
    if trial(current).objective <= trial(start).objective + SLACK:
        current = start
    return Tuning(trial(start), trial(current), tuple(tried.values()))


def _measure(cases: Sequence[CaseCounts], post: Postprocess, false_positive_weight: float) -> Trial:
    by_patient: dict[str, list[tuple[float, int]]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case.measure(post))
    rows = np.array([np.mean(sorted(by_patient[patient]), axis=0) for patient in sorted(by_patient)])
    dice, alarms = (float(value) for value in rows.mean(axis=0))
    return Trial(post, dice, alarms, dice - false_positive_weight * alarms)


Alternatives = Iterator[tuple[Postprocess, float]]
"""Candidates that differ from the current settings in one of them, and how far that is from the configured value."""


def _by_threshold(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    off = current.core_threshold == current.threshold
    for threshold in thresholds(section):
        core = threshold if off else max(current.core_threshold, threshold)
        yield replace(current, threshold=threshold, core_threshold=core), abs(threshold - start.threshold)


def _by_core(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    configured = current.threshold if start.core_threshold == start.threshold else start.core_threshold
    for core in sorted({current.threshold, current.core_threshold, configured, *section["core_thresholds"]}):
        if core >= current.threshold:
            yield replace(current, core_threshold=core), abs(core - configured)


def _by_size(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    for size in sorted({start.min_component_ml, *section["component_sizes_ml"]}):
        yield replace(current, min_component_ml=size), abs(size - start.min_component_ml)


def _by_holes(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    for fill_holes in (False, True):
        yield replace(current, fill_holes=fill_holes), float(fill_holes != start.fill_holes)


def _by_hu(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    ranges = {start.hu_range, None, *((float(low), float(high)) for low, high in section["hu_ranges"])}
    for hu_range in sorted(ranges, key=lambda item: item or (-np.inf, np.inf)):
        yield replace(current, hu_range=hu_range), float(hu_range != start.hu_range)


def _by_head(current: Postprocess, start: Postprocess, section: Mapping[str, Any]) -> Alternatives:
    for head_only in (False, True):
        yield replace(current, head_only=head_only), float(head_only != start.head_only)


_SETTINGS: tuple[Callable[[Postprocess, Postprocess, Mapping[str, Any]], Alternatives], ...] = (
    _by_threshold, _by_core, _by_size, _by_holes, _by_hu, _by_head,
)  # fmt: skip
