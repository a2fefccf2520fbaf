"""A Kubeflow Pipelines API server for tests: kfp's own models behind real HTTP, without a cluster.

It refuses what the real one refuses (unknown fields, unknown ids, names taken, five fields for cron, a schedule without
concurrency), takes a schedule's runs along when it is deleted as Kubernetes does, lists in small pages, and can be told
to misbehave.
"""

from __future__ import annotations

import datetime
import email
import email.policy
import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as kfp
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

JSON = kfp.ApiClient()
START = datetime.datetime(2026, 1, 5, 12, 0, tzinfo=datetime.UTC)  # a Monday
PAGE = 2


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Refusal(Exception):  # noqa: N818 - what the server answers, not a failure of the test
    """An error as the API answers it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Fault:
    """What goes wrong with requests: `before` they are looked at, or `after` what they ask for has been done."""

    method: str
    path: str
    times: int
    status: int = 503
    when: str = "before"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "no healthy upstream"}'
    kind: str = "application/json"
    seconds: float = 0.0
    breaks: bool = False


class FakeApi:
    """State and behaviour of the server.

    Attributes:
        asked: Every request.
        faults: What is to go wrong; used up from the front.
        token: The bearer token that is wanted, if any.
        multi_user: Whether users have namespaces of their own.
        forbidden: A namespace that nobody may use.
        tick: Seconds from one created thing to the next.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.token: str | None = None
        self.multi_user = False
        self.forbidden: str | None = None
        self.tick = 1
        self.experiments: dict[str, Any] = {}
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.recurring_runs: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self._clock = START
        self._lock = threading.Lock()

    # --- what tests look at and arrange

    def made(self) -> Counter[str]:
        """How many things of each kind there are."""
        return Counter({name: len(getattr(self, name)) for name in ("experiments", "pipelines", "versions",
                                                                    "recurring_runs", "runs")})  # fmt: skip

    def count(self, method: str, path: str) -> int:
        """How many requests began with this path."""
        return sum(one.method == method and one.path.startswith(f"/apis/v2beta1/{path}") for one in self.asked)

    def go_off(self, schedule: str, state: str = "RUNNING") -> str:
        """A schedule is due: starts its run and returns the run's id."""
        recurring = self.recurring_runs[schedule]
        run = kfp.V2beta1Run(
            run_id=str(uuid.uuid4()),
            display_name=f"Run of {recurring.display_name}",
            experiment_id=recurring.experiment_id,
            recurring_run_id=schedule,
            state=state,
            created_at=self._now(),
            finished_at=datetime.datetime.fromtimestamp(0, datetime.UTC),
        )
        self.runs[run.run_id] = run
        return str(run.run_id)

    # --- the API

    def answer(self, asked: Asked) -> Any:
        """What the API answers.

        Raises:
            Refusal: It is an error.
        """
        if self.token is not None and asked.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Request header error: there is no user identity header.")
        route = asked.path.removeprefix("/apis/v2beta1/")
        for method, pattern, handle in self._routes():
            match = re.fullmatch(pattern, route)
            if method == asked.method and match:
                with self._lock:
                    return handle(asked, *match.groups())
        raise Refusal(404, "Not Found")

    def _routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        return [
            ("GET", "healthz", lambda asked: kfp.V2beta1GetHealthzResponse(multi_user=self.multi_user)),
            ("GET", "experiments", lambda asked: self._list(asked, self.experiments, "experiments")),
            ("POST", "experiments", self._create_experiment),
            ("GET", "pipelines", lambda asked: self._list(asked, self.pipelines, "pipelines")),
            ("POST", "pipelines", self._create_pipeline),
            ("GET", "pipelines/([^/]+)/versions", self._list_versions),
            ("POST", "pipelines/upload_version", self._upload_version),
            ("GET", "runs", lambda asked: self._list(asked, self._of_experiment(asked, self.runs), "runs")),
            ("POST", "runs", self._create_run),
            ("GET", "recurringruns", self._list_recurring),
            ("POST", "recurringruns", self._create_recurring),
            ("DELETE", "recurringruns/([^/]+)", self._delete_recurring),
        ]

    def _create_experiment(self, asked: Asked) -> Any:
        made = self._model(asked, kfp.V2beta1Experiment)
        self._namespace(made.namespace)
        self._free(made.display_name, self.experiments)
        made.experiment_id, made.created_at = str(uuid.uuid4()), self._now()
        made.storage_state = kfp.V2beta1ExperimentStorageState.AVAILABLE
        self.experiments[made.experiment_id] = made
        return made

    def _create_pipeline(self, asked: Asked) -> Any:
        made = self._model(asked, kfp.V2beta1Pipeline)
        self._free(made.display_name, self.pipelines)
        made.pipeline_id, made.created_at = str(uuid.uuid4()), self._now()
        self.pipelines[made.pipeline_id] = made
        return made

    def _list_versions(self, asked: Asked, pipeline: str) -> Any:
        self._known(pipeline, self.pipelines, "Pipeline")
        mine = {key: one for key, one in self.versions.items() if one.pipeline_id == pipeline}
        return self._list(asked, mine, "pipeline_versions")

    def _upload_version(self, asked: Asked) -> Any:
        pipeline, name = asked.query.get("pipelineid", ""), asked.query.get("name", "")
        self._known(pipeline, self.pipelines, "Pipeline")
        head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
        parts = list(email.message_from_bytes(head + asked.body, policy=email.policy.HTTP).walk())[1:]
        if [part.get_param("name", header="content-disposition") for part in parts] != ["uploadfile"]:
            raise Refusal(400, "Failed to create a pipeline version")
        if not str(parts[0].get_filename()).endswith((".yaml", ".yml")):
            raise Refusal(400, "Unexpected pipeline file format. Support .zip, .tar.gz, .json, .yaml or .yml file")
        content = yaml.safe_load(bytes(parts[0].get_payload(decode=True)))
        spec = json_format.ParseDict(content, pipeline_spec_pb2.PipelineSpec())
        if spec.schema_version != "2.1.0":
            raise Refusal(400, f"KFP only supports schema version 2.1.0, but found {spec.schema_version}")
        self._free(name, {key: one for key, one in self.versions.items() if one.pipeline_id == pipeline})
        made = kfp.V2beta1PipelineVersion(
            pipeline_id=pipeline,
            pipeline_version_id=str(uuid.uuid4()),
            display_name=name,
            name=name,
            pipeline_spec=content,
            created_at=self._now(),
        )
        self.versions[made.pipeline_version_id] = made
        return made

    def _create_run(self, asked: Asked) -> Any:
        made = self._model(asked, kfp.V2beta1Run)
        self._source(made)
        made.run_id, made.created_at, made.state = str(uuid.uuid4()), self._now(), "PENDING"
        made.finished_at = datetime.datetime.fromtimestamp(0, datetime.UTC)
        made.service_account = made.service_account or "pipeline-runner"
        self.runs[made.run_id] = made
        return made

    def _list_recurring(self, asked: Asked) -> Any:
        return self._list(asked, self._of_experiment(asked, self.recurring_runs), "recurring_runs")

    def _create_recurring(self, asked: Asked) -> Any:
        made = self._model(asked, kfp.V2beta1RecurringRun)
        self._source(made)
        if not 1 <= int(made.max_concurrency or 0) <= 10:
            raise Refusal(400, f"Max concurrency of a recurring run must be at least 1 and at most 10: "
                               f"{made.max_concurrency}")  # fmt: skip
        cron = made.trigger.cron_schedule.cron
        fields = cron.split()
        if len(fields) != 6 or not re.fullmatch(r"\*|[0-6](-[0-6])?(,[0-6](-[0-6])?)*", fields[5]):
            raise Refusal(400, f"Schedule cron is not a supported format: {cron}")
        made.recurring_run_id, made.created_at = str(uuid.uuid4()), self._now()
        made.status = "ENABLED" if made.mode == "ENABLE" else "DISABLED"
        made.service_account = made.service_account or "pipeline-runner"
        self.recurring_runs[made.recurring_run_id] = made
        return made

    def _delete_recurring(self, asked: Asked, recurring: str) -> Any:
        self._known(recurring, self.recurring_runs, "Recurring run")
        del self.recurring_runs[recurring]
        if asked.query.get("propagation_policy") != "ORPHAN":
            self.runs = {key: run for key, run in self.runs.items() if run.recurring_run_id != recurring}
        return {}

    # --- what the calls share

    def _model(self, asked: Asked, model: Any) -> Any:
        """The body as one of kfp's models; a field that it does not have is refused, as protobuf's JSON does."""
        sent = json.loads(asked.body)
        unknown = set(sent) - set(model.attribute_map.values())
        if unknown:
            raise Refusal(400, f"unknown field {sorted(unknown)}")
        made = JSON.deserialize(type("Body", (), {"data": asked.body})(), model)
        if not made.display_name:
            raise Refusal(400, "The display name is empty")
        return made

    def _source(self, made: Any) -> None:
        self._known(made.experiment_id, self.experiments, "Experiment")
        reference = made.pipeline_version_reference
        self._known(reference.pipeline_version_id, self.versions, "Pipeline version")
        self._known(reference.pipeline_id, self.pipelines, "Pipeline")

    def _namespace(self, namespace: str | None) -> None:
        if self.multi_user and not namespace:
            raise Refusal(400, "An experiment cannot have an empty namespace in multi-user mode")
        if namespace and namespace == self.forbidden:
            raise Refusal(403, f"User is not authorized in namespace {namespace}")

    @staticmethod
    def _free(name: str, among: dict[str, Any]) -> None:
        if any(one.display_name == name for one in among.values()):
            raise Refusal(409, f"The name {name} already exists. Please specify a new name")

    @staticmethod
    def _known(identifier: str, among: dict[str, Any], what: str) -> None:
        if identifier not in among:
            raise Refusal(404, f"{what} {identifier} not found")

    def _of_experiment(self, asked: Asked, among: dict[str, Any]) -> dict[str, Any]:
        experiment = asked.query["experiment_id"]
        self._known(experiment, self.experiments, "Experiment")
        return {key: one for key, one in among.items() if one.experiment_id == experiment}

    def _list(self, asked: Asked, among: dict[str, Any], name: str) -> Any:
        """A page, in no order but the one asked for."""
        self._namespace(asked.query.get("namespace") or ("-" if name != "experiments" else None))
        found = sorted(among.values(), key=lambda one: str(one.display_name))
        if "filter" in asked.query:
            [predicate] = json.loads(asked.query["filter"])["predicates"]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            found = [one for one in found if one.display_name == predicate["stringValue"]]
        if asked.query.get("sort_by"):
            key, order = asked.query["sort_by"].split()
            found.sort(key=lambda one: getattr(one, key), reverse=order == "desc")
        start, size = int(asked.query.get("page_token") or 0), min(int(asked.query.get("page_size") or 10), PAGE)
        if name == "runs":  # asked for one page alone
            size = int(asked.query["page_size"])
        names = {"recurring_runs": "recurringRuns"}
        return {
            names.get(name, name): [JSON.sanitize_for_serialization(one) for one in found[start : start + size]],
            "total_size": len(found),
            "next_page_token": str(start + size) if start + size < len(found) else "",
        }

    def _now(self) -> datetime.datetime:
        self._clock += datetime.timedelta(seconds=self.tick)
        return self._clock


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def _do(self) -> None:
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        asked = Asked(
            self.command, address.path, query, {key.lower(): value for key, value in self.headers.items()}, body
        )
        self.api.asked.append(asked)
        fault = self._fault(asked)
        status, answer, kind, headers = 200, b"", "application/json", {}
        if fault is None or fault.when == "after":
            try:
                answer = json.dumps(JSON.sanitize_for_serialization(self.api.answer(asked))).encode()
            except Refusal as refusal:
                status = refusal.status
                said = {"error": str(refusal), "code": 3, "message": str(refusal), "details": []}
                if "upload" in asked.path:
                    said = {"error_message": str(refusal), "error_details": str(refusal)}
                answer = json.dumps(said).encode()
        if fault is not None:
            if fault.breaks:
                self.close_connection = True
                self.connection.close()
                return
            time.sleep(fault.seconds)
            status, answer, kind, headers = fault.status, fault.body, fault.kind, fault.headers
        try:
            self.send_response(status, HTTPStatus(status).phrase)
            for key, value in {**headers, "Content-Type": kind, "Content-Length": str(len(answer))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(answer)
        except OSError:  # the client has gone: it had waited long enough
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _do  # noqa: N815 - the names are http.server's

    def _fault(self, asked: Asked) -> Fault | None:
        for fault in self.api.faults:
            fits = fault.method == asked.method and asked.path.startswith(f"/apis/v2beta1/{fault.path}")
            if fits and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(api: FakeApi, certificate: Path | None = None) -> Iterator[str]:
    """Serves it on a free port.

    Args:
        api: What to serve.
        certificate: File with key and certificate: then over TLS.

    Yields:
        Its address.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
