"""TF Serving's REST interface, with metrics and readiness."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_exceptions, web
from google.protobuf import json_format

from components.imaging.errors import UsageError
from serving.server.json_tensors import read_request, write_answer
from serving.server.loaded import Loaded
from serving.server.messages import get_model_metadata_pb2, model_pb2
from serving.server.predict import compute
from serving.server.refusal import Code, Refusal, invalid
from serving.server.service import Service
from serving.server.status import SIGNATURES, model_metadata, model_status
from serving.versions import MOST_VERSION

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
API = "rest"
METRICS_PATH = "/monitoring/prometheus/metrics"
READY_PATH = "/ready"
_MODEL = "/v1/models/{name:[^/:]+}"
_WHICH = ("", r"/versions/{version:\d+}", "/labels/{label:[^/:]+}")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=headers)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Makes every refusal the JSON that TF Serving's clients know."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _error(refusal.code.http, str(refusal))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return _error(error.status, f"wrong method, wanted {allowed}", {"Allow": allowed})
    except web.HTTPNotFound as error:
        return _error(error.status, "no such path; wanted /v1/models/NAME, .../metadata or ...:predict")
    except web.HTTPException as error:
        return _error(error.status, error.reason)


def _spec(request: web.Request) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=request.match_info["name"])
    if "version" in request.match_info:
        text = request.match_info["version"].lstrip("0") or "0"
        if len(text) > len(str(MOST_VERSION)) or int(text) > MOST_VERSION:
            raise invalid(f"the version is larger than {MOST_VERSION}")
        spec.version.value = int(text)
    elif "label" in request.match_info:
        spec.version_label = request.match_info["label"]
    return spec


def _tree(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class Rest:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """Paths and what answers them."""
        found = [
            web.get("/v1/models", self.no_name),
            web.get(METRICS_PATH, self.metrics),
            web.get(READY_PATH, self.ready),
        ]
        for which in _WHICH:
            found += [
                web.get(f"{_MODEL}{which}", self.status),
                web.get(f"{_MODEL}{which}/metadata", self.metadata),
                web.post(f"{_MODEL}{which}:predict", self.predict),
                web.post(f"{_MODEL}{which}:classify", self.not_here),
                web.post(f"{_MODEL}{which}:regress", self.not_here),
            ]
        return found

    async def predict(self, request: web.Request) -> web.Response:
        """Answers a request of rows or columns."""
        with self._service.call(API) as call:
            spec = _spec(request)
            body = await self._body(request)

            def work(loaded: Loaded) -> bytes:
                wanted = read_request(body, loaded)
                call.signature = wanted.signature.name
                return write_answer(compute(wanted.signature, wanted.inputs), wanted.rows)

            found = await self._service.compute(spec, work)
            return web.Response(body=found, content_type="application/json")

    async def _body(self, request: web.Request) -> bytes:
        """The body, unpacked; the packed and the unpacked size are bounded alike."""
        most = self._service.most_bytes
        try:
            if (request.content_length or 0) > most:
                raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Refusal(Code.TOO_LARGE, f"the request is larger than {most} bytes, the most that is taken") from None
        except (web.RequestPayloadError, http_exceptions.HttpProcessingError):
            raise invalid("the body cannot be unpacked as its Content-Encoding says") from None

    async def status(self, request: web.Request) -> web.Response:
        """States of the versions."""
        with self._service.call(API):
            return web.json_response(_tree(model_status(self._service.models, _spec(request))))

    async def metadata(self, request: web.Request) -> web.Response:
        """Signatures of a version."""
        with self._service.call(API):
            found = model_metadata(self._service.models, _spec(request))
            signatures = get_model_metadata_pb2.SignatureDefMap()
            found.metadata[SIGNATURES].Unpack(signatures)
            spec = {**_tree(found.model_spec), "signature_name": ""}
            return web.json_response({"model_spec": spec, "metadata": {SIGNATURES: _tree(signatures)}})

    async def no_name(self, request: web.Request) -> web.Response:
        """TF Serving does not list its models."""
        with self._service.call(API):
            raise invalid("the request names no model")

    async def not_here(self, request: web.Request) -> web.Response:
        """Signatures that no model of this program has."""
        with self._service.call(API):
            raise Refusal(Code.UNIMPLEMENTED, "this server has :predict alone")

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures for Prometheus."""
        page = self._service.metrics.page()
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 while new requests are answered, else 503."""
        ready = self._service.ready
        return web.Response(text=json.dumps({"ready": ready}), status=200 if ready else 503)


async def start(service: Service, host: str, port: int, grace_seconds: float) -> tuple[web.AppRunner, int]:
    """Starts the server.

    Returns:
        Its runner and its port.

    Raises:
        UsageError: It cannot listen there.
    """
    app = web.Application(client_max_size=service.most_bytes, middlewares=[_errors])
    app.add_routes(Rest(service).routes())
    silent = logging.getLogger(f"{__name__}.aiohttp")
    silent.setLevel(logging.CRITICAL + 1)  # aiohttp would log parts of requests that it cannot read
    runner = web.AppRunner(
        app, access_log=None, logger=silent, handler_cancellation=True, shutdown_timeout=grace_seconds
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise UsageError(
            f"{host}:{port}: REST cannot listen there ({error.strerror}); give a free --rest-port (0: any) or "
            "another --host"
        ) from None
    return runner, int(runner.addresses[0][1])
