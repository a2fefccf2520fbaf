"""A model on a server as an engine: what `serving.prediction.outline.predict_volume` needs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, wait_exponential_jitter

from components.imaging.errors import IchError, UsageError
from components.imaging.scan import Scan
from serving.client.channel import Busy, Channel, Failure, Gone, Inputs, Late, Unavailable
from serving.client.flight import Gate, in_order
from serving.client.url import ServerUrl
from serving.contract import Contract
from serving.prediction.outline import Answer, GridChanged
from serving.signatures import BATCH, requests

R = TypeVar("R")

CONCURRENCY = 4
"""Requests in flight: the server computes one while others travel."""

DEADLINE_S = 60.0
"""Longest time to wait for the answer to one request, in seconds."""

ATTEMPTS: dict[type[Failure], int] = {Unavailable: 7, Busy: 40, Late: 2}
"""How often a request is sent until a failure of that kind is final. With the pauses between them a server may be away
for about 10 s and busy for 3 minutes."""

BEGINNINGS = 5
"""How often a scan is begun, for each time the version that answers it is taken out of service."""

PAUSE_S = 0.2
"""First pause before a request is sent again; it doubles up to `LONGEST_PAUSE_S`, and varies."""

LONGEST_PAUSE_S = 5.0


class RemoteModel:
    """A model that TF Serving serves: the engine on a server.

    Every scan is answered by one version, the newest at the time. May be used by several threads.

    Example:
        >>> with RemoteModel("grpc://localhost:8500/ich") as model:
        ...     prediction = predict_volume(model, read_volume(path), path)
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = DEADLINE_S,
        concurrency: int = CONCURRENCY,
        batch: int = BATCH,
        pause_s: float = PAUSE_S,
    ) -> None:
        """Prepares a connection; the server is first asked when the contract is wanted.

        Args:
            url: `grpc://host[:port][/model]`, or the same with `grpcs`, `http` or `https`.
            deadline_s: Longest time to wait for the answer to one request, in seconds.
            concurrency: Most requests in flight.
            batch: Most slices a request, of a model that takes slices in any order.
            pause_s: First pause before a request is sent again, in seconds.

        Raises:
            UsageError: The URL or a number cannot be used.
        """
        self._url = ServerUrl.parse(url)
        for name, value in (("deadline_s", deadline_s), ("concurrency", concurrency), ("batch", batch)):
            if not value > 0:
                raise UsageError(f"{name}: found {value}, wanted more than 0")
        self._deadline_s = deadline_s
        self._concurrency = concurrency
        self._batch = batch
        self._pause_s = pause_s
        self._gate = Gate(concurrency)
        self._closed = threading.Event()
        self._mine = _Mine()
        self._channel = _channel(self._url, concurrency)

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and requests of other threads with it."""
        self._closed.set()
        self._channel.close()

    @property
    def place(self) -> str:
        """The model's URL."""
        return str(self._url)

    @property
    def contract(self) -> Contract:
        """Of the newest version in service; the server is asked, and this thread's next `answer` uses that version.

        Raises:
            UsageError: The server cannot be reached, has no such model, or the model's contract cannot be read.
            IchError: There is no answer.
        """
        self._mine.pin = self._look()
        return self._mine.pin[0]

    def answer(self, scan: Scan) -> Answer:
        """The network's probabilities of a scan, all of them by one version.

        Raises:
            GridChanged: The model in service changed, and with it the grid.
            IchError: There is no answer, or it cannot be used.
        """
        # What `contract` found is used once: by the next scan there may be a newer version.
        pin, self._mine.pin = self._mine.pin, None
        changes, self._mine.changes = self._mine.changes, 0
        for beginning in range(BEGINNINGS):
            if beginning:
                self._closed.wait(self._pause_s * beginning)
            contract, version = pin or self._look()
            pin = None
            self._same_grid(scan, contract, changes)
            try:
                parts = in_order(
                    requests(scan, contract, self._batch),
                    lambda inputs, version=version: self._predict(inputs, version),  # type: ignore[misc]
                    1 if contract.input == "scan" else self._concurrency,
                )
            except Gone as error:
                reason = error
                continue
            except Failure as error:
                raise self._final(error) from None
            return Answer(np.concatenate(parts), contract, version)
        raise IchError(
            f"{self.place}: the version in service changed {BEGINNINGS} times while one scan was answered "
            f"(last: {reason}); try again when the server's models are settled"
        )

    def _same_grid(self, scan: Scan, contract: Contract, changes: int) -> None:
        """Compares a scan's grid with that of the version that is to answer it, after so many changes of the grid."""
        geometry = scan.geometry
        if (geometry.grid_size, geometry.grid_spacing_mm) == (contract.grid_size, contract.grid_spacing_mm):
            return
        if changes + 1 >= BEGINNINGS:
            raise IchError(
                f"{self.place}: the model's grid changed {BEGINNINGS} times while one scan was answered; "
                "serve versions of one grid under this name, or try again when the server's models are settled"
            )
        self._mine.changes = changes + 1
        raise GridChanged

    def _look(self) -> tuple[Contract, str]:
        """The newest version in service, and its contract."""
        try:
            return self._retried(lambda: self._channel.describe(None, self._deadline_s))
        except Gone as error:
            raise UsageError(
                f"{self.place}: no model {self._url.model!r} in service ({error}); "
                "give the name that the server uses as grpc://HOST:PORT/MODEL, or wait until it has loaded the model"
            ) from None
        except Unavailable as error:
            raise UsageError(
                f"{self.place}: the server cannot be reached ({error}); "
                "check that TF Serving runs there, and that the port is the one of this protocol (gRPC 8500, REST 8501)"
            ) from None
        except (Busy, Late) as error:
            raise self._final(error) from None
        except Failure as error:
            raise UsageError(
                f"{self.place}: the model cannot be asked what it needs ({error}); "
                "check that the URL is TF Serving's, and that the model was made by this program"
            ) from None
        except UsageError as error:
            raise UsageError(f"{self.place}: {error}") from None

    def _predict(self, inputs: Inputs, version: str) -> np.ndarray:
        """One request's probabilities, when there is a place for it."""

        def once() -> np.ndarray:
            with self._gate.place() as limit:
                try:
                    found = self._channel.predict(inputs, version, self._deadline_s)
                except Busy:
                    self._gate.narrow(limit)
                    raise
            self._gate.widen()
            return found

        return self._retried(once)

    def _retried(self, once: Callable[[], R]) -> R:
        """Sends a request until it is answered, or a failure is final."""
        failures: Counter[type[Failure]] = Counter()

        def final(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            kind = type(error) if isinstance(error, Failure) else Failure
            failures[kind] += 1
            return self._closed.is_set() or failures[kind] >= ATTEMPTS.get(kind, 1)

        return Retrying(
            retry=retry_if_exception_type(tuple(ATTEMPTS)),
            stop=final,
            wait=wait_exponential_jitter(self._pause_s, LONGEST_PAUSE_S, jitter=self._pause_s),
            sleep=sleep_using_event(self._closed),
            reraise=True,
        )(once)

    def _final(self, error: Failure) -> IchError:
        """A failure of the last attempt, for the user."""
        match error:
            case Unavailable():
                text = f"the server went away ({error}); check that it runs, and try again"
            case Busy():
                text = f"the server has too much to do ({error}); try again later, or with fewer requests in flight"
            case Late():
                text = f"no answer within {self._deadline_s:g} s, twice; give it more time, or fewer slices a request"
            case _:
                text = f"the server gave no answer that can be used ({error}); check the model and the server's log"
        return IchError(f"{self.place}: {text}")


class _Mine(threading.local):
    """What belongs to the scan that a thread is at."""

    pin: tuple[Contract, str] | None = None
    changes: int = 0


def _channel(url: ServerUrl, connections: int) -> Channel:
    """The protocol of a URL; each brings a library that the other does not need."""
    if url.scheme.startswith("grpc"):
        from serving.client.grpc_channel import GrpcChannel

        return GrpcChannel(url)
    from serving.client.rest_channel import RestChannel

    return RestChannel(url, connections)
