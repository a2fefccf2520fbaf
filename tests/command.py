"""Running `ich` as a user does: a process of its own, its output, its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def ich(*arguments: str | Path, cwd: Path | None = None, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Runs `ich` and returns what it printed; never raises for its exit code."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pipeline", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or root, timeout=timeout, check=False)
