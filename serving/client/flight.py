"""Requests in flight: how many at a time, and their answers in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gate:
    """Lets so many requests be in flight at a time, fewer while the server has too much to do.

    Attributes:
        limit: So many at present.
    """

    def __init__(self, most: int) -> None:
        self._most = self.limit = most
        self._held = 0
        self._good = 0
        self._changed = threading.Condition()

    @contextmanager
    def place(self) -> Iterator[int]:
        """Waits for a place and holds it; gives the limit at that time."""
        with self._changed:
            self._changed.wait_for(lambda: self._held < self.limit)
            self._held += 1
            limit = self.limit
        try:
            yield limit
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def narrow(self, seen: int) -> None:
        """Halves the limit, once for all requests that began under the limit `seen`."""
        with self._changed:
            self._good = 0
            if self.limit == seen:
                self.limit = max(1, seen // 2)

    def widen(self) -> None:
        """Counts a success: as many as the limit in a row let one more in, up to the first limit."""
        with self._changed:
            self._good += 1
            if self._good >= self.limit < self._most:
                self._good = 0
                self.limit += 1
                self._changed.notify_all()


class _Work(Generic[T, R]):
    """The threads' share of `in_order`."""

    def __init__(self, jobs: Iterable[T], do: Callable[[T], R]) -> None:
        self._jobs = enumerate(jobs)
        self._do = do
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self.done: queue.SimpleQueue[tuple[int, R] | BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    break
                self.done.put((job[0], self._do(job[1])))
        except BaseException as error:
            self.stop.set()
            self.done.put(error)
        self.done.put(None)


def in_order(jobs: Iterable[T], do: Callable[[T], R], threads: int) -> list[R]:
    """What `do` makes of every job, in the order of the jobs.

    The first failure is raised at once, and so is Ctrl-C: jobs that have begun come to their end unheard, others do not
    begin. The threads do not keep the program from ending.
    """
    work = _Work(jobs, do)
    answers = {}
    try:
        for _ in range(threads):
            threading.Thread(target=work.run, daemon=True, name="request").start()
        while threads:
            match work.done.get():
                case None:
                    threads -= 1
                case BaseException() as error:
                    raise error
                case (index, answer):
                    answers[index] = answer
    finally:
        work.stop.set()
    return [answers[index] for index in range(len(answers))]
