"""A server in a thread of this process, and clients that know nothing of it but TF Serving's interfaces."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.server.app import run
from serving.server.messages import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    tf,
)
from serving.server.options import Options
from tests.models import REFERENCE_MEAN_HU

PATIENCE = 60.0
"""Seconds after which a test gives up."""
SIZE = 32


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Both interfaces of a server on this machine."""

    grpc_port: int
    rest_port: int

    def __post_init__(self) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=limits)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request: predict_pb2.PredictRequest, timeout: float = PATIENCE) -> predict_pb2.PredictResponse:
        return self.prediction.Predict(request, timeout=timeout)

    def http(self, path: str, body: bytes | dict[str, Any] | None = None, method: str = "", **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=PATIENCE)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, named)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """The value of one line of the metrics, 0 where it is not there."""
        for found in self.http("/monitoring/prometheus/metrics").body.decode().splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0


@contextmanager
def running(model: Path, **options: Any) -> Iterator[Client]:
    """A server at ports of its own, stopped at the end."""
    with stoppable(model, **options) as (client, _):
        yield client


@contextmanager
def stoppable(model: Path, **options: Any) -> Iterator[tuple[Client, Callable[[], threading.Thread]]]:
    """The same, with what tells it to stop and returns the thread that ends then."""
    chosen = Options(model=model, **{"grpc_port": 0, "rest_port": 0, "poll_seconds": 0.02, **options})
    told: queue.Queue[Any] = queue.Queue()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def started(grpc_port: int, rest_port: int) -> None:
            told.put((Client(grpc_port, rest_port), lambda: loop.call_soon_threadsafe(stop.set)))

        await run(chosen, lambda line: None, stop, started)

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            told.put(error)

    worker = threading.Thread(target=thread)
    worker.start()
    found = told.get(timeout=PATIENCE)
    if isinstance(found, BaseException):
        worker.join(PATIENCE)
        raise found
    client, end = found

    def stop() -> threading.Thread:
        if worker.is_alive():
            end()
        return worker

    try:
        yield client, stop
    finally:
        client.channel.close()
        stop().join(PATIENCE)
        assert not worker.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def hu(count: int, seed: int = 0, slices: int = 1) -> np.ndarray:
    """HU about the level of the tiny networks, int16 of shape (count, slices, 32, 32)."""
    return np.random.default_rng(seed).integers(-50, 120, (count, slices, SIZE, SIZE)).astype(np.int16)


def request(
    inputs: dict[str, np.ndarray], signature: str = "predict_slices", name: str = "ich", version: int | None = None
) -> predict_pb2.PredictRequest:
    """A Predict request as any client would make it."""
    made = predict_pb2.PredictRequest()
    made.model_spec.name = name
    made.model_spec.signature_name = signature
    if version is not None:
        made.model_spec.version.value = version
    for key, values in inputs.items():
        made.inputs[key].CopyFrom(tf.make_tensor_proto(values))
    return made


def brain(count: int) -> dict[str, np.ndarray]:
    """The brain's figures that go with slices of a model that wants them."""
    mean = np.linspace(REFERENCE_MEAN_HU - 5, REFERENCE_MEAN_HU + 5, count).astype(np.float32)
    return {"brain_hu_mean": mean, "brain_hu_sd": np.full(count, 8, np.float32)}
