"""What both interfaces share: requests are counted, bounded, given to a version and, at the end, waited for."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from serving.server.loaded import Loaded
from serving.server.messages import model_pb2
from serving.server.metrics import Metrics
from serving.server.models import Models, asked
from serving.server.pool import Pool
from serving.server.refusal import Code, Refusal

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass
class Call:
    """A request on its way.

    Attributes:
        signature: Of the model, for the metrics; empty until it is known to be one.
    """

    signature: str = ""


class Service:
    """One model behind two interfaces. All methods belong to the event loop.

    Attributes:
        models: Its versions.
        metrics: Its figures.
        most_bytes: Size of the largest request.
    """

    def __init__(self, models: Models, pool: Pool, metrics: Metrics, most_bytes: int) -> None:
        self.models = models
        self.metrics = metrics
        self.most_bytes = most_bytes
        self._pool = pool
        self._stopping = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.watch_versions(models.name, models.numbers)
        metrics.in_flight.set_function(lambda: self._in_flight)
        metrics.queue_length.set_function(lambda: pool.waiting)

    @property
    def ready(self) -> bool:
        """New requests are answered."""
        return not self._stopping and bool(self.models.numbers())

    @contextmanager
    def call(self, api: str) -> Iterator[Call]:
        """Counts a request while it is answered.

        Raises:
            Refusal: The server is stopping, or the answer failed for whatever reason.
        """
        call = Call()
        began = time.monotonic()
        code = Code.OK
        self._in_flight += 1
        self._idle.clear()
        try:
            if self._stopping:
                raise Refusal(Code.UNAVAILABLE, "the server is stopping")
            yield call
        except Refusal as refusal:
            code = refusal.code
            raise
        except (asyncio.CancelledError, ConnectionError):
            code = Code.CANCELLED
            raise
        except Exception as error:
            code = Code.INTERNAL
            # Where it happened, but not its text, which may hold parts of the request.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("a request failed: %s\n%s", type(error).__name__, frames)
            raise Refusal(code, "the server failed; its log says where") from None
        finally:
            self.metrics.done(api, call.signature, code.status.name, time.monotonic() - began)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def compute(self, spec: model_pb2.ModelSpec, work: Callable[[Loaded], T], deadline: float | None = None) -> T:
        """What `work` makes of the version that the request names, in a thread.

        The version is settled here, so that a request that waits is answered by what was in service when it came.

        Raises:
            Refusal: There is no such version, no room, no time left, or `work` refuses.
        """
        loaded, give_back = self.models.lease(*asked(spec))
        return await self._pool.run(lambda: work(loaded), give_back, deadline)

    async def drain(self, seconds: float) -> bool:
        """Refuses new requests and waits for those under way; says whether all were answered in time."""
        self._stopping = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True
