"""Serving equals training: three ways to the same probabilities, through a real Transform output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.trainer.export import export_model
from components.trainer.network import build_network
from schema import features as f
from serving.contract import Contract
from serving.versions import read_contract
from serving.warmup import WARMUP_FILE
from tests.components.trainer.conftest import example, make_case, small_config
from tests.models import postprocess
from tests.serving.test_warmup import requests as warmup_requests

Make = Callable[[dict[str, Any]], str]


def contract(config: dict[str, Any]) -> Contract:
    return Contract(
        model_name="ich", grid_size=32, grid_spacing_mm=5.5, context_slices=config["grid"]["context_slices"],
        windows=config["windows"], normalisation=config["normalisation"], postprocess=postprocess().to_dict(),
        data_fingerprint="d", config_fingerprint="c", metrics={"val_dice": 0.5},
    )  # fmt: skip


@pytest.mark.parametrize(("normalisation", "context"), [("none", 0), ("brain", 1)])
def test_all_signatures_agree_with_keras(
    transform_output: Make, tmp_path: Path, normalisation: str, context: int
) -> None:
    config = small_config(normalisation=normalisation, context=context)
    output = tft.TFTransformOutput(transform_output(config))
    channels = 3 * (2 * context + 1)
    network = build_network(32, channels, config["network"], seed=3)
    # Statistics as after training, so that normalisation in the graph is put to the test.
    rng = np.random.default_rng(4)
    for weight in network.weights:
        if weight.name != "kernel":
            weight.assign(weight + np.abs(rng.normal(0, 0.1, weight.shape)))
    export_model(str(tmp_path), network, output, config, contract(config))
    model = tf.saved_model.load(str(tmp_path))

    records = make_case("a", 4, 2, rng, context=context)
    raw = tf.io.parse_example(records, output.raw_feature_spec())
    image = output.transform_features_layer()(raw)[f.IMAGE_XF]
    wanted = tf.sigmoid(network(image, training=False)).numpy()[..., 0]
    assert np.ptp(wanted) > 1e-2

    requests = []
    for record in records:
        whole = tf.train.Example.FromString(record).features.feature
        requests.append(
            example(
                {
                    f.IMAGE: whole[f.IMAGE].bytes_list.value[0],
                    f.BRAIN_HU_MEAN: whole[f.BRAIN_HU_MEAN].float_list.value[0],
                    f.BRAIN_HU_SD: whole[f.BRAIN_HU_SD].float_list.value[0],
                }
            ).SerializeToString()
        )
    served = model.signatures["serving_default"](examples=tf.constant(requests))["probability"].numpy()
    full = model.signatures["serving_default"](examples=tf.constant(records))["probability"].numpy()
    hu = np.stack([np.frombuffer(value.numpy(), "<i2").reshape(-1, 32, 32) for value in raw[f.IMAGE]])
    brain = {"brain_hu_mean": raw[f.BRAIN_HU_MEAN], "brain_hu_sd": raw[f.BRAIN_HU_SD]}
    extra = {name: tf.reshape(value, [-1]) for name, value in brain.items()} if normalisation == "brain" else {}
    direct = model.signatures["predict_slices"](hu=tf.constant(hu), **extra)["probability"].numpy()
    for found in (served, full, direct):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    for request in warmup_requests(tmp_path / WARMUP_FILE):
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        (answer,) = model.signatures[request.model_spec.signature_name](**inputs).values()
        assert len(answer) == len(next(iter(inputs.values())))
        assert answer.dtype == tf.string or np.isfinite(answer).all()


def test_describe_and_the_file_beside_it_say_the_same(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    export_model(str(tmp_path), build_network(32, 3, config["network"]), output, config, contract(config))
    model = tf.saved_model.load(str(tmp_path))
    assert set(model.signatures) == {"serving_default", "predict_slices", "describe"}
    text, again = model.signatures["describe"](query=tf.constant(["", "x"]))["contract"].numpy()
    assert text == again
    assert Contract.from_json(text) == read_contract(tmp_path) == contract(config)
    assert json.loads(text)["metrics"] == {"val_dice": 0.5}


def test_an_empty_request_gives_an_empty_answer(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    export_model(str(tmp_path), build_network(32, 3, config["network"]), output, config, contract(config))
    predict = tf.saved_model.load(str(tmp_path)).signatures["predict_slices"]
    assert predict(hu=tf.zeros([0, 1, 32, 32], tf.int16))["probability"].shape == (0, 32, 32)
