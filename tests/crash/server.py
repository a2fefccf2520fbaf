"""Processes by the dozen: one that has imported everything, and a fork of it for each that is wanted.

Starting `ich run` costs seconds of imports; a fork has them for nothing. What the fork then does is what the command
does: a process of its own, in a process group of its own, so that SIGKILL hits its children too. TensorFlow and gRPC
have no threads yet when the fork is made.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class ForkServer:
    """Starts functions of `tests.crash.forked` as processes."""

    def __init__(self) -> None:
        """Starts the server, which imports while the caller goes on."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self, function: str, *arguments: Any, out: Path | None = None) -> int:
        """Starts a function in a process.

        Args:
            function: Its name in `tests.crash.forked`.
            *arguments: Its arguments, as JSON has them.
            out: File for what it prints, else dropped.

        Returns:
            The process's id.
        """
        return self._ask({"function": function, "arguments": arguments, "out": str(out or os.devnull)})

    def wait(self, process: int) -> int:
        """How a process ended, once it has: its exit code, or the signal that killed it as a negative number."""
        return self._ask({"wait": process})

    def call(self, function: str, *arguments: Any, out: Path | None = None) -> int:
        """Both of it."""
        return self.wait(self.start(function, *arguments, out=out))

    def close(self) -> None:
        """Ends the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(question, default=str), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


def main() -> None:
    """The server: a question a line, a number a line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the imports print
    forked = importlib.import_module("tests.crash.forked")
    gc.freeze()
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status, usage = os.wait4(question["wait"], 0)
            print("CPU", usage.ru_utime + usage.ru_stime, file=sys.stderr, flush=True)
            print(os.waitstatus_to_exitcode(status), file=answers)
            continue
        process = os.fork()
        if process:
            print(process, file=answers)
            continue
        _child(getattr(forked, question["function"]), question["arguments"], question["out"])


def _child(function: Any, arguments: list[Any], out: str) -> None:
    """Becomes the process that was asked for; never returns."""
    code = 1
    try:
        os.setsid()
        nothing, shown = os.open(os.devnull, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (shown, 1), (shown, 2)):
            os.dup2(source, target)
        code = function(*arguments) or 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
