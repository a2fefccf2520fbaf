"""Processes that start in no time: one imports what all of them need, and forks for each."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]


class Forkserver:
    """Runs `python -m module …` without the imports' time; the child sees arguments, environment and folder as usual.

    Args:
        imports: Modules that the parent imports. None of them may compute anything with TensorFlow when imported:
            its threads do not survive a fork.
    """

    def __init__(self, *imports: str) -> None:
        self._imports = imports

    def __enter__(self) -> Forkserver:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.processes", *self._imports],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:  # noqa: E501 # fmt: skip
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(timeout=60)

    def run(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> int:  # noqa: E501 # fmt: skip
        """Runs a module to its end; returns the exit code.

        Args:
            module: Its name.
            arguments: After its name.
            environment: All of it.
            folder: Working folder.
            log: Receives what it prints.
        """
        assert self._parent.stdin is not None and self._parent.stdout is not None
        request = {"module": module, "arguments": list(arguments), "environment": dict(environment),
                   "folder": str(folder), "log": str(log)}  # fmt: skip
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(request: dict[str, Any]) -> None:
    """What the child does; never returns."""
    code = 1
    try:
        log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(str(request["folder"]))
        sys.argv = ["", *request["arguments"]]
        runpy.run_module(str(request["module"]), run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
