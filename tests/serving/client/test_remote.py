"""A served model as an engine, by both protocols: what it answers, and what happens when the server misbehaves."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.errors import IchError, UsageError
from components.imaging.nifti import read_volume
from components.imaging.scan import Scan
from serving.client import remote
from serving.client.channel import Busy, Late, Unavailable
from serving.client.remote import BEGINNINGS, RemoteModel
from serving.contract import Contract
from serving.prediction.outline import Answer, GridChanged, predict_volume
from serving.prediction.predictor import Predictor
from tests.cases import Sample, cuboid
from tests.imaging.scans import save
from tests.models import Arithmetic, contract, export
from tests.serving.client.servers import DROP, SERVE, Asked, Backend, Fault, Version, serve_grpc, version

LARGE = cuboid((1, 3), (26, 38), (26, 38))
SMALL = cuboid((4, 5), (40, 44), (28, 34))
PREDICT = "predict_slices"
WAIT_S = 20.0
"""Longest that a test waits for what should be there at once."""


@dataclass
class Served:
    """A backend behind one of the protocols."""

    protocol: str
    backend: Backend
    url: str
    stack: ExitStack

    def model(self, **options: Any) -> RemoteModel:
        """A client of it that hardly waits between attempts."""
        return self.stack.enter_context(RemoteModel(self.url, **{"pause_s": 0.001, "batch": 2, **options}))


@pytest.fixture(params=["grpc", "rest"])
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Version 5 in service."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.01)
    backend = Backend({5: version()})
    with ExitStack() as stack:
        url = stack.enter_context(SERVE[request.param](backend))
        yield Served(request.param, backend, url, stack)


@pytest.fixture(scope="module")
def scan() -> Scan:
    """Nine slices, no two alike: five requests of two."""
    made = Sample("s", [LARGE, SMALL]).scan()
    hu = np.concatenate([made.hu, made.hu])[:9].copy()
    hu[np.arange(9), 0, 0] = 51 + np.arange(9)
    return replace(made, hu=hu)


def times(count: int, code: str, signature: str = PREDICT) -> Callable[[Asked], None]:
    """A script by which the first requests of a signature fail."""
    left = [count]
    lock = threading.Lock()

    def script(asked: Asked) -> None:
        with lock:
            failing = asked.signature == signature and left[0] > 0
            left[0] -= failing
        if failing:
            raise Fault(code)

    return script


def nth(number: int, do: Callable[[], None], signature: str = PREDICT) -> Callable[[Asked], None]:
    """A script that does something before the n-th request of a signature, counted from 0."""
    seen = [0]
    lock = threading.Lock()

    def script(asked: Asked) -> None:
        if asked.signature == signature:
            with lock:
                if seen[0] == number:
                    do()
                seen[0] += 1

    return script


def wanted(scan: Scan, network: Arithmetic | None = None) -> np.ndarray:
    return (network or Arithmetic()).numpy(scan.examples(0))


# --- the same as in this process


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        (Arithmetic(), {}),
        (Arithmetic(looks_at=-1), {"context_slices": 1, "min_component_ml": 0.1}),
        (Arithmetic(brain=True, level=35.0), {"context_slices": 2}),
        (Arithmetic(across=True), {"threshold": 0.4}),
    ],
)
def test_masks_and_probabilities_are_those_of_the_predictor(
    served: Served, tmp_path: Path, network: Arithmetic, changes: dict[str, Any]
) -> None:
    export(tmp_path / "7", network, **changes)
    predictor = Predictor(tmp_path)

    def compute(inputs: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: predictor._tf.constant(value) for name, value in inputs.items()}
        return predictor._signature(**tensors)["probability"].numpy()

    served.backend.versions = {7: Version(compute, predictor.contract.to_json())}
    sample = Sample("s", [LARGE, SMALL])
    many = np.concatenate([sample.hu] * 4)[1:18]
    path = save(tmp_path / "s.nii.gz", np.ascontiguousarray(many.transpose(2, 1, 0)), sample.affine)
    volume = read_volume(path)
    model = served.model(batch=8)
    found, local = predict_volume(model, volume, path), predict_volume(predictor, volume, path)
    assert local.mask.any()
    np.testing.assert_array_equal(found.mask, local.mask)
    np.testing.assert_array_equal(found.probabilities, local.probabilities)
    assert {**found.report, "seconds": 0} == {**local.report, "seconds": 0}
    there, here = model.answer(found.scan).probabilities, predictor.answer(found.scan).probabilities
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-7)
    assert served.backend.count() == 2 * (1 if network.across else 3)


def test_bytes_and_lists_are_both_read(scan: Scan) -> None:
    with serve_grpc(Backend({5: version()}), packed=True) as url, RemoteModel(url) as model:
        np.testing.assert_array_equal(model.answer(scan).probabilities, wanted(scan))


@pytest.mark.parametrize("batch", [1, 2, 4, 9, 100])
def test_requests_hold_so_many_slices(served: Served, scan: Scan, batch: int) -> None:
    answer = served.model(batch=batch).answer(scan)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)
    assert (answer.version, answer.contract) == ("5", contract())
    sizes = sorted(len(item.inputs["hu"]) for item in served.backend.asked if item.signature == PREDICT)
    assert max(sizes) == min(batch, 9)
    assert sum(sizes) == 9


def test_one_slice(served: Served, scan: Scan) -> None:
    one = replace(scan, hu=scan.hu[:1])
    np.testing.assert_allclose(served.model().answer(one).probabilities, wanted(one), rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_come_in_another_order_are_put_in_order(served: Served, scan: Scan, seed: int) -> None:
    """Every request waits for the one that comes before it in a random order; all are in flight at once."""
    order = random.Random(seed).sample(range(9), 9)
    ended = {index: threading.Event() for index in order}
    before = dict(zip(order[1:], order, strict=False))

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT:
            index = int(asked.inputs["hu"][0, 0, 0, 0]) - 51
            assert index not in before or ended[before[index]].wait(WAIT_S)
            ended[index].set()

    served.backend.script = script
    answer = served.model(batch=1, concurrency=9).answer(scan)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_than_so_many_requests_are_in_flight(served: Served, scan: Scan, concurrency: int) -> None:
    together = threading.Barrier(concurrency)

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT:
            together.wait(WAIT_S)

    served.backend.script = script
    served.model(batch=1, concurrency=concurrency).answer(scan)  # 9 slices: three times three
    assert served.backend.most == concurrency


def test_connections_are_kept(served: Served, scan: Scan) -> None:
    model = served.model(batch=1)
    for _ in range(3):
        model.answer(scan)
    assert served.backend.connections <= 5  # counted for REST only


# --- versions


def test_every_scan_is_answered_by_the_newest_version(served: Served, scan: Scan) -> None:
    model = served.model()
    assert model.answer(scan).version == "5"
    served.backend.versions[12] = version(Arithmetic(level=52.0), threshold=0.3)
    answer = model.answer(scan)
    assert (answer.version, answer.contract.postprocess["threshold"]) == ("12", 0.3)
    np.testing.assert_allclose(answer.probabilities, wanted(scan, Arithmetic(level=52.0)), rtol=0, atol=1e-7)
    assert served.backend.count("describe") == 2


def test_the_contract_and_the_answer_to_it_are_one_look(served: Served, scan: Scan) -> None:
    model = served.model()
    assert model.contract == contract()
    served.backend.versions[6] = version(grid_size=64)
    assert model.answer(scan).version == "5"
    assert served.backend.count("describe") == 1
    assert {item.version for item in served.backend.asked if item.signature == PREDICT} == {5}
    with pytest.raises(GridChanged):
        model.answer(scan)  # by now the newest version has another grid


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("point", range(6))
def test_no_scan_is_answered_by_two_versions(served: Served, scan: Scan, point: int, kept: bool) -> None:
    """A version comes, and the old one may go, before any of the five requests, or after them."""

    def swap() -> None:
        served.backend.versions = {**(served.backend.versions if kept else {}), 6: version(Arithmetic(level=52.0))}

    served.backend.script = nth(point, swap)
    answer = served.model(concurrency=2).answer(scan)
    level = {"5": 55.0, "6": 52.0}[answer.version]
    np.testing.assert_allclose(answer.probabilities, wanted(scan, Arithmetic(level=level)), rtol=0, atol=1e-7)
    assert answer.version == ("5" if kept or point == 5 else "6")


@pytest.mark.parametrize("changes", [{"grid_size": 64}, {"grid_spacing_mm": 3.0}])
def test_another_grid_in_the_middle_of_a_scan_begins_anew(
    served: Served, tmp_path: Path, changes: dict[str, Any]
) -> None:
    def swap() -> None:
        served.backend.versions = {6: version(**changes)}

    served.backend.script = nth(1, swap)
    model = served.model(concurrency=1)
    with pytest.raises(GridChanged):
        model.answer(Sample("s", [LARGE]).scan())

    served.backend.versions = {5: version()}
    served.backend.script = nth(1, swap)
    path = Sample("s", [LARGE]).save(tmp_path / "s.nii")
    found = predict_volume(model, read_volume(path), path)
    assert found.report["model_version"] == "6"
    assert found.scan.geometry.grid_size == changes.get("grid_size", 32)
    assert found.mask[LARGE].mean() > 0.6


def test_a_grid_that_never_settles_ends(served: Served, tmp_path: Path) -> None:
    number = [5]

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT:
            number[0] += 1
            served.backend.versions = {number[0]: version(grid_size=32 + number[0] % 2)}

    served.backend.script = script
    path = Sample("s", [LARGE]).save(tmp_path / "s.nii")
    with pytest.raises(IchError, match="grid changed 5 times"):
        predict_volume(served.model(concurrency=1), read_volume(path), path)


def test_versions_that_never_settle_end(served: Served, scan: Scan) -> None:
    number = [5]

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT:
            number[0] += 1
            served.backend.versions = {number[0]: version()}

    served.backend.script = script
    with pytest.raises(IchError, match=f"changed {BEGINNINGS} times while one scan was answered.*Servable not found"):
        served.model(concurrency=1).answer(scan)
    assert served.backend.count("describe") == BEGINNINGS


def test_an_answer_of_another_version_is_not_taken(scan: Scan) -> None:
    backend = Backend({5: version(), 4: version()})

    def script(asked: Asked) -> None:
        backend.claims = 4 if asked.signature == PREDICT else None

    backend.script = script
    with (
        serve_grpc(backend) as url,
        RemoteModel(url, pause_s=0.001) as model,
        pytest.raises(IchError, match="version 5 was asked, version 4 answered"),
    ):
        model.answer(scan)


def test_all_versions_gone_in_the_middle(served: Served, scan: Scan) -> None:
    served.backend.script = nth(1, served.backend.versions.clear)
    with pytest.raises(UsageError, match="no model 'ich' in service"):
        served.model(concurrency=1).answer(scan)


# --- failures that pass


@pytest.mark.parametrize("code", ["UNAVAILABLE", DROP, "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize("signature", ["describe", PREDICT])
def test_failures_that_pass_are_not_seen(served: Served, scan: Scan, code: str, signature: str) -> None:
    served.backend.script = times(2, code, signature)
    answer = served.model().answer(scan)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)
    assert served.backend.count(signature) == {"describe": 1, PREDICT: 5}[signature] + 2


def test_a_busy_server_gets_fewer_requests_at_a_time(served: Served, scan: Scan) -> None:
    """It takes one request at a time, and refuses the others until that one is answered."""
    free = threading.Semaphore(1)
    refused = threading.Event()
    model = served.model(batch=1, concurrency=4)
    limits: list[int] = []

    def script(asked: Asked) -> None:
        if asked.signature != PREDICT:
            return
        if not free.acquire(blocking=False):
            refused.set()
            raise Fault("RESOURCE_EXHAUSTED", "queue is full")
        if not limits:
            assert refused.wait(WAIT_S)
        limits.append(model._gate.limit)
        free.release()

    served.backend.script = script
    answer = model.answer(scan)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)
    assert refused.is_set()
    assert min(limits) < 4


def test_a_server_that_starts_late(served: Served, scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went, and comes back on the same port after a connection has been refused."""
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.5)
    port = int(served.url.rpartition(":")[2])
    pin = served.model().contract, "5"
    served.stack.close()
    model = RemoteModel(served.url, pause_s=0.2, batch=2)
    predict, refused = model._channel.predict, threading.Event()

    def watched(*arguments: Any) -> np.ndarray:
        try:
            return predict(*arguments)
        except Unavailable:
            refused.set()
            raise

    monkeypatch.setattr(model._channel, "predict", watched)
    with ThreadPoolExecutor(1) as pool, model:
        model_answer = pool.submit(_answer_with, model, pin, scan)
        assert refused.wait(WAIT_S)
        with SERVE[served.protocol](served.backend, port):
            answer = model_answer.result(WAIT_S)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)


# --- failures that stay


def test_a_server_that_dies_in_the_middle(served: Served, scan: Scan) -> None:
    served.backend.script = lambda asked: _raise(DROP) if asked.signature == PREDICT else None
    with pytest.raises(IchError, match="the server went away") as caught:
        served.model().answer(scan)
    assert not isinstance(caught.value, UsageError)
    assert served.url in str(caught.value)
    assert served.backend.count() >= remote.ATTEMPTS[Unavailable]


def test_a_server_that_stays_busy(served: Served, scan: Scan) -> None:
    served.backend.script = times(10**6, "RESOURCE_EXHAUSTED")
    with pytest.raises(IchError, match=r"too much to do .*the reason"):
        served.model(concurrency=1).answer(scan)
    assert served.backend.count() == remote.ATTEMPTS[Busy]


@pytest.mark.parametrize("signature", ["describe", PREDICT])
def test_a_slow_server_is_asked_twice(served: Served, scan: Scan, signature: str) -> None:
    release = threading.Event()

    def script(asked: Asked) -> None:
        if asked.signature == signature:
            release.wait(WAIT_S)

    served.backend.script = script
    with pytest.raises(IchError, match=r"no answer within 0.3 s, twice"):
        served.model(concurrency=1, deadline_s=0.3).answer(scan)
    assert served.backend.count(signature) == remote.ATTEMPTS[Late] == 2
    release.set()


def test_a_request_that_is_late_once(served: Served, scan: Scan) -> None:
    """The first request is answered when it has been given up and sent again."""
    first, again = threading.Event(), threading.Event()

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT and not first.is_set():
            first.set()
            assert again.wait(WAIT_S)
        elif asked.signature == PREDICT:
            again.set()

    served.backend.script = script
    answer = served.model(concurrency=1, deadline_s=1.0).answer(scan)
    np.testing.assert_allclose(answer.probabilities, wanted(scan), rtol=0, atol=1e-7)
    assert served.backend.count() == 6


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "INTERNAL"])
def test_other_refusals_are_final_and_in_the_servers_words(served: Served, scan: Scan, code: str) -> None:
    served.backend.script = lambda asked: (
        _raise(code, "hu: wrong\n  shape " + "x" * 500) if "hu" in asked.inputs else None
    )
    with pytest.raises(IchError, match="hu: wrong shape xxx") as caught:
        served.model(concurrency=1).answer(scan)
    assert served.backend.count() == 1
    assert str(caught.value).startswith(served.url)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda values: values[:-1], r"shape \(1, 32, 32\), wanted float32 of shape \(2, 32, 32\)"),
        (lambda values: values[..., 0], r"shape \(2, 32\), wanted"),
        (lambda values: values[:0], r"shape \(0,( 32, 32)?\), wanted float32 of shape \(2, 32, 32\)"),
        (
            lambda values: np.where(values >= 0, np.float32("nan"), values),
            "2048 of 2048 probabilities that are not num",
        ),
        (lambda values: values + np.float32("inf"), "not numbers"),
        (lambda values: np.full(values.shape, b"x", object).astype(str).astype(object), "wanted (float32|DT_FLOAT)"),
    ],
)
def test_answers_that_cannot_be_used(
    served: Served, scan: Scan, tamper: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    served.backend.tamper = tamper
    with pytest.raises(IchError, match=found) as caught:
        served.model(concurrency=1).answer(scan)
    assert served.url in str(caught.value)
    assert served.backend.count() == 1


def test_answers_of_double_precision_are_refused(scan: Scan) -> None:
    """JSON does not tell, gRPC does."""
    backend = Backend({5: version()}, tamper=lambda values: values.astype(np.float64))
    with serve_grpc(backend) as url, RemoteModel(url) as model, pytest.raises(IchError, match="DT_DOUBLE"):
        model.answer(scan)


# --- no such server, no such model, no such contract


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "carries no contract"),
        ("<html>", "carries no contract"),
        ("[1, 2]", "carries no contract"),
        ('{"format": 99}', "format 99"),
        ('{"format": 3}', "incomplete"),
    ],
)
def test_contracts_that_cannot_be_read(served: Served, text: str, found: str) -> None:
    served.backend.versions = {5: Version(lambda inputs: inputs["hu"], text)}
    with pytest.raises(UsageError, match=found) as caught:
        served.model().contract  # noqa: B018 - the property asks the server
    assert str(caught.value).startswith(served.url)


def test_a_model_that_does_not_describe_itself(served: Served) -> None:
    served.backend.script = lambda asked: _raise("INVALID_ARGUMENT", 'signature key "describe" not found')
    with pytest.raises(UsageError, match="made by this program") as caught:
        served.model().contract  # noqa: B018
    assert 'signature key "describe" not found' in str(caught.value)


def test_another_models_name(served: Served) -> None:
    with pytest.raises(UsageError, match="no model 'other' in service") as caught:
        served.stack.enter_context(RemoteModel(f"{served.url}/other")).contract  # noqa: B018
    assert f"{served.url}/other" in str(caught.value)


def test_no_server(served: Served) -> None:
    url = served.url
    served.stack.close()
    with (
        RemoteModel(url, pause_s=0.001) as model,
        pytest.raises(UsageError, match=r"the server cannot be reached .*efused.*check that TF Serving runs"),
    ):
        model.contract  # noqa: B018


@pytest.mark.parametrize("name", ["deadline_s", "concurrency", "batch"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_numbers_that_cannot_be_used(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"{name}: found {value}"):
        RemoteModel("http://localhost", **options)


def test_two_threads_that_prepare_scans_do_not_mix_versions(served: Served, scan: Scan) -> None:
    """Each answers with the version whose contract it was shown."""
    model = served.model()
    assert model.contract == contract()
    served.backend.versions[6] = version(threshold=0.3)
    seen: list[str] = []

    def other() -> None:
        assert model.contract.postprocess["threshold"] == 0.3
        seen.append(model.answer(scan).version)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(WAIT_S)
    assert seen == ["6"]
    assert model.answer(scan).version == "5"


def test_ctrl_c_ends_at_once(served: Served, tmp_path: Path) -> None:
    """A request is in flight that nobody will answer within its deadline of ten minutes."""
    began, release = threading.Event(), threading.Event()

    def script(asked: Asked) -> None:
        if asked.signature == PREDICT:
            began.set()
            release.wait(5 * WAIT_S)

    served.backend.script = script
    program = (
        # A job in the background is started with SIGINT ignored, and so is what it starts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, pathlib; from components.imaging.nifti import read_volume\n"
        "from serving.client.remote import RemoteModel; from serving.prediction.outline import predict_volume\n"
        "path = pathlib.Path(sys.argv[2])\n"
        "with RemoteModel(sys.argv[1], deadline_s=600) as model: predict_volume(model, read_volume(path), path)"
    )
    path = Sample("s").save(tmp_path / "s.nii")
    arguments = [sys.executable, "-c", program, served.url, str(path)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        assert began.wait(3 * WAIT_S)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        release.set()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in text


def test_the_text_of_a_contract_survives_json(served: Served) -> None:
    made = contract(model_name='ich – ä "quoted" \\ ☃')
    served.backend.versions = {5: Version(lambda inputs: inputs["hu"], made.to_json())}
    assert served.model().contract == made
    served.backend.versions = {
        6: Version(lambda inputs: inputs["hu"], json.dumps(json.loads(made.to_json()), indent=1))
    }
    assert served.model().contract == made


def _answer_with(model: RemoteModel, pin: tuple[Contract, str], scan: Scan) -> Answer:
    """The answer in a thread that was shown the contract before."""
    model._mine.pin = pin
    return model.answer(scan)


def _raise(code: str, words: str = "the reason") -> None:
    raise Fault(code, words)
