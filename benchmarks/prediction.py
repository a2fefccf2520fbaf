"""Prediction of a 32-slice scan to its written files, warm in a process and cold from the shell, and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Result, median_seconds


def measure(scan: Path, model: Path, work: Path, repeats: int) -> Iterator[Result]:
    """Yields warm and cold seconds, and the cold process's peak memory.

    Args:
        scan: A scan of about 32 slices of 512 x 512.
        model: A folder of versions.
        work: A folder to write to.
        repeats: Timed repetitions.
    """
    from pipeline.predict import Options, predict_all
    from serving.prediction.predictor import Predictor

    predictor = Predictor(model)
    reports = []

    def warm() -> None:
        (result,) = predict_all([scan], work / "warm", lambda: predictor, Options(overwrite=True))
        reports.append(result.report)

    seconds = median_seconds(warm, repeats)
    detail = ", ".join(f"{name} {value:.2f}" for name, value in reports[-1]["seconds"].items())
    yield Result("warm prediction of a scan", seconds, "s", 2.0, True, detail)

    times, peaks = [], []
    for _ in range(3):
        began = time.perf_counter()
        command = [sys.executable, "-m", "pipeline", "predict", str(scan), "-o", str(work / "cold"), "-m", str(model)]
        process = subprocess.Popen([*command, "--overwrite"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
        times.append(time.perf_counter() - began)
        peaks.append(usage.ru_maxrss / 1024**2)
    yield Result("cold prediction from the shell", sorted(times)[1], "s", 8.0, True, "")
    yield Result("peak memory of a cold prediction", max(peaks), "GiB", 1.5, True, "")
