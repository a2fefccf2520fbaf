"""What only happens over HTTP: servers that are not TF Serving, and answers in pieces."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest

from components.imaging.errors import IchError, UsageError
from serving.client import remote, rest_channel
from serving.client.remote import RemoteModel
from serving.client.rest_channel import RestChannel
from serving.client.url import ServerUrl
from tests.cases import Sample
from tests.models import Arithmetic, contract
from tests.serving.client.servers import Asked, Backend, serve_rest, serving_http, version

JSON = "application/json"
HTML = b"<html><body>Welcome to nginx!</body></html>"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no long pauses."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.01)


Reply = tuple[int, str, bytes] | Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def replying(status: Reply, predict: Reply | None = None) -> Iterator[RemoteModel]:
    """A client of a server that gives the same answer to every GET, and to every POST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(status)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(predict or status)

        def _reply(self, reply: Reply) -> None:
            if callable(reply):
                self.close_connection = True
                return reply(self)
            code, kind, body = reply
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if code in (301, 307):
                self.send_header("Location", "http://localhost:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)
            return None

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with (
        serving_http(Handler) as port,
        RemoteModel(f"http://localhost:{port}", pause_s=0.001, deadline_s=2.0) as model,
    ):
        yield model


def status(**states: str) -> bytes:
    """The status of versions `v5=...`."""
    items = [{"version": name[1:], "state": state, "status": {"error_code": "OK"}} for name, state in states.items()]
    return json.dumps({"model_version_status": items}).encode()


READY = (200, JSON, status(v5="AVAILABLE"))
DESCRIBED = (200, JSON, json.dumps({"outputs": [contract().to_json()]}).encode())


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ((200, "text/html; charset=utf-8", HTML), "HTTP 200 with text/html, wanted TF Serving's JSON"),
        ((404, "text/html", HTML), "HTTP 404 with text/html, wanted TF Serving's JSON"),
        ((403, "text/html", HTML), "HTTP 403 with text/html"),
        ((502, "text/html", HTML), "cannot be reached .HTTP 502 with text/html"),
        ((301, "text/html", HTML), "HTTP 301 with text/html"),
        ((307, JSON, b"{}"), "HTTP 307"),
        ((401, JSON, b'{"error": "who are you?"}'), "HTTP 401: who are you?"),
        ((200, JSON, b""), "HTTP 200 with application/json"),
        ((200, JSON, b"[" * 100_000), "HTTP 200 with application/json"),
        ((200, JSON, b"[1, 2]"), "HTTP 200 with application/json"),
        ((200, JSON, b"\xff\xfe\x00"), "HTTP 200 with application/json"),
        ((200, JSON, b"{}"), "lacks model_version_status"),
        ((200, JSON, b'{"model_version_status": [{"version": "x", "state": "AVAILABLE"}]}'), "lacks model_version_"),
        ((200, JSON, b'{"model_version_status": null}'), "lacks model_version_status"),
        ((200, JSON, b'{"model_version_status": []}'), "no version is AVAILABLE: there is none"),
        ((200, JSON, status(v5="LOADING", v4="END")), "no version is AVAILABLE: 4 is END, 5 is LOADING"),
        ((404, JSON, b'{"error": "Could not find any versions of model ich"}'), "no model 'ich' in service"),
    ],
)
def test_servers_that_cannot_be_used(reply: Reply, found: str) -> None:
    with replying(reply) as model, pytest.raises(UsageError) as caught:
        model.contract  # noqa: B018 - the property asks the server
    assert found.replace("reached .", "reached (") in str(caught.value)
    assert str(caught.value).startswith(f"{model.place}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("outputs", ["{}", '{"outputs": []}', '{"outputs": {"contract": 5}}', '{"outputs": [7]}'])
def test_answers_without_a_contract(outputs: str) -> None:
    with replying(READY, (200, JSON, outputs.encode())) as model, pytest.raises(UsageError, match="made by this prog"):
        model.contract  # noqa: B018


def test_the_newest_version_is_the_largest_number_that_is_available() -> None:
    states = status(v9="AVAILABLE", v10="AVAILABLE", v11="LOADING", v12="END")
    with replying((200, JSON, states), DESCRIBED) as model:
        assert model._look() == (contract(), "10")


def test_a_version_that_goes_when_it_was_found_is_looked_for_again() -> None:
    backend = Backend({5: version()})

    def script(asked: Asked) -> None:
        backend.versions = {6: version(threshold=0.3)}

    backend.script = script
    with serve_rest(backend) as url, RemoteModel(url) as model:
        assert model._look() == (contract(threshold=0.3), "6")
    assert [item.version for item in backend.asked] == [5, 6]


def test_a_version_that_goes_while_it_is_looked_for() -> None:
    gone = (404, JSON, b'{"error": "Servable not found for request: Specific(ich, 5)"}')
    with replying(READY, gone) as model, pytest.raises(UsageError, match=r"in service .*Specific\(ich, 5\)"):
        model.contract  # noqa: B018


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ("[[[0.5, 0.5], [0.5]]]", "rows differ in length"),
        ("[[[null]]]", "object of shape"),
        ('[[["0.5"]]]', "of shape"),
        ("[[[true]]]", "bool of shape"),
        ('{"a": [0.5], "b": [0.5]}', "object of shape"),
        ("0.5", r"shape \(\), wanted float32 of shape \(5, 32, 32\)"),
        (json.dumps(np.full((5, 32, 32), np.nan).tolist()), "5120 of 5120 probabilities that are not numbers"),
        (json.dumps(np.full((5, 32, 32), np.inf).tolist()), "5120 of 5120 probabilities that are not numbers"),
        (json.dumps(np.full((5, 32, 32), 1e300).tolist()), "5120 of 5120 probabilities that are not numbers"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_answers_that_are_no_probabilities(outputs: str, found: str) -> None:
    body = f'{{"outputs": {outputs}}}'.encode()
    scan = Sample("s").scan()
    with replying((200, JSON, body)) as model, pytest.raises(IchError, match=found):
        model._mine.pin = (contract(), "5")
        model.answer(scan)


def test_floats_are_those_of_the_server() -> None:
    """In nine digits, as TF Serving writes them, and compressed, as it may."""
    values = np.random.default_rng(0).random((5, 32, 32), np.float32)
    texts = [[[f"{value:.9g}" for value in row] for row in plane] for plane in values]
    body = gzip.compress(json.dumps({"outputs": texts}).replace('"', "").replace("outputs", '"outputs"').encode())

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(body)

    with replying(reply) as model:
        model._mine.pin = (contract(), "5")
        np.testing.assert_array_equal(model.answer(Sample("s").scan()).probabilities, values)


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    left = [2]

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", JSON)
        handler.send_header("Content-Length", str(len(DESCRIBED[2])))
        handler.end_headers()
        handler.wfile.write(DESCRIBED[2][: 40 if left[0] else None])
        left[0] -= 1

    with replying(READY, reply) as model:
        assert model.contract == contract()
    assert left == [-1]


def test_an_answer_that_trickles_in_is_late() -> None:
    """Every byte comes in time, the whole would not."""
    stop = threading.Event()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not stop.wait(0.02):
            handler.wfile.write(b" ")

    with (
        replying(READY, reply) as model,
        pytest.raises(IchError, match=r"no answer within 0.2 s, twice"),
    ):
        model._deadline_s = 0.2
        model.contract  # noqa: B018
    stop.set()


def test_bodies_are_short_and_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    compress = rest_channel.igzip.compress

    def listening(body: bytes, level: int) -> bytes:
        bodies.append(body)
        return compress(body, level)

    monkeypatch.setattr(rest_channel.igzip, "compress", listening)
    hu = np.arange(-4, 4, dtype="<i2").reshape(2, 1, 2, 2)
    mean = np.array([33.1, 33.1], np.float32)
    backend = Backend({5: version(Arithmetic(brain=True))})
    with serve_rest(backend) as url:
        channel = RestChannel(ServerUrl.parse(url))
        channel.predict({"hu": hu, "brain_hu_mean": mean, "brain_hu_sd": mean}, "5", 10.0)
    assert bodies == [
        b'{"signature_name":"predict_slices","inputs":{"hu":[[[[-4,-3],[-2,-1]]],[[[0,1],[2,3]]]],'
        b'"brain_hu_mean":[33.1,33.1],"brain_hu_sd":[33.1,33.1]}}'
    ]
    asked: Asked = backend.asked[0]
    np.testing.assert_array_equal(asked.inputs["hu"], hu)
    np.testing.assert_array_equal(asked.inputs["brain_hu_mean"], mean)


def test_bodies_that_tf_serving_would_not_unpack_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_channel, "_PACKED_BYTES", 10)
    packed: list[str | None] = []

    def reply(handler: BaseHTTPRequestHandler) -> None:
        packed.append(handler.headers["Content-Encoding"])
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DESCRIBED[2])

    with replying(READY, reply) as model:
        assert model.contract == contract()
    assert packed == [None]


def test_tensorflow_is_not_needed() -> None:
    program = (
        "import sys; from serving.client.remote import RemoteModel; RemoteModel('http://localhost')\n"
        "assert not {'tensorflow', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
