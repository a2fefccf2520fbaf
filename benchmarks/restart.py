"""What a kill costs late in training, and how soon a run that has nothing new to do is through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Result

SETTINGS = ("training.epochs=6", "training.steps_per_epoch=100", "gate.min_mean_dice=0")
"""A training of some minutes: a start of ten seconds is no tenth of it."""

LATE = 0.9
"""When the run is killed: after this share of the training's time."""

_IMPORTS = "import pipeline.local_runner, pipeline.pipeline, tfx.orchestration.portable.launcher"


def measure(data: Path, work: Path) -> Iterator[Result]:
    """Yields the cost of a kill over an undisturbed run, and the seconds of two kinds of restart.

    Args:
        data: A folder with images/ and masks/.
        work: A folder to write to.
    """
    whole, killed = work / "whole", work / "killed"
    undisturbed, _ = _run(data, whole)
    until_kill = _killed(data, killed, LATE * _stage(whole, "Trainer")["seconds"])
    rest, _ = _run(data, killed)
    yield Result(
        "a late kill's cost / undisturbed run", (until_kill + rest - undisturbed) / undisturbed, "x", 0.10, True,
        f"{until_kill:.0f} + {rest:.0f} against {undisturbed:.0f} s",
    )  # fmt: skip
    seconds, _ = _run(data, whole)
    yield Result("restart, nothing changed", seconds, "s", 30.0, True, "says so")
    seconds, stages = _run(data, whole, "--force")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True, stderr=subprocess.DEVNULL)
    imports = time.perf_counter() - began
    reused = [stage["seconds"] for stage in stages if stage.get("cached")]
    yield Result(
        "forced restart, nothing changed", seconds, "s", 30.0, True,
        f"{len(reused)} of {len(stages) - 1} stages reused in {sum(reused):.1f} s, start {stages[0]['seconds']:.1f} s",
    )  # fmt: skip
    yield Result("of which imports", imports / seconds, "x", 0.5, False, f"{imports:.1f} s, taken alone")


def _command(data: Path, output: Path, *more: str) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "pipeline", "run", "-c", "phe_sich", "-d", str(data), "-o", str(output), "--json"]
    return [*command, *settings, *more]


def _run(data: Path, output: Path, *more: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and stages of a run."""
    began = time.perf_counter()
    done = subprocess.run(_command(data, output, *more), stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 3):
        raise RuntimeError(f"ich run ended with {done.returncode}; see {output}/logs")
    return seconds, json.loads(done.stdout.splitlines()[-1])["stages"]


def _killed(data: Path, output: Path, training_seconds: float) -> float:
    """Seconds of a run that is killed after so many of its training."""
    began = time.perf_counter()
    process = subprocess.Popen(_command(data, output), stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and "Trainer" not in {stage["name"] for stage in _stages(output)}:
        time.sleep(0.1)
    time.sleep(training_seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.perf_counter() - began


def _stage(output: Path, name: str) -> dict[str, Any]:
    return next(stage for stage in _stages(output) if stage["name"] == name)


def _stages(output: Path) -> list[dict[str, Any]]:
    """Of the newest run, as far as it is."""
    newest = max((output / "runs").glob("*.json"), default=None)
    found: list[dict[str, Any]] = json.loads(newest.read_text())["stages"] if newest else []
    return found
