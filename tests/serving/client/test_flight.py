"""Requests in flight."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.client.flight import Gate, in_order


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)))
def test_answers_are_in_the_order_of_the_jobs(order: list[int]) -> None:
    """Every job waits for the one before it in `order`."""
    ended = {job: threading.Event() for job in order}
    before = {after: ended[first] for first, after in pairwise(order)}

    def do(job: int) -> int:
        assert job not in before or before[job].wait(10)
        ended[job].set()
        return 10 * job

    assert in_order(range(6), do, threads=6) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("threads", [1, 4])
def test_no_jobs(threads: int) -> None:
    assert in_order([], str, threads) == []


def test_the_first_failure_is_raised_while_others_still_wait() -> None:
    release = threading.Event()

    def do(job: int) -> int:
        if job == 1:
            raise RuntimeError("one")
        assert release.wait(10)
        return job

    begun = []

    def jobs() -> object:
        for job in range(100):
            begun.append(job)
            yield job

    with pytest.raises(RuntimeError, match="one"):
        in_order(jobs(), do, threads=2)  # type: ignore[arg-type]
    release.set()
    assert len(begun) <= 3


def test_a_failure_of_the_jobs_themselves_is_raised() -> None:
    def jobs() -> object:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        in_order(jobs(), str, threads=3)  # type: ignore[arg-type]


def test_the_gate_halves_once_per_limit_and_opens_again() -> None:
    gate = Gate(8)
    for _ in range(5):
        gate.narrow(8)  # five requests that were sent together
    assert gate.limit == 4
    gate.narrow(4)
    gate.narrow(2)
    gate.narrow(1)
    assert gate.limit == 1
    limits = []
    for _ in range(40):
        gate.widen()
        limits.append(gate.limit)
    assert limits[:6] == [2, 2, 3, 3, 3, 4]
    assert limits[-1] == 8


def test_no_more_than_the_limit_are_inside() -> None:
    gate = Gate(2)
    inside, most, lock = 0, 0, threading.Lock()

    def do(job: int) -> None:
        nonlocal inside, most
        with gate.place():
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    in_order(range(200), do, threads=8)
    assert 1 <= most <= 2
    with gate.place() as first, gate.place() as second:
        assert (first, second) == (2, 2)
