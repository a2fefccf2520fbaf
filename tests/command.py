"""Running `ich` as a user does: a process of its own, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    """A user's: without what the libraries of this process, and its tests, have set for TensorFlow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def ich(*arguments: str | Path, cwd: Path | None = None, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Runs `ich` and returns what it printed; never raises for its exit code."""
    command = [sys.executable, "-m", "pipeline", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd or ROOT, env=environment(), timeout=timeout, check=False
    )
