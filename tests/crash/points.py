"""Points of a run at which something can happen: where TFX begins and ends a stage, and each thing that is written.

Written things are counted by stage: files that Python opens to write, renames and the like as its audit events tell
them, and what goes through TensorFlow's file system, of which the point is the middle of the bytes. The count is the
same in each run that does the same, so a point found in one run is there in the next.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorflow.python.lib.io import _pywrap_file_io, file_io
from tfx.orchestration.portable import launcher

from pipeline import local_runner

REGISTERED, WRITES, UNPUBLISHED, PUBLISHED = "registered", "writes", "unpublished", "published"
"""The metadata store knows that the stage began; the executor writes something; it has written everything, and nobody
knows; the metadata store knows that it ended."""

RUNNER, RECORDED = "runner", "recorded"
"""The stage of what is written while no executor runs; the summary of a finished run is there, and no record of it for
the next one."""

_EVENTS = ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "shutil.copyfile")


def die() -> None:
    """What the system does to a process that takes too much memory, or a user to one that he has had enough of."""
    os.killpg(os.getpgid(0), signal.SIGKILL)
    signal.pause()


def stop() -> None:
    """Stands still until SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


class _Fill:
    """Fills the disk but for some bytes."""

    def __init__(self, file: str, room: int) -> None:
        self._file, self._room = Path(file), room

    def __call__(self) -> None:
        free = os.statvfs(self._file.parent)
        self._file.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - self._room)))


class _Points:
    """Where a run is."""

    def __init__(self, output: str, stage: str, point: str, count: int, act: Callable[[], None]) -> None:
        self.output, self.act = output, act
        self.passed: Counter[str] = Counter()
        self.executing = RUNNER
        self._stage, self._point, self._count = stage, point, count
        self._lock = threading.Lock()

    def reached(self, stage: str, point: str) -> bool:
        """Passes a point; whether it is the one."""
        with self._lock:
            name = f"{stage}/{point}"
            self.passed[name] += 1
            return (stage, point, self.passed[name]) == (self._stage, self._point, self._count)

    def reach(self, stage: str, point: str) -> None:
        """Passes a point, where something may happen."""
        if self.reached(stage, point):
            self.act()

    def executed(self, stage: str) -> None:
        """An executor is through; if it wrote less than expected, it happens now."""
        if stage == self._stage and self._point == WRITES and self.passed[f"{stage}/{WRITES}"] < self._count:
            self.act()


def arm(
    output: str,
    stage: str = "",
    point: str = "",
    count: int = 1,
    action: str = "die",
    filler: str = "",
    room: int = 0,
    trace: str = "",
) -> None:
    """Lets something happen in this process.

    Args:
        output: The output folder, outside of which nothing counts.
        stage: The stage it happens in; empty: none.
        point: The point in it.
        count: At how many times it is passed.
        action: `die`, `stop` or `fill`.
        filler: The file that fills the disk.
        room: Bytes that are left on it.
        trace: File for how often each point was passed, written when the pipeline is through.
    """
    actions: dict[str, Callable[[], None]] = {"die": die, "stop": stop, "fill": _Fill(filler, room)}
    points = _Points(os.path.realpath(output), stage, point, count, actions[action])
    _watch_stages(points)
    sys.addaudithook(lambda event, arguments: _audit(points, event, arguments))
    _watch_tensorflow(points)
    runner: Any = local_runner
    remember = runner.write_last_run

    def write_last_run(*arguments: Any) -> None:
        points.reach(RUNNER, RECORDED)
        remember(*arguments)
        if trace:
            Path(trace).write_text(json.dumps(points.passed))

    runner.write_last_run = write_last_run


def _watch_stages(points: _Points) -> None:
    class_: Any = launcher.Launcher
    run, publish = class_._run_executor, class_._publish_successful_execution

    def run_executor(self: Any, *arguments: Any) -> Any:
        stage = self._pipeline_node.node_info.id
        points.reach(stage, REGISTERED)
        points.executing = stage
        try:
            return run(self, *arguments)
        finally:
            points.executing = RUNNER

    def publish_successful_execution(self: Any, *arguments: Any) -> None:
        stage = self._pipeline_node.node_info.id
        points.executed(stage)
        points.reach(stage, UNPUBLISHED)
        publish(self, *arguments)
        points.reach(stage, PUBLISHED)

    class_._run_executor, class_._publish_successful_execution = run_executor, publish_successful_execution


def _audit(points: _Points, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR):
            return
    elif event in _EVENTS:
        path = arguments[0]
    else:
        return
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(points.output):
        points.reach(points.executing, WRITES)


class _Half:
    """A file of TensorFlow's to whose first half something may happen."""

    def __init__(self, file: Any, points: _Points) -> None:
        self._file, self._points = file, points

    def append(self, data: Any) -> None:
        half = 0
        if self._points.reached(self._points.executing, WRITES):
            half = len(data) // 2
            self._file.append(bytes(data)[:half])
            self._file.flush()
            self._points.act()
        self._file.append(bytes(data)[half:] if half else data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _watch_tensorflow(points: _Points) -> None:
    writable, rename = _pywrap_file_io.WritableFile, _pywrap_file_io.RenameFile

    def inside(path: Any) -> bool:
        return os.fsdecode(path).startswith(points.output)

    def open_writable(path: Any, mode: Any) -> Any:
        file = writable(path, mode)
        return _Half(file, points) if inside(path) else file

    def rename_file(source: Any, *arguments: Any) -> None:
        if inside(source):
            points.reach(points.executing, WRITES)
        rename(source, *arguments)

    module: Any = file_io._pywrap_file_io
    module.WritableFile, module.RenameFile = open_writable, rename_file
