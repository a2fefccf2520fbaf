"""The TFMA metric: one scan at a time on its own grid, averaged within a patient, then over patients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.evaluator.extractors import OUTSIDE_SKULL, Unpacked, unpack_prediction
from components.imaging.calibration import COUNTS
from components.imaging.geometry import Geometry
from components.imaging.metrics import scan_metrics
from components.imaging.postprocess import Postprocess, count_marked, outline, unpack_mask
from schema import features as f

MEANS = (
    "dice",
    "nsd_0_42mm",
    "nsd_1mm",
    "nsd_2mm",
    "hd95_mm",
    "true_volume_ml",
    "predicted_volume_ml",
    "absolute_volume_error_ml",
    "lesion_f1",
    "false_positive_components",
    "missed_components",
)
"""Fields of `ScanMetrics` that are defined for every scan; reported is their mean over patients."""

OF_PREDICTION = ("outside_brain_ml", "undefined_pixels")
"""Measured of the prediction alone, also as means over patients: the volume outlined on bone, in air or outside the
skull, and the pixels of the model grid whose probability is not a number."""

KEYS = ("patient_dice", *MEANS[1:], *OF_PREDICTION, "patient_dice_sd", "patients", "scans")
"""Names in TFMA's results; `patient_dice` is the mean Dice."""

CALIBRATION = "calibration"
"""One more name in TFMA's results: the sum of `calibration_counts` over all slices, as float64 of shape (33,)."""


@dataclass
class Accumulator:
    """Values of each patient's scans, and the sum of the calibration's counts."""

    patients: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(COUNTS, np.int64))


class PatientMetric(metric_types.Metric):
    """One of `KEYS`; needs the query key `case_id`.

    All of them share one computation, which TFMA runs once.
    """

    def __init__(self, name: str = "patient_dice", code_version: str = "") -> None:
        super().__init__(metric_util.merge_per_key_computations(_computations), name=name, code_version=code_version)


metric_types.register_metric(PatientMetric)


def _computations(
    code_version: str = "", name: str = "", eval_config: Any = None, model_name: str = "", **_: Any
) -> list[Any]:
    keys = {key: metric_types.MetricKey(name=key, model_name=model_name) for key in (*KEYS, CALIBRATION)}
    return [
        metric_types.MetricComputation(
            keys=list(keys.values()), preprocessors=[_ScanPreprocessor(model_name)], combiner=_PatientCombiner(keys)
        )
    ]


class _ScanPreprocessor(metric_types.Preprocessor):
    """All slices of a scan become a handful of numbers."""

    def __init__(self, model_name: str) -> None:
        super().__init__(name=f"_scan_{model_name}")
        self._model_name = model_name

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields what `scan_values` returns."""
        predictions = extracts[tfma.PREDICTIONS_KEY]
        if isinstance(predictions, dict):
            predictions = predictions[self._model_name]
        yield scan_values(extracts[tfma.FEATURES_KEY], np.asarray(predictions, dtype=object).ravel())


@dataclass(frozen=True)
class Outlined:
    """A scan's truth and prediction as they are measured.

    Attributes:
        geometry: The scan's.
        truth: The true mask, bool of shape `geometry.native_shape`.
        predicted: The outline after post-processing, bool of the same shape.
        slices: Its unpacked predictions, in order.
    """

    geometry: Geometry
    truth: np.ndarray
    predicted: np.ndarray
    slices: list[Unpacked]


def outlined(features: Mapping[str, Any], packed: np.ndarray) -> Outlined:
    """Puts the slices of one scan together, on its own grid.

    Args:
        features: Features of its slices, each of shape (slices, ...), in any order.
        packed: Its packed predictions, of shape (slices,).

    Raises:
        ValueError: They are not the slices of one scan.
    """
    indices = np.asarray(features[f.SLICE_INDEX]).ravel()
    order = np.argsort(indices)
    shape = tuple(int(size) for size in np.asarray(features[f.NATIVE_SHAPE]).reshape(len(indices), 3)[0])
    if not np.array_equal(indices[order], np.arange(shape[0])):
        raise ValueError(f"a scan of {shape[0]} slices came with the slices {sorted(indices.tolist())}")
    unpacked = [unpack_prediction(packed[index]) for index in order]
    header = unpacked[0].header
    spacing = np.asarray(features[f.SPACING_MM], dtype=np.float64).reshape(-1, 3)[0]
    center = np.asarray(features[f.GRID_CENTER], dtype=np.float64).reshape(-1, 2)[0]
    geometry = Geometry(
        native_shape=(shape[0], shape[1], shape[2]),
        # Features are float32; rounding brings back the decimals that ingestion wrote.
        spacing_mm=(round(spacing[0], 5), round(spacing[1], 5), round(spacing[2], 5)),
        grid_center=(float(center[0]), float(center[1])),
        grid_size=header["grid_size"],
        grid_spacing_mm=header["grid_spacing_mm"],
    )
    masks = np.asarray(features[f.NATIVE_MASK], dtype=object).ravel()
    truth = np.stack([unpack_mask(masks[index], shape[1], shape[2]) for index in order])
    below = [item.hu for item in unpacked if item.hu is not None]
    predicted = outline(
        np.stack([item.pixels for item in unpacked]),
        geometry,
        Postprocess.from_dict(header["postprocess"]),
        np.stack(below) if below else None,
        np.stack([item.marks for item in unpacked]) < OUTSIDE_SKULL,
    )
    return Outlined(geometry, truth, predicted, unpacked)


def scan_values(features: Mapping[str, Any], packed: np.ndarray) -> dict[str, Any]:
    """Measures one scan.

    Args:
        features: Features of its slices, each of shape (slices, ...), in any order.
        packed: Its packed predictions, of shape (slices,).

    Returns:
        `patient`, `values` in the order of `MEANS` and `OF_PREDICTION`, and `counts`: the sum of the slices'
        calibration counts.
    """
    scan = outlined(features, packed)
    geometry = scan.geometry
    marks = np.stack([item.marks for item in scan.slices])
    measured: dict[str, Any] = scan_metrics(scan.truth, scan.predicted, geometry.spacing_mm).as_dict()
    measured["outside_brain_ml"] = count_marked(marks > 0, scan.predicted, geometry) * geometry.voxel_ml
    measured["undefined_pixels"] = sum(item.header["undefined"] for item in scan.slices)
    return {
        "patient": bytes(np.asarray(features[f.PATIENT_ID], dtype=object).ravel()[0]).decode(),
        "values": tuple(float(measured[name]) for name in (*MEANS, *OF_PREDICTION)),
        "counts": np.sum([item.counts for item in scan.slices], axis=0),
    }


class _PatientCombiner(beam.CombineFn):
    """Collects scans by patient; a few floats each."""

    def __init__(self, keys: dict[str, metric_types.MetricKey]) -> None:
        self._keys = keys

    def create_accumulator(self) -> Accumulator:
        return Accumulator()

    def add_input(self, accumulator: Accumulator, element: dict[str, Any]) -> Accumulator:
        accumulator.patients.setdefault(element["patient"], []).append(element["values"])
        accumulator.counts += element["counts"]
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Accumulator]) -> Accumulator:
        merged = Accumulator()
        for accumulator in accumulators:
            for patient, scans in accumulator.patients.items():
                merged.patients.setdefault(patient, []).extend(scans)
            merged.counts += accumulator.counts
        return merged

    def extract_output(self, accumulator: Accumulator) -> dict[metric_types.MetricKey, Any]:
        by_patient = accumulator.patients
        # Sorted, so that sums do not depend on the order of arrival.
        patients = np.array([np.mean(sorted(by_patient[patient]), axis=0) for patient in sorted(by_patient)])
        if not len(patients):
            result: dict[str, Any] = dict.fromkeys(KEYS, float("nan"))
        else:
            result = dict(zip(KEYS, patients.mean(axis=0).tolist(), strict=False))
            result["patient_dice_sd"] = float(patients[:, 0].std(ddof=1)) if len(patients) > 1 else 0.0
            result["patients"] = float(len(patients))
            result["scans"] = float(sum(len(scans) for scans in by_patient.values()))
        result[CALIBRATION] = accumulator.counts.astype(np.float64)  # exact: they are far below 2^53
        return {self._keys[name]: value for name, value in result.items()}
