"""Capturing output: where the lines of Python, C++ and child processes go, and where ours go.

Each case is a process of its own: within a test, Python's streams are pytest's and do not write to descriptors 1 and 2.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PREAMBLE = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from pipeline.console import captured, say, stream

def noise(name):
    "One line each by every road to the terminal."
    print(f"{name} print")
    print(f"{name} print to stderr", file=sys.stderr)
    os.write(1, f"{name} descriptor 1\\n".encode())
    os.write(2, f"{name} descriptor 2\\n".encode())
    subprocess.run(["sh", "-c", f"echo {name} child; echo {name} child error >&2"], check=True)

def descriptors():
    return len(os.listdir("/proc/self/fd"))
"""
ROADS = {
    "out": ("print", "descriptor 1", "child"),
    "err": ("print to stderr", "descriptor 2", "child error"),
}


def process(folder: Path, program: str) -> tuple[list[str], list[str]]:
    """Runs a program in `folder`; returns its lines on standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def noise(*names: str, road: str = "") -> list[str]:
    """The lines of the program's `noise`, sorted."""
    roads = ROADS[road] if road else (*ROADS["out"], *ROADS["err"])
    return sorted(f"{name} {kind}" for name in names for kind in roads)


def logged(path: Path) -> list[str]:
    return sorted(path.read_text(encoding="utf-8").splitlines())


def test_everything_but_our_lines_goes_to_the_log(tmp_path: Path) -> None:
    out, err = process(
        tmp_path,
        """
        noise("before")
        with captured(Path("logs/run.log")):  # the folder is made
            noise("inside")
            say("our line")
            say("ünïcode ±")
            print("for the user", file=stream())
        noise("after")
        """,
    )
    assert logged(tmp_path / "logs/run.log") == noise("inside")
    ours = ["our line", "ünïcode ±", "for the user"]
    assert [line for line in out if line in ours] == ours
    assert sorted(line for line in out if line not in ours) == noise("before", "after", road="out")
    assert sorted(err) == noise("before", "after", road="err")


def test_lines_keep_their_order(tmp_path: Path) -> None:
    out, err = process(
        tmp_path,
        """
        print("first")  # still in Python's buffer when capturing begins
        with captured(Path("log")):
            say("second")
            print("hidden")  # still in Python's buffer when capturing ends
        print("third")
        """,
    )
    assert (out, err) == (["first", "second", "third"], [])
    assert logged(tmp_path / "log") == ["hidden"]


def test_loggers_and_warnings_are_captured(tmp_path: Path) -> None:
    out, err = process(
        tmp_path,
        """
        logging.basicConfig()  # keeps the stream of now
        with captured(Path("log")):
            logging.warning("from a logger")
            warnings.warn("a warning")
        """,
    )
    assert (out, err) == ([], [])
    text = (tmp_path / "log").read_text()
    assert "from a logger" in text
    assert "a warning" in text


def test_nesting_keeps_the_outer_log_and_the_outer_terminal(tmp_path: Path) -> None:
    out, err = process(
        tmp_path,
        """
        with captured(Path("outer")):
            with captured(Path("inner")):
                noise("nested")
                say("from within")
            noise("still")
            say("from without")
        """,
    )
    assert (out, err) == (["from within", "from without"], [])
    assert logged(tmp_path / "outer") == noise("nested", "still")
    assert not (tmp_path / "inner").exists()


@pytest.mark.parametrize("kind", ["ValueError", "KeyboardInterrupt", "SystemExit"])
def test_the_terminal_comes_back_after_an_exception(tmp_path: Path, kind: str) -> None:
    out, err = process(
        tmp_path,
        f"""
        before = descriptors()
        try:
            with captured(Path("log")):
                print("inside")
                raise {kind}("stop")
        except {kind}:
            assert stream() is sys.stdout
            assert descriptors() == before  # nothing leaks
            noise("after")
            say("ours")
        """,
    )
    assert sorted(out) == sorted([*noise("after", road="out"), "ours"])
    assert sorted(err) == noise("after", road="err")
    assert logged(tmp_path / "log") == ["inside"]


def test_a_second_capture_appends(tmp_path: Path) -> None:
    process(
        tmp_path,
        """
        for number in (1, 2):
            with captured(Path("log")):
                print("run", number)
        """,
    )
    assert (tmp_path / "log").read_text() == "run 1\nrun 2\n"


def test_verbose_shows_everything_and_logs_it_too(tmp_path: Path) -> None:
    out, err = process(
        tmp_path,
        """
        before = descriptors()
        with captured(Path("logs/log"), verbose=True):
            noise("loud")
            say("ours")
        noise("after")
        assert descriptors() == before
        """,
    )
    assert sorted(out) == sorted([*noise("loud", "after", road="out"), "ours"])
    assert sorted(err) == noise("loud", "after", road="err")
    assert logged(tmp_path / "logs" / "log") == sorted([*noise("loud"), "ours"])


def test_verbose_where_there_is_no_log(tmp_path: Path) -> None:
    out, err = process(tmp_path, "with captured(Path(os.devnull), verbose=True): noise('loud')")
    assert (sorted(out), sorted(err)) == (noise("loud", road="out"), noise("loud", road="err"))


def test_a_log_that_cannot_be_written_leaves_the_terminal_alone(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    out, err = process(
        tmp_path,
        """
        before = descriptors()
        try:
            with captured(Path("log")):
                print("never")
        except IsADirectoryError:
            noise("after")
            say("ours")
        assert descriptors() == before
        """,
    )
    assert sorted(out) == sorted([*noise("after", road="out"), "ours"])
    assert sorted(err) == noise("after", road="err")
