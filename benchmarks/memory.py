"""Peak resident memory of a whole run, and how it grows with the cohort."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cohort import multiplied
from benchmarks.report import Result

SETTINGS = ("training.epochs=1", "training.steps_per_epoch=8", "gate.min_mean_dice=0")


def measure(data: Path, work: Path) -> Iterator[Result]:
    """Yields the peak of one run, and the ratio of a run on the same scans linked three times over."""
    once = peak_gib(data, work / "once")
    yield Result("peak memory of `ich run`", once, "GiB", 4.0, True, f"{_count(data)} scans")
    tripled = multiplied(data, work / "tripled", 3)
    thrice = peak_gib(tripled, work / "thrice")
    yield Result(
        "peak on thrice the scans / peak", thrice / once, "x", 1.10, True, f"{thrice:.2f} against {once:.2f} GiB"
    )


def _count(data: Path) -> int:
    return len(list((data / "images").glob("*.nii.gz")))


def peak_gib(data: Path, output: Path) -> float:
    """Peak resident memory in GiB of `ich run`, all training steps but few."""
    command = [sys.executable, "-m", "pipeline", "run", "--config", "phe_sich", "--data", str(data)]
    command += ["--output", str(output)]
    for setting in SETTINGS:
        command += ["--set", setting]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise RuntimeError(f"ich run ended with {process.returncode}; see {output}/logs")
    return usage.ru_maxrss / 1024**2
