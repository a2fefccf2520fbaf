"""Stand-ins for TF Serving that speak its APIs, compute with NumPy and fail as a test wants."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np

from serving.contract import Contract
from tests.models import Arithmetic, contract

HTTP = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The status by which TF Serving's REST API says what gRPC says by name."""

Compute = Callable[[dict[str, np.ndarray]], np.ndarray]


class Fault(Exception):  # noqa: N818 - what the server means to say
    """What the server answers instead; `DROP` closes the connection without an answer."""

    def __init__(self, code: str, words: str = "the reason") -> None:
        super().__init__(words)
        self.code = code


DROP = "DROP"


@dataclass(frozen=True)
class Asked:
    """A request as the server sees it; `version` is 0 where none was given."""

    signature: str
    version: int
    inputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class Version:
    """A model's version: what it computes, and the text that describes it."""

    compute: Compute
    contract: str


def version(network: Arithmetic | None = None, **changes: Any) -> Version:
    """A version that computes with NumPy."""
    network = network or Arithmetic()
    kind = {"normalisation": "brain" if network.brain else "none", "input": "scan" if network.across else "slices"}

    def compute(inputs: dict[str, np.ndarray]) -> np.ndarray:
        mean = inputs["brain_hu_mean"][0] if network.brain else float("nan")
        return network.numpy(inputs["hu"], mean).astype(np.float32)

    made: Contract = contract(**{**kind, **changes})
    return Version(compute, made.to_json())


@dataclass
class Backend:
    """A model with its versions in service.

    Attributes:
        versions: By number.
        name: Of the model.
        script: Called before a request is answered, by many threads; may raise `Fault`, wait, or change the versions.
        tamper: Changes an answer of `predict_slices`.
        asked: All requests so far.
        most: Largest number of requests that were in flight at a time.
        claims: Version that gRPC answers name; None for the true one.
        connections: Made so far, by REST.
    """

    versions: dict[int, Version]
    name: str = "ich"
    script: Callable[[Asked], None] = lambda asked: None
    tamper: Callable[[np.ndarray], np.ndarray] = lambda values: values
    asked: list[Asked] = field(default_factory=list)
    most: int = 0
    claims: int | None = None
    connections: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0

    def count(self, signature: str = "predict_slices") -> int:
        """Requests of a signature so far."""
        return sum(item.signature == signature for item in self.asked)

    def answer(self, name: str, asked: Asked) -> tuple[str, np.ndarray, int]:
        """Name and values of the only output, and the version."""
        with self._lock:
            self.asked.append(asked)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self.script(asked)
            if name != self.name or not self.versions:
                raise Fault("NOT_FOUND", f"Servable not found for request: Latest({name})")
            number = asked.version or max(self.versions)
            if number not in self.versions:
                raise Fault("NOT_FOUND", f"Servable not found for request: Specific({name}, {number})")
            chosen = self.versions[number]
            if asked.signature == "describe":
                return "contract", np.array([chosen.contract] * len(asked.inputs["query"]), object), number
            return "probability", self.tamper(chosen.compute(asked.inputs)), number
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def serve_grpc(
    backend: Backend, port: int = 0, packed: bool = False, options: Sequence[tuple[str, int]] = ()
) -> Iterator[str]:
    """The gRPC API on a free port; its URL.

    Args:
        backend: What answers.
        port: The port, 0 for a free one.
        packed: Answers hold bytes; TF Serving's hold lists.
        options: Of gRPC, in place of unlimited messages.
    """
    from serving.prediction.tensorflow_only import tensorflow_without_keras

    tf = tensorflow_without_keras()
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
            spec = request.model_spec
            # Values travel as bytes: a list of them would be slow.
            assert all(not tensor.int_val and not tensor.float_val for tensor in request.inputs.values())
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            try:
                name, values, number = backend.answer(spec.name, Asked(spec.signature_name, spec.version.value, inputs))
            except Fault as fault:
                if fault.code == DROP:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                context.abort(getattr(grpc.StatusCode, fault.code), str(fault))
            answer = predict_pb2.PredictResponse()
            answer.model_spec.name = spec.name
            answer.model_spec.version.value = number if backend.claims is None else backend.claims
            tensor = tf.make_tensor_proto(values)
            if values.dtype == np.float32 and not packed:
                tensor.tensor_content = b""
                tensor.float_val[:] = values.ravel().tolist()
            answer.outputs[name].CopyFrom(tensor)
            return answer

    pool = ThreadPoolExecutor(16)
    unlimited = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(pool, options=options or unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    bound = server.add_insecure_port(f"localhost:{port}")
    server.start()
    try:
        yield f"grpc://localhost:{bound}"
    finally:
        server.stop(0).wait()
        pool.shutdown(wait=False)


@contextmanager
def serve_rest(backend: Backend, port: int = 0) -> Iterator[str]:
    """The REST API on a free port; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body go out as two writes, the second of which would wait for the first one's receipt.
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            backend.connections += 1

        def do_GET(self) -> None:
            if self.path != f"/v1/models/{backend.name}" or not backend.versions:
                return self._send(404, {"error": f"Could not find any versions of model {self.path.split('/')[-1]}"})
            states = [
                {"version": str(number), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
                for number in backend.versions
            ]
            return self._send(200, {"model_version_status": states})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Encoding"] == "gzip"
            tree = json.loads(gzip.decompress(raw))
            start, _, number = self.path.removesuffix(":predict").partition("/versions/")
            kinds = {"hu": np.int16, "query": object}
            inputs = {key: np.array(value, kinds.get(key, np.float32)) for key, value in tree["inputs"].items()}
            try:
                _, values, _ = backend.answer(
                    start.removeprefix("/v1/models/"), Asked(tree["signature_name"], int(number or 0), inputs)
                )
            except Fault as fault:
                if fault.code == DROP:
                    self.close_connection = True
                    return None
                return self._send(HTTP[fault.code], {"error": str(fault)})
            return self._send(200, {"outputs": values.tolist()})

        def _send(self, status: int, tree: dict[str, Any]) -> None:
            body = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving_http(Handler, port) as bound:
        yield f"http://localhost:{bound}"


@contextmanager
def serving_http(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[int]:
    """An HTTP server; its port."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that gave up

    server = Server(("localhost", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SERVE = {"grpc": serve_grpc, "rest": serve_rest}
