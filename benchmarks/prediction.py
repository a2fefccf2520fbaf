"""Prediction of a 32-slice scan, warm in a process and cold from the shell."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Result, median_seconds


def measure(scan: Path, model: Path, work: Path, repeats: int) -> Iterator[Result]:
    """Yields warm and cold seconds.

    Args:
        scan: A scan of about 32 slices of 512 x 512.
        model: A folder of versions.
        work: A folder to write to.
        repeats: Timed repetitions.
    """
    from components.imaging.nifti import write_mask
    from serving.predictor import Predictor

    predictor = Predictor(model)

    def warm() -> None:
        prediction = predictor.predict(scan)
        write_mask(work / "mask.nii.gz", prediction.stored_mask, prediction.volume)

    seconds = median_seconds(warm, repeats)
    parts = predictor.predict(scan).report["seconds"]
    detail = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
    yield Result("warm prediction of a scan", seconds, "s", 1.5, True, detail)

    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pipeline", "predict", str(scan), "-o", str(work / "cold"), "-m", str(model)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - began)
    yield Result("cold prediction from the shell", sorted(times)[1], "s", 8.0, True, "")
