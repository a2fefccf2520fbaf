"""What only happens with gRPC."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from components.imaging.errors import IchError, UsageError
from serving.client import remote
from serving.client.grpc_channel import GrpcChannel
from serving.client.remote import RemoteModel
from serving.client.url import ServerUrl
from tests.cases import Sample
from tests.models import Arithmetic, contract
from tests.serving.client.servers import Asked, Backend, serve_grpc, serving_http, version


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no long pauses."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.01)


def test_messages_may_be_large() -> None:
    """The library's own limit is 4 MiB; these are of 6 and 12."""
    hu = np.random.default_rng(0).integers(-1000, 100, (12, 1, 512, 512), np.int16)
    with serve_grpc(Backend({5: version()}), packed=True) as url:
        found = GrpcChannel(ServerUrl.parse(url)).predict({"hu": hu}, "5", 30.0)
    np.testing.assert_array_equal(found, Arithmetic().numpy(hu))


def test_a_message_that_is_too_large_for_the_server_is_not_sent_again() -> None:
    """Its code is that of a busy server."""
    backend = Backend({5: version()})
    scan = Sample("s").scan()
    with serve_grpc(backend, options=[("grpc.max_receive_message_length", 9000)]) as url:
        with (
            RemoteModel(url, batch=5) as model,
            pytest.raises(IchError, match=r"RESOURCE_EXHAUSTED: .*larger than max"),
        ):
            model.answer(scan)
        with RemoteModel(url, batch=1) as model:
            assert model.answer(scan).version == "5"
    assert backend.count() == 5


def test_a_server_that_stops_while_a_request_is_in_flight() -> None:
    began, release = threading.Event(), threading.Event()

    def script(asked: Asked) -> None:
        if asked.signature == "predict_slices":
            began.set()
            release.wait(20)

    with ExitStack() as server, ThreadPoolExecutor(1) as pool:
        url = server.enter_context(serve_grpc(Backend({5: version()}, script=script)))
        with RemoteModel(url, pause_s=0.001) as model:
            answer = pool.submit(model.answer, Sample("s").scan())
            assert began.wait(20)
            server.close()
            with pytest.raises(IchError, match="the server went away"):
                answer.result(20)
            release.set()


def test_closing_ends_what_other_threads_wait_for() -> None:
    began, release = threading.Event(), threading.Event()

    def script(asked: Asked) -> None:
        if asked.signature == "predict_slices":
            began.set()
            release.wait(20)

    with serve_grpc(Backend({5: version()}, script=script)) as url, ThreadPoolExecutor(1) as pool:
        with RemoteModel(url, deadline_s=600) as model:
            answer = pool.submit(model.answer, Sample("s").scan())
            assert began.wait(20)
        with pytest.raises(IchError):
            answer.result(20)
        with pytest.raises(IchError, match="the connection is closed"):
            model.contract  # noqa: B018
        release.set()


def test_a_version_can_be_described() -> None:
    with serve_grpc(Backend({5: version(), 6: version(threshold=0.3)})) as url:
        channel = GrpcChannel(ServerUrl.parse(url))
        assert channel.describe("5", 10.0) == (contract(), "5")
        assert channel.describe(None, 10.0) == (contract(threshold=0.3), "6")


def test_a_server_that_does_not_say_its_version() -> None:
    with (
        serve_grpc(Backend({5: version()}, claims=0)) as url,
        RemoteModel(url) as model,
        pytest.raises(UsageError, match="does not say which version answers"),
    ):
        model.contract  # noqa: B018 - the property asks the server


@pytest.mark.parametrize("scheme", ["grpc", "grpcs"])
def test_an_http_server(scheme: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with (
        serving_http(Handler) as port,
        RemoteModel(f"{scheme}://localhost:{port}", pause_s=0.001, deadline_s=5.0) as model,
        pytest.raises(UsageError, match=r"cannot be reached .*the port is the one of this protocol"),
    ):
        model.contract  # noqa: B018


def test_an_answer_that_is_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer values than its shape has, which TensorFlow itself would fill up."""
    import tensorflow as tf

    from serving.client import grpc_channel
    from serving.client.channel import Refused

    tensor = tf.make_tensor_proto(np.zeros((2, 3), np.float32))
    assert grpc_channel._values(tensor).shape == (2, 3)
    tensor.tensor_content = tensor.tensor_content[:-4]
    with pytest.raises(Refused, match=r"shape \(2, 3\) holds another number of values"):
        grpc_channel._values(tensor)
    tensor.tensor_content = b"123"
    with pytest.raises(Refused, match="another number"):
        grpc_channel._values(tensor)
    tensor.dtype = 0
    with pytest.raises(Refused, match="DT_INVALID"):
        grpc_channel._values(tensor)


def test_tensorflow_itself_is_not_imported_and_can_be_afterwards() -> None:
    program = (
        "import sys\nfrom serving.client.remote import RemoteModel\nRemoteModel('grpc://localhost')\n"
        "assert 'tensorflow' not in sys.modules and 'numpy' in sys.modules\n"
        "import tensorflow as tf\n"
        "from serving.client.protos import TensorProto\n"
        "assert tf.make_tensor_proto([1.0]).__class__ is TensorProto\n"
        "assert tf.constant([1, 2]).numpy().sum() == 3"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
