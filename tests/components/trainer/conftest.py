"""A tiny cohort as shards, and the Transform output of the real preprocessing and schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from components.imaging.geometry import Geometry
from components.imaging.postprocess import pack_mask
from pipeline.config import Config
from schema import features as f

SIZE = 32
NATIVE = 44
SCHEMA = Path(__file__).parents[3] / "schema" / "schema.pbtxt"


def small_config(**training: Any) -> dict[str, Any]:
    """A whole configuration for the tiny grid, as run_fn receives it."""
    normalisation = training.pop("normalisation", "none")
    context = training.pop("context", 0)
    network = {"base_filters": 8, "depth": 2, **training.pop("network", {})}
    config = Config.model_validate(
        {
            "name": "tiny",
            "data": {"image": "i/{case}.nii.gz", "mask": "m/{case}.nii.gz"},
            "grid": {"size": SIZE, "spacing_mm": 5.5, "context_slices": context},
            "normalisation": normalisation,
            "network": network,
            "training": {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3, **training},
        }
    )
    return json.loads(
        config.subset("grid", "windows", "normalisation", "network", "training", "inference", "postprocess", "output")
    )


def geometry(slices: int) -> Geometry:
    """Native 44 x 44 pixels of 4 mm; the grid of 32 x 32 pixels of 5.5 mm covers the same 176 mm."""
    return Geometry((slices, NATIVE, NATIVE), (5.0, 4.0, 4.0), ((NATIVE - 1) / 2, (NATIVE - 1) / 2), SIZE, 5.5)


def make_case(
    case_id: str, slices: int, lesion_slices: int, rng: np.random.Generator, *, context: int = 0
) -> list[bytes]:
    """Slices of a head of 30 HU with noise, and a square of 70 HU as lesion in the first slices."""
    place = geometry(slices)
    masks = np.zeros(place.native_shape, bool)
    for index in range(lesion_slices):
        row, column = rng.integers(10, 24, 2)
        masks[index, row : row + 12, column : column + 10] = True
    native = 30 + 40.0 * masks + rng.normal(0, 3, masks.shape)
    hu = place.to_grid(native, outside=-1000).round().astype("<i2")
    coverage = np.rint(place.to_grid(masks, outside=0) * 255).astype(np.uint8)
    records = []
    for index in range(slices):
        around = np.clip(np.arange(index - context, index + context + 1), 0, slices - 1)
        values: dict[str, Any] = {
            f.IMAGE: hu[around].tobytes(),
            f.MASK: coverage[index].tobytes(),
            f.NATIVE_MASK: pack_mask(masks[index]),
            f.CASE_ID: case_id.encode(),
            f.PATIENT_ID: case_id.encode(),
            f.ORIENTATION: b"LPS",
            f.SIZE_BIN: b"small",
            f.SLICE_INDEX: index,
            f.SLICE_COUNT: slices,
            f.LESION_PIXELS: int(masks[index].sum()),
            f.NATIVE_SHAPE: list(place.native_shape),
            f.SPACING_MM: list(place.spacing_mm),
            f.GRID_CENTER: list(place.grid_center),
            f.AFFINE: np.eye(4).ravel().tolist(),
            f.BRAIN_HU_MEAN: 29.0,
            f.BRAIN_HU_SD: 8.0,
        }
        for name in f.FLOAT_FEATURES:
            values.setdefault(name, 1.0)
        records.append(example(values).SerializeToString())
    return records


def example(values: dict[str, Any]) -> tf.train.Example:
    """An example from plain values."""
    made = tf.train.Example()
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if isinstance(items[0], bytes):
            made.features.feature[name].bytes_list.value.extend(items)
        elif isinstance(items[0], int):
            made.features.feature[name].int64_list.value.extend(items)
        else:
            made.features.feature[name].float_list.value.extend(items)
    return made


def write_shard(path: Path, records: list[bytes]) -> str:
    """Writes a GZIP TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for record in records:
            writer.write(record)
    return str(path)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Shards by split: 4 training cases of 6 slices with 2 lesion slices each, 2 validation cases."""
    root = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(7)
    train = [
        write_shard(
            root / "Split-train" / f"examples-{number}.gz",
            make_case(f"t{2 * number}", 6, 2, rng) + make_case(f"t{2 * number + 1}", 6, 2, rng),
        )
        for number in range(2)
    ]
    val = [write_shard(root / "Split-val" / "examples-0.gz", make_case("v0", 5, 2, rng) + make_case("v1", 4, 3, rng))]
    return {"train": train, "val": val}


@pytest.fixture(scope="session")
def transform_output(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], str]:
    """Makes the folder of a Transform output with the real preprocessing_fn; made once per kind of input."""
    made: dict[str, str] = {}

    def make(config: dict[str, Any]) -> str:
        key = json.dumps([config["grid"], config["windows"], config["normalisation"]])
        if key not in made:
            made[key] = _transform(config, tmp_path_factory.mktemp("transform"))
        return made[key]

    return make


def _transform(config: dict[str, Any], folder: Path) -> str:
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

    from components.transform.preprocessing import CONFIG_KEY, preprocessing_fn

    schema = text_format.Parse(SCHEMA.read_text(), schema_pb2.Schema())
    metadata = dataset_metadata.DatasetMetadata(schema)
    context = config["grid"]["context_slices"]
    record = make_case("x", 1, 0, np.random.default_rng(0), context=context)[0]
    parsed = tf.io.parse_single_example(record, schema_utils.schema_as_feature_spec(schema).feature_spec)
    data = [{name: tensor.numpy() for name, tensor in parsed.items()}]
    with (
        beam.Pipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        fn = (pipeline | beam.Create(data), metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, {CONFIG_KEY: json.dumps(config)})
        )
        _ = fn | tft_beam.WriteTransformFn(str(folder / "out"))
    metadata_io.write_metadata(metadata, str(folder / "out" / tft.TFTransformOutput.RAW_METADATA_DIR))
    return str(folder / "out")
