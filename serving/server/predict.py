"""A request, checked against its signature and computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.server.loaded import Loaded, Signature
from serving.server.messages import predict_pb2, tf
from serving.server.refusal import Code, Refusal, invalid


def answer(version: Loaded, request: predict_pb2.PredictRequest, most_bytes: int) -> predict_pb2.PredictResponse:
    """Answers a Predict request.

    Args:
        version: Computes it.
        request: As sent.
        most_bytes: A tensor whose values take more is refused: few bytes can stand for many.

    Raises:
        Refusal: The request does not fit the signature.
    """
    signature = version.signature(request.model_spec.signature_name)
    check_names(signature, request.inputs)
    inputs = {name: _array(name, proto, signature, most_bytes) for name, proto in request.inputs.items()}
    outputs = compute(signature, inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = version.contract.model_name
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = signature.name
    for name, values in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
    return response


def check_names(signature: Signature, sent: Iterable[str]) -> None:
    """Compares the names of the inputs that were sent with those that the signature has.

    Raises:
        Refusal: One is missing, or one too many.
    """
    sent = set(sent)
    missing = sorted(set(signature.inputs) - sent)
    if missing:
        raise invalid(f"signature {signature.name}: input {', '.join(missing)} is missing")
    if unknown := len(sent - set(signature.inputs)):
        raise invalid(
            f"signature {signature.name}: {unknown} of the inputs unknown, wanted {', '.join(sorted(signature.inputs))}"
        )


def compute(
    signature: Signature, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The signature's outputs.

    Args:
        signature: Computes them.
        inputs: By name, of the types and shapes that the signature wants.
        output_filter: Names of the outputs wanted; all without any.

    Raises:
        Refusal: The inputs disagree with each other, an output is unknown, or the model cannot compute.
    """
    if len(set(output_filter)) < len(output_filter):
        raise invalid("output_filter: names an output twice")
    if not set(output_filter) <= set(signature.outputs):
        raise invalid(f"output_filter: names an unknown output; wanted some of {', '.join(signature.outputs)}")
    # One value for all slices would be spread over them silently.
    counts = {len(inputs[name]) for name, wanted in signature.inputs.items() if wanted.shape[:1] == (None,)}
    if len(counts) > 1:
        raise invalid(f"the inputs hold {' and '.join(map(str, sorted(counts)))} items, wanted as many in each")
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    try:
        found: dict[str, Any] = signature.function(**tensors)
        return {name: found[name].numpy() for name in output_filter or signature.outputs}
    # TensorFlow's own words may hold parts of the input.
    except tf.errors.InvalidArgumentError:
        names = ", ".join(sorted(signature.inputs))
        raise invalid(f"signature {signature.name}: the model cannot compute what is in {names}") from None
    except tf.errors.ResourceExhaustedError:
        raise Refusal(Code.RESOURCE_EXHAUSTED, "not enough memory for a request of that size; send fewer") from None


def _array(name: str, proto: Any, signature: Signature, most_bytes: int) -> np.ndarray:
    wanted = signature.inputs[name]
    if proto.tensor_shape.unknown_rank:
        raise invalid(f"input {name}: has no shape")
    try:
        kind = tf.dtypes.as_dtype(proto.dtype)
    except TypeError:
        raise invalid(f"input {name}: has no type, wanted {wanted.type_name}") from None
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    wanted.check(name, kind.name, shape)
    if math.prod(shape) * wanted.dtype.itemsize > most_bytes:
        raise Refusal(Code.TOO_LARGE, f"input {name}: is larger than {most_bytes} bytes, the most that is taken")
    try:
        return tf.make_ndarray(proto)
    except (ValueError, TypeError, OverflowError, IndexError):
        raise invalid(f"input {name}: does not hold the {math.prod(shape)} values of its shape") from None
