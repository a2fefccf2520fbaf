"""The traced transform graph against NumPy: windows, normalisation, the order of channels, shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from components.transform.preprocessing import CONFIG_KEY, preprocessing_fn
from components.transform.windows import REFERENCE_BRAIN_HU, SCALE_LIMITS
from schema import features as f

SIZE = 8
SCHEMA = Path(__file__).parents[3] / "schema" / "schema.pbtxt"
WINDOWS: list[dict[str, Any]] = [
    {"name": "brain", "level": 40.0, "width": 80.0},
    {"name": "wide", "level": 300.0, "width": 2000.0},
]


def settings(context: int, normalisation: str) -> dict[str, Any]:
    """The configuration as the pipeline hands it over."""
    sections = {
        "grid": {"size": SIZE, "spacing_mm": 20.0, "context_slices": context},
        "windows": WINDOWS,
        "normalisation": normalisation,
    }
    return {CONFIG_KEY: json.dumps(sections), "code_version": "1"}


def raw(n: int, hu: np.ndarray, mask: np.ndarray | None = None, **scalars: list[float]) -> dict[str, list[Any]]:
    """Raw features of `n` examples; what the transform does not use gets any value."""
    spec = feature_spec()
    batch: dict[str, list[Any]] = {}
    for name, feature in spec.items():
        size = int(np.prod(feature.shape))
        value: Any = b"" if feature.dtype == tf.string else 0 if feature.dtype == tf.int64 else 0.0
        batch[name] = [value if not feature.shape else [value] * size] * n
    masks = np.zeros((n, SIZE, SIZE), np.uint8) if mask is None else mask
    batch[f.IMAGE] = [plane.astype("<i2").tobytes() for plane in hu]
    batch[f.MASK] = [plane.tobytes() for plane in masks]
    batch.update(scalars)
    return batch


def feature_spec() -> dict[str, Any]:
    """TensorFlow's parsing specification of the curated schema."""
    schema = text_format.Parse(SCHEMA.read_text(), schema_pb2.Schema())
    return dict(schema_utils.schema_as_feature_spec(schema).feature_spec)


def analyse(folder: Path, custom_config: dict[str, Any], context: int) -> tft.TFTransformOutput:
    """Runs Transform's analysis with the real schema on two slices."""
    metadata = dataset_metadata.DatasetMetadata(text_format.Parse(SCHEMA.read_text(), schema_pb2.Schema()))
    batch = raw(2, np.zeros((2, 2 * context + 1, SIZE, SIZE)))
    rows = [{name: np.asarray(values[index]) for name, values in batch.items()} for index in range(2)]
    with (
        beam.Pipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(folder / "tmp")),
    ):
        function = (pipeline | beam.Create(rows), metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, custom_config)
        )
        _ = function | tft_beam.WriteTransformFn(str(folder / "out"))
    return tft.TFTransformOutput(str(folder / "out"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tft.TFTransformOutput]:
    """Transform graphs of both normalisations, the first with one neighbour a side."""
    return {
        "none": analyse(tmp_path_factory.mktemp("none"), settings(1, "none"), 1),
        "brain": analyse(tmp_path_factory.mktemp("brain"), settings(0, "brain"), 0),
    }


def apply(output: tft.TFTransformOutput, batch: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """What the saved graph makes of a batch."""
    tensors = {name: tf.constant(values, spec.dtype) for (name, spec), values in zip(
        feature_spec().items(), (batch[name] for name in feature_spec()), strict=True)}  # fmt: skip
    found = output.transform_raw_features(tensors)
    return {name: tensor.numpy() for name, tensor in found.items()}


def windowed(hu: np.ndarray | float, level: float, width: float) -> np.ndarray:
    """The definition of an HU window."""
    return np.clip((hu - (level - width / 2)) / width, 0, 1)


def test_windows_by_hand(outputs: dict[str, tft.TFTransformOutput]) -> None:
    hu = np.zeros((1, 3, SIZE, SIZE))
    values = [-1024, -1, 0, 1, 40, 79, 80, 81, 300, 1299, 1300, 3071]
    hu[0, 1].flat[: len(values)] = values
    found = apply(outputs["none"], raw(1, hu))[f.IMAGE_XF][0].reshape(-1, 6)[: len(values)]
    # Channels: slice below, the slice, slice above; each through brain, then wide.
    np.testing.assert_allclose(
        found[:, 2], [0, 0, 0, 1 / 80, 0.5, 79 / 80, 1, 1, 1, 1, 1, 1], atol=1e-6
    )  # fmt: skip
    np.testing.assert_allclose(
        found[:, 3], [0, 0.3495, 0.35, 0.3505, 0.37, 0.3895, 0.39, 0.3905, 0.5, 0.9995, 1, 1], atol=1e-6
    )
    np.testing.assert_allclose(found[:, [0, 4]], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, [1, 5]], 0.35, atol=1e-6)


def test_context_comes_slice_by_slice_from_below_to_above(outputs: dict[str, tft.TFTransformOutput]) -> None:
    rng = np.random.default_rng(1)
    hu = rng.integers(-200, 400, (4, 3, SIZE, SIZE))
    found = apply(outputs["none"], raw(4, hu))[f.IMAGE_XF]
    wanted = np.stack(
        [
            windowed(hu[:, position], window["level"], window["width"])
            for position in range(3)
            for window in WINDOWS
        ],
        axis=-1,
    )  # fmt: skip
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_normalisation_the_brain_does_not_matter(outputs: dict[str, tft.TFTransformOutput]) -> None:
    hu = np.random.default_rng(2).integers(-100, 200, (1, 3, SIZE, SIZE))
    plain, other = (
        apply(outputs["none"], raw(1, hu, brain_hu_mean=[mean], brain_hu_sd=[sd]))[f.IMAGE_XF]
        for mean, sd in ((0.0, 0.0), (60.0, float("nan")))
    )
    np.testing.assert_array_equal(plain, other)


def test_normalisation_patient_by_patient(outputs: dict[str, tft.TFTransformOutput]) -> None:
    """The reference brain stays, a shifted one comes back, a wide one is narrowed, NaN changes nothing."""
    hu = np.random.default_rng(3).integers(-50, 150, (6, 1, SIZE, SIZE))
    mean, sd = REFERENCE_BRAIN_HU
    means = [mean, mean + 10, mean, float("nan"), 20.0, mean - 5]
    deviations = [sd, sd, 2 * sd, sd, float("nan"), sd / 1.5]
    wanted = hu[:, 0].astype(float)
    wanted[1] -= 10
    wanted[2] = (wanted[2] - 33) / 2 + 33
    wanted[5] = (wanted[5] - 28) * 1.5 + 33
    found = apply(outputs["brain"], raw(6, hu, brain_hu_mean=means, brain_hu_sd=deviations))[f.IMAGE_XF]
    np.testing.assert_allclose(found[..., 0], windowed(wanted, 40, 80), atol=1e-5)
    np.testing.assert_allclose(found[..., 1], windowed(wanted, 300, 2000), atol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("sd", "gain"), [(0.0, SCALE_LIMITS[1]), (1e-9, SCALE_LIMITS[1]), (1e3, SCALE_LIMITS[0])])
def test_a_strange_deviation_stretches_no_further_than_the_limits(
    outputs: dict[str, tft.TFTransformOutput], sd: float, gain: float
) -> None:
    hu = np.full((1, 1, SIZE, SIZE), 43)
    found = apply(outputs["brain"], raw(1, hu, brain_hu_mean=[33.0], brain_hu_sd=[sd]))[f.IMAGE_XF]
    np.testing.assert_allclose(found[..., 0], windowed(33 + 10 * gain, 40, 80), atol=1e-6)


def test_mask_coverage_is_scaled_to_one(outputs: dict[str, tft.TFTransformOutput]) -> None:
    mask = np.zeros((2, SIZE, SIZE), np.uint8)
    mask[0, 0, :4] = [0, 51, 128, 255]
    mask[1, 7, 7] = 255
    found = apply(outputs["brain"], raw(2, np.zeros((2, 1, SIZE, SIZE)), mask))[f.MASK_XF]
    assert found.shape == (2, SIZE, SIZE, 1)
    np.testing.assert_allclose(found[0, 0, :4, 0], [0, 0.2, 128 / 255, 1], atol=1e-7)
    assert found.sum() == pytest.approx(0.2 + 128 / 255 + 2, abs=1e-6)
    assert found[1, 7, 7, 0] == 1


def test_bytes_are_little_endian_rows_first(outputs: dict[str, tft.TFTransformOutput]) -> None:
    hu = np.zeros((1, 1, SIZE, SIZE), np.int64)
    hu[0, 0, 2, 5] = 256 + 44  # bytes in the wrong order would be 11265
    found = apply(outputs["brain"], raw(1, hu, brain_hu_mean=[float("nan")], brain_hu_sd=[float("nan")]))[f.IMAGE_XF]
    assert found[0, 2, 5, 1] == pytest.approx(0.5, abs=1e-6)
    assert found[0, 5, 2, 1] == pytest.approx(0.35, abs=1e-6)


@pytest.mark.parametrize(("kind", "channels"), [("none", 6), ("brain", 2)])
def test_shapes_are_static(outputs: dict[str, tft.TFTransformOutput], kind: str, channels: int) -> None:
    spec = outputs[kind].transformed_feature_spec()
    assert set(spec) == {f.IMAGE_XF, f.MASK_XF}
    assert spec[f.IMAGE_XF].shape == [SIZE, SIZE, channels]
    assert spec[f.MASK_XF].shape == [SIZE, SIZE, 1]
    assert {item.dtype for item in spec.values()} == {tf.float32}


def test_there_is_nothing_to_learn_from_the_data() -> None:
    """Without analyzers Transform needs no pass over the images: the pipeline counts on it."""
    specs = {name: tf.TensorSpec([None, *feature.shape], feature.dtype) for name, feature in feature_spec().items()}

    def traced(inputs: Any) -> Any:
        return preprocessing_fn(inputs, settings(0, "brain"))

    assert tft.get_analyze_input_columns(traced, specs) == []
    assert set(tft.get_transform_input_columns(traced, specs)) == {*f.SERVING_FEATURES, f.MASK}


@pytest.mark.parametrize("wrong", [SIZE * SIZE - 1, SIZE * SIZE * 2, 0])
def test_an_image_of_another_size_is_an_error_and_not_a_reshaped_batch(
    outputs: dict[str, tft.TFTransformOutput], wrong: int
) -> None:
    batch = raw(1, np.zeros((1, 1, SIZE, SIZE)))
    batch[f.IMAGE] = [np.zeros(wrong, "<i2").tobytes()]
    with pytest.raises(tf.errors.InvalidArgumentError):
        apply(outputs["brain"], batch)
