"""JSON to arrays and back, over many shapes and values."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.server.json_tensors import read_request, write_answer
from serving.server.loaded import Loaded, Signature, Wanted
from serving.server.refusal import Code, Refusal
from tests.models import contract

TYPES = ("int16", "float32", "bool", "uint8", "int64")


def version(**inputs: Wanted) -> Loaded:
    """A version that computes nothing, with one signature of those inputs."""
    signature = Signature("serving_default", None, inputs, ("out",))
    return Loaded(1, contract(), {signature.name: signature}, {}, None)


def wanted(kind: str, shape: tuple[int | None, ...]) -> Wanted:
    return Wanted(np.dtype(object if kind == "string" else kind), kind, shape)


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=4))
    kind = np.dtype(draw(st.sampled_from(TYPES)))
    elements = {"allow_nan": False} if kind.kind == "f" else None
    return draw(arrays.arrays(kind, shape, elements=elements))


@given(tensors(), st.booleans())
def test_numbers_arrive_as_they_were(values: np.ndarray, rows: bool) -> None:
    served = version(x=wanted(values.dtype.name, (None, *values.shape[1:])))
    body = json.dumps({"instances" if rows else "inputs": values.tolist()}).encode()
    found = read_request(body, served)
    assert found.rows is rows
    assert found.inputs["x"].dtype == values.dtype
    np.testing.assert_array_equal(found.inputs["x"], values)


@given(tensors(), st.booleans())
def test_numbers_leave_as_they_were(values: np.ndarray, rows: bool) -> None:
    tree = json.loads(write_answer({"out": values}, rows))
    found = np.array(tree["predictions" if rows else "outputs"], values.dtype)
    np.testing.assert_array_equal(found, values)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4))
def test_bytes_arrive_and_leave_as_they_were(values: list[bytes]) -> None:
    packed = [{"b64": base64.b64encode(value).decode()} for value in values]
    found = read_request(json.dumps({"instances": packed}).encode(), version(x=wanted("string", (None,))))
    assert found.inputs["x"].tolist() == values
    tree = json.loads(write_answer({"out_bytes": found.inputs["x"]}, True))
    assert tree == {"predictions": packed}


@given(st.text(max_size=8))
def test_text_arrives_and_leaves_as_it_was(text: str) -> None:
    found = read_request(json.dumps({"inputs": [text]}).encode(), version(x=wanted("string", (None,))))
    assert json.loads(write_answer({"out": found.inputs["x"]}, False)) == {"outputs": [text]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_whatever_is_sent_is_read_or_refused(value: Any) -> None:
    served = version(x=wanted("float32", (None, 2)))
    try:
        found = read_request(json.dumps({"inputs": value}).encode(), served)
    except Refusal as refusal:
        assert refusal.code is Code.INVALID_ARGUMENT
    else:
        assert found.inputs["x"].dtype == np.float32
        assert found.inputs["x"].shape[1:] == (2,)


def test_several_outputs() -> None:
    outputs = {"a": np.array([1, 2]), "b": np.array([[3.5], [4.5]])}
    assert json.loads(write_answer(outputs, True)) == {"predictions": [{"a": 1, "b": [3.5]}, {"a": 2, "b": [4.5]}]}
    assert json.loads(write_answer(outputs, False)) == {"outputs": {"a": [1, 2], "b": [[3.5], [4.5]]}}


@pytest.mark.parametrize("value", ["1e40", "[1e40]", "[[1e40, 0]]", "[[1, 99999999999999999999999]]"])
def test_numbers_beyond_float32(value: str) -> None:
    with pytest.raises(Refusal, match="input x"):
        read_request(f'{{"inputs": {value}}}'.encode(), version(x=wanted("float32", (None, 2))))


def test_not_a_number_may_be_sent_as_tensorflow_serving_lets_it() -> None:
    found = read_request(b'{"inputs": [[NaN, Infinity]]}', version(x=wanted("float32", (None, 2))))
    np.testing.assert_array_equal(found.inputs["x"], [[np.nan, np.inf]])


def test_a_signature_without_inputs_is_not_for_rest() -> None:
    with pytest.raises(Refusal, match="no inputs"):
        read_request(b'{"inputs": {}}', version())
