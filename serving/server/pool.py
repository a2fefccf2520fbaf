"""Threads that compute, behind a queue that is never longer than agreed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.server.refusal import Code, Refusal

T = TypeVar("T")


class Pool:
    """Runs work in threads; what finds neither a thread nor a place in the queue is refused at once."""

    def __init__(self, threads: int, queue: int) -> None:
        """Starts no thread yet.

        Args:
            threads: Requests computed at a time.
            queue: Requests that may wait for a thread.
        """
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._threads = threads
        self._queue = queue
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Requests that have no thread yet."""
        return max(0, self._taken - self._threads)

    async def run(self, work: Callable[[], T], done: Callable[[], None], deadline: float | None = None) -> T:
        """What `work` returns, computed in a thread.

        Work that waits is dropped when the caller is cancelled; work that runs goes on, for nothing can stop it.

        Args:
            work: Computes the answer.
            done: Called once, whatever becomes of the work, when nothing of it runs any more.
            deadline: Time of `time.monotonic` after which nobody waits for the answer.

        Raises:
            Refusal: The queue is full, or the deadline passed before the work began.
        """
        with self._lock:
            full = self._taken >= self._threads + self._queue
            if not full:
                self._taken += 1
        if full:
            done()
            raise Refusal(
                Code.RESOURCE_EXHAUSTED,
                f"{self._threads} requests are computed and {self._queue} wait, which is the most; send it again later",
            )
        held = [work]

        def job() -> T:
            if deadline is not None and time.monotonic() >= deadline:
                raise Refusal(Code.DEADLINE_EXCEEDED, "the deadline passed while the request waited")
            return held[0]()

        def leave(_: object) -> None:
            held.clear()  # the executor keeps a dropped job until its turn, which must not keep the request too
            with self._lock:
                self._taken -= 1
            done()

        future = self._executor.submit(job)
        future.add_done_callback(leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Takes no more work and drops what waits."""
        self._executor.shutdown(wait=False, cancel_futures=True)
