"""Scalars of made-up patients, as examples and as TFDV's statistics with the options of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tfx.v1 as tfx  # noqa: F401 - before tensorflow_data_validation: it stands in for a module that is gone
from google.protobuf import text_format
from tensorflow.core.example.example_pb2 import Example
from tensorflow_data_validation import StatsOptions
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from components.nifti_example_gen.examples import _set
from pipeline.pipeline import SCHEMA
from schema import features as f

SLICES = 6


def schema() -> schema_pb2.Schema:
    """The curated schema."""
    return text_format.Parse(SCHEMA.read_text(), schema_pb2.Schema())


def patients(count: int, seed: int, **shifts: float) -> list[Example]:
    """Slices of `count` patients drawn from one population.

    Args:
        count: Patients.
        seed: Of the draw.
        **shifts: Added to a feature of every slice, or multiplied where it is a spacing.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        volume = 0.0 if rng.random() < 0.3 else float(rng.lognormal(2.0, 1.0)) + shifts.get(f.LESION_VOLUME_ML, 0.0)
        whole: dict[str, Any] = {
            f.ORIENTATION: rng.choice(["LPS", "LAS", "RAS"], p=[0.5, 0.3, 0.2]).encode(),
            f.SIZE_BIN: f.size_bin(volume).encode(),
            f.SLICE_COUNT: SLICES,
            f.BRAIN_HU_MEAN: float(rng.normal(33, 2)) + shifts.get(f.BRAIN_HU_MEAN, 0.0),
            f.BRAIN_HU_SD: float(rng.normal(9, 1)),
            f.LESION_VOLUME_ML: volume,
            f.SLICE_SPACING_MM: float(rng.choice([4.0, 5.0])) * shifts.get(f.SLICE_SPACING_MM, 1.0),
            f.PIXEL_SPACING_MM: float(rng.uniform(0.4, 0.5)),
        }
        for index in range(SLICES):
            example = Example()
            values = {
                **whole,
                f.SLICE_INDEX: index,
                f.LESION_PIXELS: int(volume * 10),
                f.LESION_AREA_CM2: volume / SLICES,
                f.HEAD_AREA_CM2: float(rng.normal(180, 20)),
            }
            for name, middle in zip(f.HEAD_HU_PERCENTILES, (-100.0, 0.0, 35.0, 500.0, 1200.0), strict=True):
                values[name] = float(rng.normal(middle, 20))
            for name, value in values.items():
                _set(example.features.feature[name], value)
            examples.append(example)
    return examples


def statistics(examples: Iterable[Example]) -> Any:
    """TFDV's statistics of the scalars."""
    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch([item.SerializeToString() for item in examples])
    options = StatsOptions(feature_allowlist=list(f.STATISTICS_FEATURES), num_values_histogram_buckets=3)
    columns = [name for name in batch.schema.names if name in f.STATISTICS_FEATURES]
    return stats_impl.generate_statistics_in_memory(batch.select(columns), options)


def listing(
    fingerprint: str, counts: Mapping[str, int], *, span: int = 0, cases: int = 1, quarantined: int = 0
) -> dict[str, Any]:
    """`cases.json`, as far as the validator reads it.

    Args:
        fingerprint: Of the data.
        counts: Patients by split.
        span: The newest span.
        cases: Number of sound cases.
        quarantined: Number of the others.
    """
    return {
        "fingerprint": fingerprint,
        "span": span,
        "splits": {name: {"patients": count} for name, count in counts.items()},
        "cases": [{}] * cases,
        "quarantined": [{"code": "truncated"}] * quarantined,
    }
