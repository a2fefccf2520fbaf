"""A server that is full, told to stop, or left by its clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from components.imaging.errors import UsageError
from serving.server import predict, rest_server
from serving.server.pool import Pool
from serving.server.refusal import Code, Refusal
from tests.models import Arithmetic
from tests.serving.server.running import PATIENCE, Client, eventually, hu, request, running, stoppable

PREDICT = "/v1/models/ich:predict"
BODY = {"signature_name": "predict_slices", "inputs": hu(1).tolist()}
IN_FLIGHT = "ich_server_in_flight"
WAITING = "ich_server_queue_length"


class Gate:
    """Holds computations until it is opened, and counts them."""

    def __init__(self) -> None:
        self.entered = 0
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def wrap(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any) -> Any:
            self.entered += 1
            assert self._open.wait(PATIENCE)
            return compute(*args)

        return held


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    held = gate.wrap(predict.compute)
    monkeypatch.setattr(predict, "compute", held)
    monkeypatch.setattr(rest_server, "compute", held)
    try:
        yield gate
    finally:
        gate.open()


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_full_server_says_so_at_once(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with running(exported["plain"], threads=1, queue=1) as client, gated(monkeypatch) as gate, threads() as pool:
        over_grpc = pool.submit(client.predict, request({"hu": hu(1)}))
        eventually(lambda: gate.entered == 1)
        over_rest = pool.submit(client.http, PREDICT, BODY)
        eventually(lambda: client.metric(WAITING) == 1)
        assert client.metric(IN_FLIGHT) == 2

        with pytest.raises(grpc.RpcError, match="send it again later") as caught:
            client.predict(request({"hu": hu(1)}))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = client.http(PREDICT, BODY)
        assert refused.status == 429
        assert "send it again later" in refused.json["error"]
        # What asks for no computation is answered all the same.
        assert client.http("/v1/models/ich").status == 200
        assert client.http("/ready").status == 200
        assert gate.entered == 1

        gate.open()
        assert over_grpc.result(PATIENCE).model_spec.version.value == 1
        assert over_rest.result(PATIENCE).status == 200
        assert client.metric(WAITING) == 0
        eventually(lambda: client.metric(IN_FLIGHT) == 0)
        counted = 'ich_server_requests_total{api="%s",code="RESOURCE_EXHAUSTED",signature=""}'
        assert [client.metric(counted % api) for api in ("grpc", "rest")] == [1, 1]


def test_what_nobody_waits_for_is_not_computed(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with running(exported["plain"], threads=1, queue=8) as client, gated(monkeypatch) as gate, threads() as pool:
        first = pool.submit(client.predict, request({"hu": hu(1)}))
        eventually(lambda: gate.entered == 1)

        cancelled = client.prediction.Predict.future(request({"hu": hu(1)}))
        late = client.prediction.Predict.future(request({"hu": hu(1)}), timeout=0.2)
        left = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=PATIENCE)
        left.request("POST", PREDICT, json.dumps(BODY))
        eventually(lambda: client.metric(WAITING) >= 2)
        cancelled.cancel()
        left.close()
        assert late.exception(PATIENCE).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: client.metric(WAITING) == 0)

        gate.open()
        first.result(PATIENCE)
        client.predict(request({"hu": hu(1)}))
        assert gate.entered == 2
        gone = 'ich_server_requests_total{api="%s",code="CANCELLED",signature=""}'
        assert client.metric(gone % "rest") == 1
        assert client.metric(gone % "grpc") >= 1


def test_work_whose_deadline_passed_in_the_queue_is_refused() -> None:
    done: list[int] = []

    async def late() -> None:
        await Pool(1, 0).run(lambda: pytest.fail("computed"), lambda: done.append(1), time.monotonic() - 1)

    with pytest.raises(Refusal) as caught:
        asyncio.run(late())
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert done == [1]


def test_what_was_accepted_is_answered_before_the_end(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with stoppable(exported["plain"]) as (client, stop), gated(monkeypatch) as gate, threads() as pool:
        over_grpc = pool.submit(client.predict, request({"hu": hu(1)}))
        over_rest = pool.submit(client.http, PREDICT, BODY)
        eventually(lambda: gate.entered == 2)
        assert client.http("/ready").json == {"ready": True}
        worker = stop()
        eventually(lambda: client.http("/ready").status == 503)
        refused = client.http(PREDICT, BODY)
        assert (refused.status, refused.json) == (503, {"error": "the server is stopping"})
        with pytest.raises(grpc.RpcError, match="stopping") as caught:
            client.predict(request({"hu": hu(1)}))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert worker.is_alive()
        gate.open()
        assert over_grpc.result(PATIENCE).model_spec.version.value == 1
        np.testing.assert_allclose(over_rest.result(PATIENCE).json["outputs"], Arithmetic().numpy(hu(1)), atol=1e-6)
        worker.join(PATIENCE)
        assert not worker.is_alive()


def test_the_grace_period_ends(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with stoppable(exported["plain"], grace_seconds=0.01) as (client, stop), gated(monkeypatch) as gate:
        asked = client.prediction.Predict.future(request({"hu": hu(1)}))
        eventually(lambda: gate.entered == 1)
        stop().join(PATIENCE)
        assert asked.exception(PATIENCE).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_metrics_count_by_interface_signature_and_code(exported: dict[str, Path]) -> None:
    with running(exported["plain"]) as client:
        client.predict(request({"hu": hu(1)}))
        client.predict(request({"hu": hu(1)}))
        client.http(PREDICT, BODY)
        for signature in ("predict_slices", "NAME OF A PATIENT"):
            with pytest.raises(grpc.RpcError):
                client.predict(request({"x": hu(1)}, signature))
        total = 'ich_server_requests_total{api="%s",code="%s",signature="%s"}'
        assert client.metric(total % ("grpc", "OK", "predict_slices")) == 2
        assert client.metric(total % ("rest", "OK", "predict_slices")) == 1
        assert client.metric(total % ("grpc", "INVALID_ARGUMENT", "predict_slices")) == 1
        assert client.metric(total % ("grpc", "FAILED_PRECONDITION", "")) == 1
        seconds = 'ich_server_request_seconds_count{api="grpc",signature="predict_slices"}'
        assert client.metric(seconds) == 3
        page = client.http("/monitoring/prometheus/metrics")
        assert page.headers["Content-Type"].startswith("text/plain")
        assert "PATIENT" not in page.body.decode()


def test_a_failure_of_the_server_is_logged_without_the_request(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "SECRET"

    def fails(*args: Any) -> None:
        raise RuntimeError(secret)

    with running(exported["plain"]) as client:
        monkeypatch.setattr(predict, "compute", fails)
        monkeypatch.setattr(rest_server, "compute", fails)
        with pytest.raises(grpc.RpcError, match="its log says where") as caught:
            client.predict(request({"hu": hu(1)}))
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert client.http(PREDICT, BODY).status == 500
    assert caplog.text.count("a request failed: RuntimeError") == 2
    assert "in fails" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("option", ["grpc_port", "rest_port"])
def test_a_port_that_is_taken(exported: dict[str, Path], client: Client, option: str) -> None:
    taken = getattr(client, option)
    with (
        pytest.raises(UsageError, match=f"127.0.0.1:{taken}: .* cannot listen there.*--{option.replace('_', '-')}"),
        running(exported["plain"], **{option: taken}),
    ):
        pass


def test_a_host_that_is_not_here(exported: dict[str, Path]) -> None:
    with (
        pytest.raises(UsageError, match=r"192\.0\.2\.1:0: gRPC cannot listen"),
        running(exported["plain"], host="192.0.2.1"),
    ):
        pass
