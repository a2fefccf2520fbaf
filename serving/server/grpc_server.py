"""TF Serving's gRPC services."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from components.imaging.errors import UsageError
from serving.server import predict
from serving.server.loaded import Loaded
from serving.server.messages import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from serving.server.refusal import Code, Refusal
from serving.server.service import Call, Service
from serving.server.status import model_metadata, model_status

T = TypeVar("T")
API = "grpc"


async def _answered(service: Service, context: grpc.aio.ServicerContext, work: Callable[[Call], Awaitable[T]]) -> T:
    """The answer, or the refusal as gRPC's status."""
    try:
        with service.call(API) as call:
            return await work(call)
    except Refusal as refusal:
        await context.abort(refusal.code.status, str(refusal))
        raise AssertionError("abort raises") from None


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods ask for signatures that no model of this program has."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Predict(  # noqa: N802 - gRPC's name, as those below
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        left = context.time_remaining()
        deadline = None if left is None else time.monotonic() + left

        async def work(call: Call) -> predict_pb2.PredictResponse:
            def compute(loaded: Loaded) -> predict_pb2.PredictResponse:
                call.signature = loaded.signature(request.model_spec.signature_name).name
                return predict.answer(loaded, request, self._service.most_bytes)

            return await self._service.compute(request.model_spec, compute, deadline)

        return await _answered(self._service, context, work)

    async def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        async def work(_: Call) -> get_model_metadata_pb2.GetModelMetadataResponse:
            return model_metadata(self._service.models, request.model_spec, request.metadata_field)

        return await _answered(self._service, context, work)

    async def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: grpc.aio.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        return await _answered(self._service, context, _not_here)

    async def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest, context: grpc.aio.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        return await _answered(self._service, context, _not_here)

    async def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        return await _answered(self._service, context, _not_here)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; what is served is said on the command line alone."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        async def work(_: Call) -> get_model_status_pb2.GetModelStatusResponse:
            return model_status(self._service.models, request.model_spec)

        return await _answered(self._service, context, work)

    async def HandleReloadConfigRequest(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        return await _answered(self._service, context, _not_here)


async def _not_here(_: Call) -> NoReturn:
    raise Refusal(Code.UNIMPLEMENTED, "this server has Predict, GetModelMetadata and GetModelStatus")


async def start(service: Service, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Starts the server.

    Returns:
        The server and its port.

    Raises:
        UsageError: It cannot listen there.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.most_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise a second server shares the port of the first, and each gets some of the requests.
            ("grpc.so_reuseport", 0),
        ]
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(service), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(service), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise UsageError(f"{host}:{port}: gRPC cannot listen there; give a free --grpc-port (0: any) or another --host")
    await server.start()
    return server, bound
