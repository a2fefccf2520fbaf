"""Patient Dice, and the counts that tuning needs, on the scans' own grids, one scan in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from components.imaging.errors import IchError
from components.imaging.geometry import Geometry
from components.imaging.metrics import dice
from components.imaging.postprocess import Postprocess, outline, own_hu, quantise, skull_for, unpack_mask
from components.trainer.data import of_patients, raw_spec, read_records
from components.trainer.tuning import CaseCounts, count_case, thresholds
from schema import features as f

BATCH = 8
NETWORK_FEATURES = (f.IMAGE, f.BRAIN_HU_MEAN, f.BRAIN_HU_SD)
CASE_FEATURES = (
    f.CASE_ID,
    f.PATIENT_ID,
    f.SLICE_INDEX,
    f.SLICE_COUNT,
    f.NATIVE_MASK,
    f.NATIVE_SHAPE,
    f.SPACING_MM,
    f.GRID_CENTER,
)

NO_SLICES = "the validation split holds no slices; check the splits section"

Predict = Callable[[tf.Tensor], tf.Tensor]
"""From float32 (n, size, size, channels) to probabilities (n, size, size, 1)."""

Batch = tuple[tf.Tensor, dict[str, tf.Tensor]]
Batches = Iterable[Batch]
"""The network's input, float32 (n, size, size, channels), and the raw features of the same slices."""


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        dice: Dice by case.
        patients: The patient by case; a case that is not in it is a patient of its own.
    """

    dice: dict[str, float]
    patients: dict[str, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean over the patients, whose scans are averaged first."""
        return float(np.mean(self._by_patient()))

    @property
    def sd(self) -> float:
        """Standard deviation over the patients, with n in the denominator."""
        return float(np.std(self._by_patient()))

    def _by_patient(self) -> list[float]:
        scans: dict[str, list[float]] = {}
        for case, found in self.dice.items():
            scans.setdefault(self.patients.get(case, case), []).append(found)
        return [float(np.mean(found)) for found in scans.values()]


def merged(validations: Sequence[Validation]) -> Validation:
    """Several validations of different cases as one."""
    return Validation(
        {case: found for item in validations for case, found in item.dice.items()},
        {case: patient for item in validations for case, patient in item.patients.items()},
    )


def validation_dataset(
    shards: Sequence[str],
    tft_output: Any,
    *,
    batch: int = BATCH,
    hu: bool = False,
    patients: Collection[str] | None = None,
    scans: bool = False,
) -> Batches:
    """All slices in the order in which they are stored.

    Args:
        shards: Files of examples.
        tft_output: The Transform output.
        batch: Slices a batch.
        hu: Whether the image's own HU are wanted too, as the raw feature `image`.
        patients: Whose slices; by default everyone's.
        scans: Whether a batch is to hold just the slices of one scan, as a 3D network needs them.

    Returns:
        Pairs of the network's input, float32 (n, size, size, channels), and the raw features `CASE_FEATURES`.
    """
    spec = raw_spec(tft_output, [*NETWORK_FEATURES, *CASE_FEATURES])
    kept = (*CASE_FEATURES, f.IMAGE) if hu else CASE_FEATURES
    layer = tft_output.transform_features_layer()

    def finish(records: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        raw = tf.io.parse_example(records, spec)
        image = layer({name: raw[name] for name in NETWORK_FEATURES})[f.IMAGE_XF]
        return image, {name: raw[name] for name in kept}

    records = read_records(list(shards))
    if patients is not None:
        records = of_patients(records, tft_output, patients)
    slices = records.batch(batch).map(finish, num_parallel_calls=1, deterministic=True).prefetch(2)
    return _Scans(slices) if scans else slices


class _Scans:
    """The slices of each scan as one batch: a shard holds them one after another."""

    def __init__(self, slices: tf.data.Dataset) -> None:
        self._slices = slices

    def __iter__(self) -> Iterator[Batch]:
        parts: list[Batch] = []
        for image, raw in self._slices:
            cases = raw[f.CASE_ID].numpy().ravel()
            ends = [*(np.flatnonzero(cases[1:] != cases[:-1]) + 1), len(cases)]
            for start, end in zip([0, *ends], ends, strict=False):
                if parts and parts[0][1][f.CASE_ID].numpy().ravel()[0] != cases[start]:
                    yield _joined(parts)
                    parts = []
                parts.append((image[start:end], {name: value[start:end] for name, value in raw.items()}))
        if parts:
            yield _joined(parts)


def _joined(parts: list[Batch]) -> Batch:
    raw = {name: tf.concat([values[name] for _, values in parts], 0) for name in parts[0][1]}
    return tf.concat([image for image, _ in parts], 0), raw


def validate(
    predict: Predict,
    dataset: Batches,
    grid: Mapping[str, Any],
    post: Postprocess,
    *,
    report: Callable[[int], None] = lambda cases: None,
) -> Validation:
    """Dice of every case, after post-processing, on its native grid.

    Args:
        predict: The network.
        dataset: From `validation_dataset`, with HU where `post.needs_hu` says so.
        grid: The section `grid` of the configuration.
        post: The post-processing.
        report: Called with the number of cases done.

    Raises:
        IchError: No case, or slices of a case are missing.
    """
    found: dict[str, float] = {}
    patients: dict[str, str] = {}
    for case in _cases(predict, dataset):
        hu = case.hu_of(grid)
        skull = skull_for(post, hu, grid["spacing_mm"])
        mask = outline(case.probabilities(), case.geometry(grid), post, hu, skull)
        found[case.case_id] = dice(np.stack(case.masks), mask)
        patients[case.case_id] = case.patient_id
        report(len(found))
    if not found:
        raise IchError(NO_SLICES)
    return Validation(found, patients)


def count_cases(
    predict: Predict,
    dataset: Batches,
    grid: Mapping[str, Any],
    section: Mapping[str, Any],
    *,
    report: Callable[[int], None] = lambda cases: None,
) -> list[CaseCounts]:
    """Counts what `tune` needs to choose the post-processing for a network, in one pass.

    Args:
        predict: The network, as it is to be served.
        dataset: From `validation_dataset`, with HU.
        grid: The section `grid` of the configuration.
        section: The section `postprocess`.
        report: Called with the number of cases done.

    Raises:
        IchError: No case, or slices of a case are missing.
    """
    counts = []
    for case in _cases(predict, dataset):
        hu = case.hu_of(grid)
        if hu is None:
            raise ValueError("tuning tries what lies inside the skull: the dataset must give the HU")
        truth, geometry = np.stack(case.masks), case.geometry(grid)
        counts.append(count_case(case.patient_id, case.probabilities(), truth, geometry, thresholds(section), hu))
        report(len(counts))
    if not counts:
        raise IchError(NO_SLICES)
    return counts


@dataclass
class _Case:
    """Slices of one scan, collected in order."""

    case_id: str
    patient_id: str
    count: int
    native_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    grid_center: tuple[float, float]
    quantised: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)

    def geometry(self, grid: Mapping[str, Any]) -> Geometry:
        return Geometry(self.native_shape, self.spacing_mm, self.grid_center, grid["size"], grid["spacing_mm"])

    def probabilities(self) -> np.ndarray:
        if len(self.masks) != self.count:
            raise IchError(f"case {self.case_id}: found {len(self.masks)} slices, wanted {self.count}; ingest it anew")
        return np.stack(self.quantised)

    def hu_of(self, grid: Mapping[str, Any]) -> np.ndarray | None:
        """HU on the model grid, int16 of shape (slices, size, size), where the dataset gives them."""
        if not self.images:
            return None
        return np.stack([own_hu(image, grid["size"], grid["context_slices"]) for image in self.images])


def _cases(predict: Predict, dataset: Batches) -> Iterator[_Case]:
    """Whole cases: a shard holds a case's slices in order, so a new id or index 0 ends the one before."""
    current: _Case | None = None
    for image, raw in dataset:
        quantised = quantise(predict(image).numpy()[..., 0])
        values = {name: tensor.numpy().reshape(len(quantised), -1) for name, tensor in raw.items()}
        for row, plane in enumerate(quantised):
            case_id = values[f.CASE_ID][row, 0].decode()
            if current is None or current.case_id != case_id:
                if current is not None:
                    yield current
                slices, rows, columns = (int(value) for value in values[f.NATIVE_SHAPE][row])
                # Features are float32; rounding brings back the decimals that ingestion wrote.
                spacing = tuple(round(float(value), 5) for value in values[f.SPACING_MM][row])
                center = tuple(float(value) for value in values[f.GRID_CENTER][row])
                current = _Case(
                    case_id,
                    values[f.PATIENT_ID][row, 0].decode(),
                    int(values[f.SLICE_COUNT][row, 0]),
                    (slices, rows, columns),
                    (spacing[0], spacing[1], spacing[2]),
                    (center[0], center[1]),
                )
            expected = len(current.masks)
            if int(values[f.SLICE_INDEX][row, 0]) != expected:
                index = int(values[f.SLICE_INDEX][row, 0])
                raise IchError(f"case {case_id}: found slice {index}, wanted {expected}; ingest it anew")
            current.quantised.append(plane)
            if f.IMAGE in values:
                current.images.append(values[f.IMAGE][row, 0])
            current.masks.append(unpack_mask(values[f.NATIVE_MASK][row, 0], *current.native_shape[1:]))
    if current is not None:
        yield current
