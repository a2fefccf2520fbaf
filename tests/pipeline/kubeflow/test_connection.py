"""The line to the API: who is let in, what is waited for, and what is said when it fails."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from components.imaging.errors import UsageError
from pipeline.config import Config, load_config
from pipeline.kubeflow import connection
from pipeline.kubeflow.client import Client
from pipeline.kubeflow.connection import ATTEMPTS, ApiError
from tests.pipeline.kubeflow.fake_api import FakeApi, Fault, serving

Configure = Callable[..., Config]
SECRET = "s3cret-t0ken"


def failure(config: Config) -> str:
    with pytest.raises(ApiError) as caught:
        Client(config).listing(10)
    return str(caught.value)


# --- who one is


def test_without_a_token_no_header_is_sent(api: FakeApi, config: Configure) -> None:
    Client(config()).listing(10)
    assert api.asked and all("authorization" not in one.headers for one in api.asked)


@pytest.mark.parametrize("way", ["token_file", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_TOKEN"])
def test_the_token_is_sent_with_every_call(
    api: FakeApi, config: Configure, packages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    api.token = SECRET
    (tmp_path / "token").write_text(f"{SECRET}\n")
    settings = [f"kubeflow.token_file={tmp_path / 'token'}"] if way == "token_file" else []
    if way != "token_file":
        monkeypatch.setenv(way, f"{SECRET}\n" if way == connection.TOKEN else str(tmp_path / "token"))
    Client(config(*settings)).submit(packages[0])
    assert len(api.runs) == 1
    assert {one.headers.get("authorization") for one in api.asked} == {f"Bearer {SECRET}"}
    assert {one.method for one in api.asked} == {"GET", "POST"}


def test_the_configs_token_file_goes_before_the_environment(
    api: FakeApi, config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = SECRET
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv(connection.TOKEN, "another")
    Client(config(f"kubeflow.token_file={tmp_path / 'token'}")).listing(10)


def test_a_token_that_is_missing_or_wrong(
    api: FakeApi, config: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api.token = SECRET
    message = failure(config())
    assert "cannot greet Kubeflow Pipelines: 401 Unauthorized: Request header error" in message
    assert "give a token: a file in kubeflow.token_file or KF_PIPELINES_SA_TOKEN_PATH" in message
    monkeypatch.setenv(connection.TOKEN, "wr0ng-token")
    with caplog.at_level(logging.DEBUG):
        message = failure(config())
    assert "the token is not accepted: renew it" in message
    assert "wr0ng" not in message + caplog.text
    assert api.count("GET", "healthz") == 2, "what is refused is not tried again"


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "\x00", "tokén"])
def test_what_is_no_token_is_not_repeated(
    api: FakeApi, config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(UsageError, match=r"kubeflow\.token_file: .*token") as caught:
        Client(config(f"kubeflow.token_file={tmp_path / 'token'}"))
    assert not content or content not in str(caught.value)
    if content.strip() and "\x00" not in content:
        monkeypatch.setenv(connection.TOKEN, content)
        with pytest.raises(UsageError, match="KF_PIPELINES_TOKEN: its value holds no token") as caught:
            Client(config())
        assert content not in str(caught.value)
    assert not api.asked


def test_a_token_file_that_is_not_there(config: Configure, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kubeflow\.token_file: cannot read .*nowhere \(No such file"):
        Client(config(f"kubeflow.token_file={tmp_path / 'nowhere'}"))


def test_what_is_not_allowed(api: FakeApi, config: Configure) -> None:
    api.multi_user, api.forbidden = True, "theirs"
    message = failure(config("kubeflow.namespace=theirs"))
    assert "cannot look for the experiment demo: 403 Forbidden: User is not authorized in namespace theirs" in message
    assert "ask for the right" in message and "kubeflow.namespace" in message


# --- where it is


def test_the_address_may_come_from_the_environment(api: FakeApi, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"give kubeflow\.host or KF_PIPELINES_ENDPOINT"):
        Client(load_config("demo"))
    monkeypatch.setenv(connection.ENDPOINT, f"{host}/")
    assert Client(load_config("demo")).listing(10)["host"] == host
    monkeypatch.setenv(connection.ENDPOINT, "https://me:hunter2@kubeflow.example")
    with pytest.raises(UsageError, match="KF_PIPELINES_ENDPOINT: must hold neither user nor password") as caught:
        Client(load_config("demo"))
    assert "hunter2" not in str(caught.value)


def test_a_path_of_a_gateway_is_kept(api: FakeApi, host: str) -> None:
    with pytest.raises(ApiError, match="no Kubeflow Pipelines 2 API"):
        Client(load_config("demo", [f"kubeflow.host={host}/pipeline/"]))
    assert [one.path for one in api.asked] == ["/pipeline/apis/v2beta1/healthz"]


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = failure(load_config("demo", [f"kubeflow.host=http://127.0.0.1:{port}"]))
    assert message.startswith(f"http://127.0.0.1:{port}: cannot greet Kubeflow Pipelines: nothing answers there")
    assert "kubectl port-forward -n kubeflow svc/ml-pipeline 8888" in message
    assert capfd.readouterr() == ("", "")  # the libraries beneath keep quiet about the attempts


def test_no_such_machine() -> None:
    message = failure(load_config("demo", ["kubeflow.host=https://nowhere.invalid"]))
    assert "https://nowhere.invalid: " in message and "check kubeflow.host" in message


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("GET", "healthz", 9, 200, body=b"<html>Hello</html>", kind="text/html"), "content type text/html"),
        (Fault("GET", "healthz", 9, 200, body=b"[1, 2]"), "no Kubeflow Pipelines 2 API"),
        (Fault("GET", "healthz", 9, 200, body=b'{"status": "ok"}'), "greets in other words"),
        (Fault("GET", "healthz", 9, 404, body=b"<html>\xe9</html>", kind="text/html"), "no Kubeflow Pipelines 2 API"),
        (Fault("GET", "healthz", 9, 404, body=b'{"code": 5, "message": "Not Found"}'), "check kubeflow.host"),
    ],
)
def test_something_else_answers(api: FakeApi, config: Configure, fault: Fault, text: str) -> None:
    api.faults.append(fault)
    message = failure(config())
    assert "what answers there is no Kubeflow Pipelines 2 API" in message and text in message
    assert "Hello" not in message


def test_a_redirect_to_a_log_in_is_not_followed(
    api: FakeApi, config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the token along, or end at a page that reads like an empty answer."""
    monkeypatch.setenv(connection.TOKEN, SECRET)
    location = {"Location": "https://log.in/auth?state=abc"}
    api.faults.append(Fault("GET", "healthz", 9, 302, headers=location, body=b"", kind="text/html"))
    message = failure(config())
    assert "302 Found: sent on to https://log.in, most likely to log in; the token is not accepted" in message
    assert "abc" not in message and len(api.asked) == 1


# --- patience


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(api: FakeApi, config: Configure, status: int) -> None:
    api.faults.append(Fault("GET", "experiments", ATTEMPTS - 1, status))
    Client(config()).listing(10)
    assert api.count("GET", "experiments") == ATTEMPTS


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_server_that_stays_in_trouble(api: FakeApi, config: Configure, kind: str) -> None:
    body = b'{"error": "no healthy upstream"}' if kind == "json" else b"<html>nginx</html>"
    api.faults.append(Fault("GET", "experiments", 99, 503, body=body, kind=f"text/{kind}"))
    message = failure(config())
    assert "cannot look for the experiment demo: 503 Service Unavailable" in message
    assert "the server is in trouble; look at its log (deployment ml-pipeline)" in message
    assert ("no healthy upstream" in message) == (kind == "json") and "nginx" not in message
    assert api.count("GET", "experiments") == ATTEMPTS


@pytest.mark.parametrize("status", [400, 403, 404, 409, 501])
def test_a_refusal_is_not_asked_again(api: FakeApi, config: Configure, status: int) -> None:
    said = b'{"error": "short", "code": 3, "message": "It is\\n so."}'
    api.faults.append(Fault("GET", "experiments", 99, status, body=said))
    message = failure(config())
    assert f"{config().kubeflow.host}: cannot look for the experiment demo: {status} " in message
    assert ": It is so." in message
    assert api.count("GET", "experiments") == 1


def test_a_broken_connection_is_tried_again(api: FakeApi, config: Configure) -> None:
    api.faults.append(Fault("GET", "experiments", 1, breaks=True))
    Client(config()).listing(10)
    assert api.count("GET", "experiments") == 2


def test_an_answer_that_takes_too_long(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    patient = config()
    Client(patient).submit(packages[0])
    api.faults.append(Fault("POST", "runs", 9, seconds=8.0))
    started = time.monotonic()
    with pytest.raises(ApiError, match=r"cannot start the run .*: no answer within 2 s, so it may have been done"):
        Client(config("kubeflow.timeout_seconds=2")).submit(packages[0])
    assert time.monotonic() - started < 8.0
    assert api.count("POST", "runs") == 2, "it may still start: not asked again"


def test_a_run_that_started_after_all_is_found(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    Client(config()).submit(packages[0])
    api.faults.append(Fault("POST", "runs", 9, seconds=8.0, when="after"))
    started = Client(config("kubeflow.timeout_seconds=2")).submit(packages[0])
    assert started.run in api.runs and len(api.runs) == 2


def test_what_the_server_says_of_a_bad_package(api: FakeApi, config: Configure, tmp_path: Path) -> None:
    old = tmp_path / "pipeline.yaml"
    old.write_text("schemaVersion: 2.0.0\n")
    with pytest.raises(ApiError, match=r"cannot upload version .*: 400 Bad Request: KFP only supports schema version"):
        Client(config()).submit(old)
    assert not api.runs and not api.versions


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of this machine, trusted by nobody."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubeflow")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(own + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_is_checked(api: FakeApi, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(api, certificate) as host:
        settings = [f"kubeflow.host={host}"]
        message = failure(load_config("demo", settings))
        assert f"{host}: cannot greet Kubeflow Pipelines: no trust in its certificate" in message
        assert "kubeflow.ca_cert or SSL_CERT_FILE" in message
        assert not api.asked, "nothing is sent to whom nobody trusts"
        Client(load_config("demo", [*settings, f"kubeflow.ca_cert={certificate}"])).listing(10)
        Client(load_config("demo", [*settings, "kubeflow.verify_tls=false"])).listing(10)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        Client(load_config("demo", settings)).listing(10)


def test_a_file_of_certificates_that_is_not_there(config: Configure, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kubeflow\.ca_cert: .*nowhere is no file"):
        Client(config(f"kubeflow.ca_cert={tmp_path / 'nowhere'}"))
