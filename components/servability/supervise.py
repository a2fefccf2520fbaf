"""Runs the probe, and lives on whatever the model does to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from components.servability.rules import judge, refused
from components.servability.task import write_task
from serving.contract import Contract

PROBE = "components.servability.probe"
_ROOT = Path(__file__).parents[2]


def examine(model: str, text: str, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a model to the test in a process of its own.

    Args:
        model: Folder or URI of the SavedModel.
        text: Its contract, as it stands beside it.
        bounds: The configuration's section `servability`.

    Returns:
        What `components.servability.rules.judge` returns.
    """
    try:
        contract = Contract.from_json(text)
    except UsageError as error:
        return refused("contract", str(error))
    with tempfile.TemporaryDirectory(prefix="servability-") as name:
        folder = Path(name)
        write_task(folder, contract, text)
        report = folder / "report.json"
        ended = _run([PROBE, model, str(folder), str(report)], bounds["timeout_s"])
        try:
            found = json.loads(report.read_bytes())
        except (OSError, ValueError):
            found = {}
        return judge(found, ended, bounds)


def _run(arguments: list[str], timeout_s: float) -> str:
    """Runs a module as a process; returns how it ended, or nothing where it ended well.

    What it prints goes where this process prints. It computes on the processor: a GPU's memory is this process's, who
    may have trained on it.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=environment,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"was stopped after {timeout_s:g} s"
    if done.returncode < 0:
        return f"was killed by {signal.Signals(-done.returncode).name}"
    return f"ended with exit code {done.returncode}" if done.returncode else ""
