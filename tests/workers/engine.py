"""An engine of several processes, none of which has the checkout: they get the package only as Beam ships it."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Isolated from PYTHONPATH and the working directory, and without `site`, whose .pth files lead to the checkout.
START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_path(sys.argv.pop(1), run_name='__main__')"


@dataclass(frozen=True)
class Engine:
    """A running engine.

    Attributes:
        args: Beam's arguments that lead to it.
        folder: Where its workers write.
    """

    args: list[str]
    folder: Path

    def workers(self) -> dict[int, dict[str, Any]]:
        """What each worker so far found, by process id, with the scans that it has opened."""
        found = {}
        for path in self.folder.glob("*/worker.json"):
            listing = path.with_name("opened.txt")
            opened = listing.read_text().splitlines() if listing.exists() else []
            found[int(path.parent.name)] = {**json.loads(path.read_text()), "opened": opened}
        return found


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Starts an engine, and ends it with all its workers."""
    folder.mkdir(parents=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"WORKERS_FOLDER": str(folder), "WORKERS_BOOT": str(folder / "boot")}
    python = [sys.executable, "-I", "-S", "-c", START, sysconfig.get_path("purelib")]
    for name in ("boot.py", "service.py"):
        shutil.copy(HERE / name, folder)
    command = " ".join(shlex.quote(part) for part in [*python, str(folder / "boot.py")])
    (folder / "boot").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (folder / "boot").chmod(0o755)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*python, str(folder / "service.py")], cwd="/", env=environment, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 120
        while not (folder / "addresses").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the engine did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.1)
        job, pool = (folder / "addresses").read_text().split()
        yield Engine([f"--job_endpoint={job}", "--environment_type=EXTERNAL", f"--environment_config={pool}"], folder)
    finally:
        process.terminate()
        process.wait(timeout=60)
