"""TF Serving's gRPC API."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from serving.client.channel import Busy, Failure, Gone, Inputs, Late, Refused, Unavailable, checked
from serving.client.protos import (
    PredictionServiceStub,
    PredictRequest,
    TensorProto,
    TensorShapeProto,
    types_pb2,
)
from serving.client.url import ServerUrl
from serving.contract import Contract
from serving.signatures import CONTRACT, DESCRIBE_SIGNATURE, PROBABILITY, QUERY, SLICES_SIGNATURE

_FAILURES: dict[grpc.StatusCode, type[Failure]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # by a server that shuts down
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.DEADLINE_EXCEEDED: Late,
    grpc.StatusCode.NOT_FOUND: Gone,
}

_TOO_LARGE = "larger than max"
"""In the words of gRPC, whose code for a message that is too large is the one of a busy server."""

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # the client has its own, which know of versions and deadlines
    # By default a lost connection is tried again after a second, then ever more rarely: longer than the attempts last.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcChannel:
    """A connection to a model, see `serving.client.channel.Channel`."""

    def __init__(self, url: ServerUrl) -> None:
        """Prepares a connection, which is made with the first request."""
        self._url = url
        self._channel = (
            grpc.secure_channel(url.address, grpc.ssl_channel_credentials(), _OPTIONS)
            if url.encrypted
            else grpc.insecure_channel(url.address, _OPTIONS)
        )
        self._stub = PredictionServiceStub(self._channel)

    def describe(self, version: str | None, deadline_s: float) -> tuple[Contract, str]:
        """The contract of a version, and that version."""
        query = _tensor(types_pb2.DT_STRING, (1,), string_val=[b""])
        answer = self._call(DESCRIBE_SIGNATURE, {QUERY: query}, version, deadline_s)
        texts = answer.outputs[CONTRACT].string_val if CONTRACT in answer.outputs else []
        if not texts:
            raise Refused(f"{DESCRIBE_SIGNATURE} answers without {CONTRACT}")
        if not answer.model_spec.version.value:
            raise Refused("the server does not say which version answers")
        return Contract.from_json(texts[0]), str(answer.model_spec.version.value)

    def predict(self, inputs: Inputs, version: str, deadline_s: float) -> np.ndarray:
        """Probabilities of one request by that very version."""
        tensors = {name: _packed(values) for name, values in inputs.items()}
        answer = self._call(SLICES_SIGNATURE, tensors, version, deadline_s)
        by = str(answer.model_spec.version.value)
        if by != version:
            raise Gone(f"version {version} was asked, version {by} answered")
        if PROBABILITY not in answer.outputs:
            raise Refused(f"the answer holds {', '.join(sorted(answer.outputs)) or 'nothing'}, wanted {PROBABILITY}")
        return checked(_values(answer.outputs[PROBABILITY]), inputs)

    def close(self) -> None:
        """Ends the connection, and every request that still waits."""
        self._channel.close()

    def _call(self, signature: str, inputs: dict[str, Any], version: str | None, deadline_s: float) -> Any:
        request = PredictRequest(inputs=inputs)
        request.model_spec.name = self._url.model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = int(version)
        try:
            return self._stub.Predict(request, timeout=deadline_s)
        except grpc.RpcError as error:
            code, words = error.code(), error.details() or ""
            kind = _FAILURES.get(code, Refused)
            if kind is Busy and _TOO_LARGE in words:
                kind = Refused
            raise kind(words if kind is not Refused else f"{code.name}: {words}") from None
        except ValueError:
            raise Refused("the connection is closed") from None


def _packed(values: np.ndarray) -> Any:
    """An int16 or float32 array, its values as one string of bytes."""
    kind = {"i2": types_pb2.DT_INT16, "f4": types_pb2.DT_FLOAT}[values.dtype.str[1:]]
    return _tensor(kind, values.shape, tensor_content=np.ascontiguousarray(values).tobytes())


def _tensor(kind: int, shape: tuple[int, ...], **values: Any) -> Any:
    dims = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype=kind, tensor_shape=TensorShapeProto(dim=dims), **values)


def _values(tensor: Any) -> np.ndarray:
    """The values of a float32 tensor."""
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.dtype != types_pb2.DT_FLOAT:
        names = types_pb2.DataType.DESCRIPTOR.values_by_number
        found = names[tensor.dtype].name if tensor.dtype in names else tensor.dtype
        raise Refused(f"the answer is {found} of shape {shape}, wanted DT_FLOAT")
    # TF Serving fills the list, other servers of this API the bytes.
    packed, listed = tensor.tensor_content, tensor.float_val
    try:
        values = np.frombuffer(packed, "<f4") if packed else np.fromiter(listed, np.float32, len(listed))
        return values.reshape(shape)
    except ValueError:
        raise Refused(f"the answer of shape {shape} holds another number of values") from None
