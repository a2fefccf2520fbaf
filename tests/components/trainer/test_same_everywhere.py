"""One scan, one network: in this process, by gRPC, by REST and through the gate's signature, the same outline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.nifti import read_volume
from components.imaging.postprocess import outline, quantise
from components.trainer.export import export_model
from components.trainer.network import build_network
from serving.client.remote import RemoteModel
from serving.contract import Contract
from serving.prediction.outline import Engine, predict_volume
from serving.prediction.predictor import Predictor
from tests.cases import Sample, cuboid
from tests.components.trainer.conftest import small_config
from tests.components.trainer.test_export import contract
from tests.models import postprocess
from tests.serving.server.running import running

SAMPLE = Sample("s", [cuboid((1, 3), (22, 38), (30, 46)), cuboid((3, 4), (36, 44), (20, 28))])


@pytest.mark.parametrize(("normalisation", "context"), [("none", 1), ("brain", 0)])
def test_every_way_to_the_same_mask(
    transform_output: Callable[[dict[str, Any]], str], tmp_path: Path, normalisation: str, context: int
) -> None:
    config = small_config(normalisation=normalisation, context=context)
    output = tft.TFTransformOutput(transform_output(config))
    network = build_network(32, 3 * (2 * context + 1), config["network"], seed=3)
    rng = np.random.default_rng(4)
    for weight in network.weights:
        weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    folder = tmp_path / "ich" / "5"
    made = Contract(**{**vars(contract(config)), "grid_spacing_mm": 6.0})
    export_model(str(folder), network, output, config, made)
    scan = SAMPLE.save(tmp_path / "s.nii.gz")
    volume = read_volume(scan)

    local = Predictor(folder)
    wanted = predict_volume(local, volume, scan)
    probabilities = local.answer(wanted.scan).probabilities
    # An untrained network has no threshold of its own: one among its values, where differences would show.
    post = postprocess(float(np.quantile(probabilities, 0.9)))
    mask = outline(quantise(probabilities), wanted.scan.geometry, post)
    assert 0.01 < mask.mean() < 0.5 and np.ptp(probabilities) > 0.05

    found = {}
    with running(tmp_path / "ich") as served:
        urls = {"grpc": f"grpc://127.0.0.1:{served.grpc_port}", "rest": f"http://127.0.0.1:{served.rest_port}"}
        for name, url in urls.items():
            with RemoteModel(url, batch=2) as remote:
                engine: Engine = remote
                prediction = predict_volume(engine, volume, scan)
                assert prediction.report["model_version"] == "5"
                np.testing.assert_array_equal(prediction.mask, wanted.mask)
                found[name] = remote.answer(wanted.scan).probabilities
    examples = SAMPLE.examples(context_slices=context)
    served_default = tf.saved_model.load(str(folder)).signatures["serving_default"]
    found["gate"] = served_default(examples=tf.constant(examples))["probability"].numpy()
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, probabilities, atol=1e-5, rtol=0, err_msg=name)
        np.testing.assert_array_equal(outline(quantise(values), wanted.scan.geometry, post), mask, err_msg=name)
