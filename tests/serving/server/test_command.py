"""`ich serve` as a process of its own."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from components.imaging.errors import UsageError
from serving.manifests.render import IMAGE
from serving.server import docker
from serving.server.messages import tf
from serving.server.options import Options
from tests.command import ich
from tests.models import Arithmetic, unloadable
from tests.serving.server.running import PATIENCE, Client, eventually, hu, request

ROOT = Path(__file__).parents[3]
PREDICT = "/v1/models/ich:predict"
FREE = ("--grpc-port", "0", "--rest-port", "0")


@contextmanager
def process(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Client, list[str]]]:
    """A server that runs, a client of it, and the lines that it began with."""
    command = [sys.executable, "-m", "pipeline", "serve", "--model", str(model), *FREE, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        watchdog = threading.Timer(4 * PATIENCE, server.kill)
        watchdog.start()
        try:
            lines = [server.stdout.readline().rstrip("\n") for _ in range(5)]
            ports = [re.search(r"127\.0\.0\.1:(\d+)", line) for line in lines[2:4]]
            assert all(ports), lines
            client = Client(*(int(found[1]) for found in ports if found))
            yield server, client, lines
            client.channel.close()
        finally:
            watchdog.cancel()
            server.kill()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_answered_after_the_signal(exported: dict[str, Path], sent: signal.Signals) -> None:
    body = json.dumps({"signature_name": "predict_slices", "inputs": hu(2).tolist()}).encode()
    with process(exported["plain"]) as (server, client, lines):
        assert lines[0].split() == ["model", "ich"]
        assert lines[1].split() == ["version", "1"]
        assert lines[2].startswith("gRPC ")
        assert lines[3].startswith("REST ") and lines[3].endswith("/v1/models/ich")
        assert lines[4] == "for development and small sites; use TF Serving in production"
        found = client.predict(request({"hu": hu(2)}))
        wanted = Arithmetic().numpy(hu(2))
        np.testing.assert_allclose(tf.make_ndarray(found.outputs["probability"]), wanted, atol=1e-6)

        # Its second half comes after the signal.
        slow = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=PATIENCE)
        slow.putrequest("POST", PREDICT)
        slow.putheader("Content-Length", str(len(body)))
        slow.endheaders(body[:100])
        eventually(lambda: client.metric("ich_server_in_flight") == 1)
        server.send_signal(sent)
        eventually(lambda: client.http("/ready").status == 503)
        slow.send(body[100:])
        answer = slow.getresponse()
        assert answer.status == 200
        np.testing.assert_allclose(json.loads(answer.read())["outputs"], wanted, atol=1e-6)
        _, log = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0
    assert [line.split(maxsplit=2)[2] for line in log.splitlines()] == [
        "INFO version 1 is in service",
        "INFO stopping: no new requests",
        "INFO stopped",
    ]


def test_what_is_still_computed_after_the_grace_period_is_left(exported: dict[str, Path]) -> None:
    with process(exported["plain"], "--grace", "0.1") as (server, client, _):
        slow = http.client.HTTPConnection("127.0.0.1", client.rest_port, timeout=PATIENCE)
        slow.putrequest("POST", PREDICT)
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b"{")
        eventually(lambda: client.metric("ich_server_in_flight") == 1)
        server.terminate()
        _, log = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0
    assert "requests were not answered within 0.1 s" in log


def test_a_taken_port_ends_the_command_without_a_traceback(exported: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = ich("serve", "--model", exported["plain"], "--grpc-port", "0", "--rest-port", str(port))
    assert found.returncode == 2
    assert f"error: 127.0.0.1:{port}: REST cannot listen there" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    found = ich("serve", "--model", tmp_path, *FREE)
    assert found.returncode == 2
    assert "no model there" in found.stderr


# --- TF Serving itself


def test_the_container_that_is_started(tmp_path: Path) -> None:
    unloadable(tmp_path / "ich" / "3")
    command = docker.command(Options(model=tmp_path / "ich", grpc_port=9000, rest_port=9001))
    assert command[:3] == ["docker", "run", "--rm"]
    assert ("127.0.0.1:9000:8500" in command, "127.0.0.1:9001:8501" in command) == (True, True)
    assert f"type=bind,source={tmp_path.resolve() / 'ich'},target=/models/ich,readonly" in command
    assert command.index("MODEL_NAME=ich") < command.index(IMAGE) < command.index("--enable_model_warmup=true")


@pytest.mark.parametrize(("name", "number"), [("3", 3), ("mine", 1)])
def test_a_single_savedmodel_is_given_to_the_container_as_a_version(tmp_path: Path, name: str, number: int) -> None:
    unloadable(tmp_path / name)
    command = docker.command(Options(model=tmp_path / name))
    assert f"type=bind,source={tmp_path.resolve() / name},target=/models/ich/{number},readonly" in command


def test_without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unloadable(tmp_path / "3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="leave --docker out"):
        docker.start(Options(model=tmp_path))


def test_docker_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of that name is run in place of this process, with what `command` says."""
    unloadable(tmp_path / "3")
    fake = tmp_path / "docker"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = ich("serve", "--docker", "--model", tmp_path)
    assert found.returncode == 7
    assert found.stdout.splitlines() == docker.command(Options(model=tmp_path))[1:]
