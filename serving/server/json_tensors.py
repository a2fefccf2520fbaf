"""TF Serving's JSON: requests to arrays, and arrays to answers."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.server.loaded import Loaded, Signature, Wanted
from serving.server.predict import check_names
from serving.server.refusal import invalid


@dataclass(frozen=True)
class JsonRequest:
    """A request as it stands in the body.

    Attributes:
        signature: What is to be computed.
        inputs: By name, of the types and shapes that the signature wants.
        rows: One instance after the other, so the answer is of that form too.
    """

    signature: Signature
    inputs: dict[str, np.ndarray]
    rows: bool


def read_request(body: bytes, version: Loaded) -> JsonRequest:
    """Reads the body of a request to predict.

    Raises:
        Refusal: It is not JSON, or does not fit the signature.
    """
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body is not JSON") from None
    if not isinstance(tree, dict):
        raise invalid('the body is not a JSON object with "instances" or "inputs"')
    name = tree.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("signature_name: is not a string")
    signature = version.signature(name)
    if not signature.inputs:
        raise invalid(f"signature {signature.name}: has no inputs, and REST wants some")
    if ("instances" in tree) == ("inputs" in tree):
        raise invalid('wanted either "instances" or "inputs"')
    rows = "instances" in tree
    columns = _columns(tree["instances"], signature) if rows else _named(tree["inputs"], signature)
    check_names(signature, columns)
    return JsonRequest(
        signature, {key: _array(key, value, signature.inputs[key]) for key, value in columns.items()}, rows
    )


def write_answer(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """The answer to a request of rows or of columns."""
    values = {name: _plain(name, array) for name, array in outputs.items()}
    key = "predictions" if rows else "outputs"
    if len(values) == 1:
        return json.dumps({key: next(iter(values.values()))}).encode()
    if not rows:
        return json.dumps({key: values}).encode()
    return json.dumps(
        {key: [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}
    ).encode()


def _columns(instances: Any, signature: Signature) -> dict[str, Any]:
    """By input, what all instances hold of it."""
    if not isinstance(instances, list) or not instances:
        raise invalid("instances: wanted a list of at least one")
    named = [_is_named(instance) for instance in instances]
    if not any(named):
        return {_only(signature, "instances"): instances}
    if not all(named):
        raise invalid("instances: wanted all of them as objects, or none")
    for instance in instances:
        check_names(signature, instance)
    return {name: [instance[name] for instance in instances] for name in signature.inputs}


def _named(inputs: Any, signature: Signature) -> dict[str, Any]:
    return inputs if _is_named(inputs) else {_only(signature, "inputs"): inputs}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and set(value) != {"b64"}


def _only(signature: Signature, key: str) -> str:
    if len(signature.inputs) > 1:
        raise invalid(f"{key}: wanted objects with {', '.join(sorted(signature.inputs))}")
    return next(iter(signature.inputs))


def _array(name: str, value: Any, wanted: Wanted) -> np.ndarray:
    try:
        if wanted.dtype == object:
            array = np.array(_bytes(name, value), object)
        else:
            array = _numbers(name, np.array(value), wanted)
    except ValueError:  # also of NumPy, for lists of different lengths
        raise invalid(f"input {name}: wanted lists of one length at each level") from None
    wanted.check(name, wanted.type_name, array.shape)
    return array


def _numbers(name: str, array: np.ndarray, wanted: Wanted) -> np.ndarray:
    kinds = {"i": "iu", "u": "iu", "f": "iuf", "b": "b"}[wanted.dtype.kind]
    if array.size and array.dtype.kind not in kinds:
        raise invalid(f"input {name}: holds what is no {wanted.type_name}")
    if array.size and wanted.dtype.kind in "iu":
        bounds = np.iinfo(wanted.dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise invalid(f"input {name}: holds numbers outside {wanted.type_name} ({bounds.min} to {bounds.max})")
    with np.errstate(over="ignore"):
        made = array.astype(wanted.dtype)
    if wanted.dtype.kind == "f" and (np.isinf(made) & ~np.isinf(array)).any():
        raise invalid(f"input {name}: holds numbers outside {wanted.type_name}")
    return made


def _bytes(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_bytes(name, item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            raise invalid(f"input {name}: holds what is no base64") from None
    raise invalid(f'input {name}: wanted strings or {{"b64": ...}}')


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):  # TF Serving's convention for what is no text
        flat = [{"b64": base64.b64encode(value).decode("ascii")} for value in array.flat]
    else:
        flat = [value.decode("utf-8", "replace") for value in array.flat]
    return np.array(flat, object).reshape(array.shape).tolist()
