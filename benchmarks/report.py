"""How a measurement is shown and kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One figure.

    Attributes:
        name: What was measured.
        value: The figure.
        unit: Its unit; `x` for a ratio.
        goal: What it should be.
        at_most: Whether the goal is an upper bound.
        detail: The figures behind a ratio.
    """

    name: str
    value: float
    unit: str
    goal: float
    at_most: bool
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def line(self) -> str:
        """One line of the table."""
        bound = "<=" if self.at_most else ">="
        verdict = "ok  " if self.met else "MISS"
        return f"{verdict} {self.name:<38}{self.value:9.2f} {self.unit:<4} goal {bound} {self.goal:g}   {self.detail}"


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time of an action, after one run that does not count."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def interleaved_seconds(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall times of two actions run in turn, so that a drifting machine slows both."""
    first()
    second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for action, found in zip((first, second), times, strict=True):
            began = time.perf_counter()
            action()
            found.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])
