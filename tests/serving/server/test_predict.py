"""Requests to predict over both interfaces: values, forms, and each mistake with its code."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.contract import Contract
from serving.prediction.predictor import Predictor
from serving.server.messages import classification_pb2, inference_pb2, predict_pb2, regression_pb2, tf
from serving.signatures import serialised
from tests.cases import Sample, cuboid
from tests.models import Arithmetic
from tests.serving.server.running import SIZE, Client, brain, hu, request

PREDICT = "/v1/models/ich:predict"
Change = Callable[[predict_pb2.PredictRequest], None]


def column(values: Any, signature: str = "predict_slices") -> dict[str, Any]:
    return {"signature_name": signature, "inputs": values.tolist() if isinstance(values, np.ndarray) else values}


# --- values


def test_values_are_those_of_the_engine_in_process(client: Client, exported: dict[str, Path]) -> None:
    scan = Sample("s", [cuboid((1, 3), (26, 38), (26, 38))]).scan()
    wanted = Predictor(exported["plain"]).answer(scan).probabilities
    examples = scan.examples(0)
    over_grpc = client.predict(request({"hu": examples}))
    np.testing.assert_array_equal(tf.make_ndarray(over_grpc.outputs["probability"]), wanted)
    over_rest = client.http(PREDICT, column(examples))
    np.testing.assert_allclose(over_rest.json["outputs"], wanted, atol=1e-7)
    assert 0 < (wanted > 0.5).mean() < 0.2


def test_an_answer_says_what_gave_it(client: Client) -> None:
    spec = client.predict(request({"hu": hu(1)})).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("ich", 7, "predict_slices")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_slices(client: Client, count: int) -> None:
    found = tf.make_ndarray(client.predict(request({"hu": hu(count)})).outputs["probability"])
    assert found.shape == (count, SIZE, SIZE)
    np.testing.assert_allclose(found, Arithmetic().numpy(hu(count)), atol=1e-6)


def test_values_may_come_one_by_one_instead_of_as_bytes(client: Client) -> None:
    asked = request({"hu": hu(1)})
    values = [int(value) for value in hu(1).ravel()]
    asked.inputs["hu"].ClearField("tensor_content")
    asked.inputs["hu"].int_val.extend(values)
    found = tf.make_ndarray(client.predict(asked).outputs["probability"])
    np.testing.assert_allclose(found, Arithmetic().numpy(hu(1)), atol=1e-6)


def test_without_a_signature_examples_are_wanted(client: Client) -> None:
    examples = serialised({"hu": hu(2)})
    wanted = Arithmetic().numpy(hu(2))
    found = client.predict(request({"examples": np.array(examples, object)}, signature=""))
    assert found.model_spec.signature_name == "serving_default"
    np.testing.assert_allclose(tf.make_ndarray(found.outputs["probability"]), wanted, atol=1e-6)
    packed = [{"b64": base64.b64encode(example).decode()} for example in examples]
    for instances in (packed, [{"examples": item} for item in packed]):
        reply = client.http(PREDICT, {"instances": instances})
        np.testing.assert_allclose(reply.json["predictions"], wanted, atol=1e-6)


def test_the_contract_over_both(client: Client) -> None:
    found = client.predict(request({"query": np.array([b"?"], object)}, "describe"))
    text = tf.make_ndarray(found.outputs["contract"])[0]
    assert Contract.from_json(text).grid_size == SIZE
    reply = client.http(PREDICT, {"signature_name": "describe", "instances": ["?", "?"]})
    assert reply.json["predictions"] == [text.decode()] * 2
    assert reply.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("form", ["list", "objects", "inputs", "named inputs"])
def test_every_form_of_json(client: Client, form: str) -> None:
    values = hu(2)
    key, body = {
        "list": ("predictions", {"instances": values.tolist()}),
        "objects": ("predictions", {"instances": [{"hu": item.tolist()} for item in values]}),
        "inputs": ("outputs", {"inputs": values.tolist()}),
        "named inputs": ("outputs", {"inputs": {"hu": values.tolist()}}),
    }[form]
    reply = client.http("/v1/models/ich/versions/7:predict", {"signature_name": "predict_slices", **body})
    assert set(reply.json) == {key}
    np.testing.assert_allclose(reply.json[key], Arithmetic().numpy(values), atol=1e-6)


def test_several_inputs(brain_client: Client) -> None:
    inputs = {"hu": hu(3), **brain(3)}
    network = Arithmetic(brain=True, level=35.0)
    mean = inputs["brain_hu_mean"].reshape(-1, 1, 1)
    wanted = np.stack([network.numpy(inputs["hu"][i : i + 1], float(mean[i, 0, 0]))[0] for i in range(3)])
    found = brain_client.predict(request(inputs))
    np.testing.assert_allclose(tf.make_ndarray(found.outputs["probability"]), wanted, atol=1e-5)
    rows = [{name: values[i].tolist() for name, values in inputs.items()} for i in range(3)]
    reply = brain_client.http(PREDICT, {"signature_name": "predict_slices", "instances": rows})
    np.testing.assert_allclose(reply.json["predictions"], wanted, atol=1e-5)


def test_inputs_that_disagree_are_not_spread_over_each_other(brain_client: Client) -> None:
    inputs = {"hu": hu(3), **brain(1)}
    with pytest.raises(grpc.RpcError, match="1 and 3 items") as caught:
        brain_client.predict(request(inputs))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_packed_body(client: Client) -> None:
    body = gzip.compress(json.dumps(column(hu(1))).encode())
    reply = client.http(PREDICT, body, Content_Encoding="gzip")
    np.testing.assert_allclose(reply.json["outputs"], Arithmetic().numpy(hu(1)), atol=1e-6)
    broken = client.http(PREDICT, b"no gzip at all", Content_Encoding="gzip")
    assert broken.status == 400
    assert "error" in broken.json


def test_outputs_that_are_named(client: Client) -> None:
    asked = request({"hu": hu(1)})
    asked.output_filter.append("probability")
    assert set(client.predict(asked).outputs) == {"probability"}


# --- mistakes


def spoiled(**changes: Any) -> Change:
    """Sets fields of the tensor that is sent."""

    def change(asked: predict_pb2.PredictRequest) -> None:
        tensor = asked.inputs["hu"]
        for name, value in changes.items():
            tensor.ClearField(name)
            if name == "tensor_content":
                tensor.tensor_content = value
            elif name == "dtype":
                tensor.dtype = value
            else:
                tensor.tensor_shape.CopyFrom(value)

    return change


def shape(*sizes: int) -> Any:
    return tf.TensorShape(sizes).as_proto()


def negative() -> Any:
    made = shape(1, 1, SIZE, SIZE)
    made.dim[0].size = -1
    return made


GRPC_MISTAKES: dict[str, tuple[predict_pb2.PredictRequest, Change, str, str]] = {
    "no model": (request({"hu": hu(1)}, name=""), lambda _: None, "INVALID_ARGUMENT", "no model"),
    "unknown model": (request({"hu": hu(1)}, name="x"), lambda _: None, "NOT_FOUND", "this server has ich"),
    "unknown version": (request({"hu": hu(1)}, version=8), lambda _: None, "NOT_FOUND", "version 8"),
    "version 0": (request({"hu": hu(1)}, version=0), lambda _: None, "NOT_FOUND", "version 0"),
    "label": (
        request({"hu": hu(1)}),
        lambda asked: setattr(asked.model_spec, "version_label", "newest"),
        "INVALID_ARGUMENT",
        "wanted stable or canary",
    ),
    "unknown signature": (request({"hu": hu(1)}, "x"), lambda _: None, "FAILED_PRECONDITION", "predict_slices"),
    "dtype": (
        request({"hu": hu(1).astype(np.float32)}),
        lambda _: None,
        "INVALID_ARGUMENT",
        "found type float32, wanted int16",
    ),
    "rank": (request({"hu": hu(1)[0]}), lambda _: None, "INVALID_ARGUMENT", r"wanted \(n, 1, 32, 32\)"),
    "shape": (request({"hu": hu(1)[..., :31]}), lambda _: None, "INVALID_ARGUMENT", r"found shape \(1, 1, 32, 31\)"),
    "missing": (request({}), lambda _: None, "INVALID_ARGUMENT", "input hu is missing"),
    "unknown input": (
        request({"hu": hu(1), "x": hu(1)}),
        lambda _: None,
        "INVALID_ARGUMENT",
        "1 of the inputs unknown",
    ),
    "content too short": (request({"hu": hu(1)}), spoiled(tensor_content=b"abc"), "INVALID_ARGUMENT", "1024 values"),
    "no type": (request({"hu": hu(1)}), spoiled(dtype=0), "INVALID_ARGUMENT", "type"),
    "unknown type": (request({"hu": hu(1)}), spoiled(dtype=999), "INVALID_ARGUMENT", "type"),
    "no shape": (
        request({"hu": hu(1)}),
        spoiled(tensor_shape=tf.TensorShape(None).as_proto()),
        "INVALID_ARGUMENT",
        "no shape",
    ),
    "negative size": (request({"hu": hu(1)}), spoiled(tensor_shape=negative()), "INVALID_ARGUMENT", "found shape"),
    "few bytes for a huge tensor": (
        request({"hu": hu(1)}),
        spoiled(tensor_shape=shape(1 << 30, 1, SIZE, SIZE)),
        "RESOURCE_EXHAUSTED",
        "larger than 1048576 bytes",
    ),
    "too large": (request({"hu": hu(600)}), lambda _: None, "RESOURCE_EXHAUSTED", "larger than max"),
    "unknown output": (
        request({"hu": hu(1)}),
        lambda asked: asked.output_filter.append("x"),
        "INVALID_ARGUMENT",
        "wanted some of probability",
    ),
    "output twice": (
        request({"hu": hu(1)}),
        lambda asked: asked.output_filter.extend(["probability"] * 2),
        "INVALID_ARGUMENT",
        "twice",
    ),
    "examples that are none": (
        request({"examples": np.array([b"SECRET"], object)}, "serving_default"),
        lambda _: None,
        "INVALID_ARGUMENT",
        "cannot compute what is in examples",
    ),
}


@pytest.mark.parametrize("name", GRPC_MISTAKES)
def test_mistakes_over_grpc(client: Client, name: str) -> None:
    base, change, code, text = GRPC_MISTAKES[name]
    asked = predict_pb2.PredictRequest()
    asked.CopyFrom(base)
    change(asked)
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(asked)
    assert caught.value.code().name == code
    caught.match(text)
    assert "SECRET" not in caught.value.details()


ROW = hu(1).tolist()
REST_MISTAKES: dict[str, tuple[str, Any, int, str]] = {
    "unknown model": ("/v1/models/x:predict", column(ROW), 404, "this server has ich"),
    "unknown version": ("/v1/models/ich/versions/8:predict", column(ROW), 404, "version 8"),
    "version beyond 64 bits": (f"/v1/models/ich/versions/{'9' * 5000}:predict", column(ROW), 400, "larger than"),
    "label": ("/v1/models/ich/labels/newest:predict", column(ROW), 400, "wanted stable or canary"),
    "version that is no number": ("/v1/models/ich/versions/x:predict", column(ROW), 404, "no such path"),
    "unknown signature": (PREDICT, column(ROW, "x"), 400, "predict_slices"),
    "signature that is no string": (PREDICT, {**column(ROW), "signature_name": 1}, 400, "signature_name"),
    "empty": (PREDICT, b"", 400, "not JSON"),
    "malformed": (PREDICT, b'{"inputs": [', 400, "not JSON"),
    "no text": (PREDICT, b"\xff\xfe\xfd", 400, "not JSON"),
    "too deep": (PREDICT, b"[" * 100_000, 400, "not JSON"),
    "deep list": (PREDICT, b'{"signature_name":"predict_slices","inputs":' + b"[" * 90 + b"]" * 90 + b"}", 400, "hu"),
    "a list": (PREDICT, b"[1]", 400, "JSON object"),
    "neither": (PREDICT, {}, 400, "either"),
    "both": (PREDICT, {**column(ROW), "instances": ROW}, 400, "either"),
    "no instances": (PREDICT, {"instances": []}, 400, "at least one"),
    "instances that are no list": (PREDICT, {"instances": "x"}, 400, "at least one"),
    "mixed instances": (PREDICT, {"instances": [{"examples": "a"}, "a"]}, 400, "all of them as objects"),
    "missing": (PREDICT, column({}), 400, "input hu is missing"),
    "unknown input": (PREDICT, column({"hu": ROW, "x": 1}), 400, "unknown"),
    "unknown input of an instance": (
        PREDICT,
        {"signature_name": "predict_slices", "instances": [{"hu": ROW[0], "x": 1}]},
        400,
        "unknown",
    ),
    "fractions": (PREDICT, column(hu(1) + 0.5), 400, "no int16"),
    "strings": (PREDICT, column(np.full((1, 1, SIZE, SIZE), "1")), 400, "no int16"),
    "truth values": (PREDICT, column(np.full((1, 1, SIZE, SIZE), True)), 400, "no int16"),
    "null": (PREDICT, column([None]), 400, "no int16"),
    "beyond int16": (PREDICT, column(np.full((1, 1, SIZE, SIZE), 40000)), 400, "-32768 to 32767"),
    "rank": (PREDICT, column(ROW[0]), 400, "found shape"),
    "shape": (PREDICT, column(hu(1)[..., :31]), 400, r"1, 1, 32, 31"),
    "ragged": (PREDICT, column([[[[1, 2], [1]]]]), 400, "one length"),
    "numbers for strings": (PREDICT, {"instances": [1]}, 400, "wanted strings"),
    "no base64": (PREDICT, {"instances": [{"b64": "***"}]}, 400, "base64"),
    "examples that are none": (PREDICT, {"instances": ["SECRET"]}, 400, "cannot compute what is in examples"),
    "too large": (PREDICT, b" " * ((1 << 20) + 1), 413, "larger than 1048576 bytes"),
    "classify": ("/v1/models/ich:classify", {"examples": []}, 501, ":predict"),
    "regress": ("/v1/models/ich/versions/7:regress", {"examples": []}, 501, ":predict"),
    "unknown method": ("/v1/models/ich:guess", {}, 404, "no such path"),
    "unknown path": ("/v2/models/ich/infer", {}, 404, "no such path"),
    "no model": ("/v1/models", None, 400, "names no model"),
    "GET to predict": (PREDICT, None, 405, "POST"),
    "POST to status": ("/v1/models/ich", {}, 405, "GET"),
}


@pytest.mark.parametrize("name", REST_MISTAKES)
def test_mistakes_over_rest(client: Client, name: str) -> None:
    path, body, status, text = REST_MISTAKES[name]
    reply = client.http(path, body)
    assert reply.status == status
    assert set(reply.json) == {"error"}
    assert text in reply.json["error"]
    assert "SECRET" not in reply.json["error"]


def test_a_small_body_that_unpacks_to_a_large_one(client: Client) -> None:
    reply = client.http(PREDICT, gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")
    assert reply.status == 413
    assert "larger than" in reply.json["error"]


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_what_no_model_here_has(client: Client, method: str) -> None:
    asked = {
        "Classify": classification_pb2.ClassificationRequest,
        "Regress": regression_pb2.RegressionRequest,
        "MultiInference": inference_pb2.MultiInferenceRequest,
    }[method]
    with pytest.raises(grpc.RpcError) as caught:
        getattr(client.prediction, method)(asked(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_server_goes_on_after_every_mistake(client: Client) -> None:
    found = client.predict(request({"hu": hu(1)}))
    np.testing.assert_allclose(tf.make_ndarray(found.outputs["probability"]), Arithmetic().numpy(hu(1)), atol=1e-6)
