"""The running server: both interfaces and the look-out for new versions on one event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serving.server import grpc_server, rest_server
from serving.server.metrics import Metrics
from serving.server.models import Models
from serving.server.options import Options
from serving.server.pool import Pool
from serving.server.service import Service

_LOG = logging.getLogger(__name__)
_FLUSH_SECONDS = 2.0
"""What the last answers have to reach their clients."""

NOTE = "for development and small sites; use TF Serving in production"


async def run(
    options: Options, say: Callable[[str], None], stop: asyncio.Event, started: Callable[[int, int], None]
) -> None:
    """Serves until `stop` is set, then answers what was accepted.

    Args:
        options: How.
        say: Shows a line to whoever started the server.
        stop: Ends it.
        started: Called with the ports of gRPC and REST once both answer.

    Raises:
        UsageError: There is no model, or a port is taken.
    """
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    # One thread for all loading, so that versions come and go one after the other.
    loader = ThreadPoolExecutor(1, thread_name_prefix="load")
    pool = Pool(options.threads, options.queue)
    try:
        load = partial(Models, options.model, keep_versions=options.keep_versions, failed=metrics.load_failures.inc)
        models = await loop.run_in_executor(loader, load)
        service = Service(models, pool, metrics, options.most_bytes)
        grpc, grpc_port = await grpc_server.start(service, options.host, options.grpc_port)
        try:
            rest, rest_port = await rest_server.start(service, options.host, options.rest_port, _FLUSH_SECONDS)
        except BaseException:
            await grpc.stop(None)
            raise
        watching = asyncio.create_task(_watch(models, loader, options.poll_seconds))
        say(f"model    {models.name}")
        say(f"version  {', '.join(map(str, reversed(models.numbers())))}")
        say(f"gRPC     {options.host}:{grpc_port}")
        say(f"REST     http://{options.host}:{rest_port}/v1/models/{models.name}")
        say(NOTE)
        started(grpc_port, rest_port)
        await stop.wait()
        _LOG.info("stopping: no new requests")
        answered = await service.drain(options.grace_seconds)
        if not answered:
            _LOG.warning("requests were not answered within %g s", options.grace_seconds)
        watching.cancel()
        await asyncio.gather(grpc.stop(_FLUSH_SECONDS if answered else None), rest.cleanup())
        _LOG.info("stopped")
    finally:
        pool.close()
        loader.shutdown(wait=False, cancel_futures=True)


async def _watch(models: Models, loader: ThreadPoolExecutor, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.get_running_loop().run_in_executor(loader, models.scan)
        except Exception as error:  # a folder on a network may be away for a while; the look-out must go on
            _LOG.warning("the folder of versions cannot be read (%s)", type(error).__name__)


def serve_until_signal(options: Options, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; raises as `run` does."""

    async def main() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await run(options, say, stop, lambda grpc, rest: None)

    asyncio.run(main())
