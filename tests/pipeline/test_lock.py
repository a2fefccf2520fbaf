"""One run at a time, and no lock that outlives its process."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from components.imaging.errors import UsageError
from pipeline.lock import FILE_NAME, LOOK_SECONDS, holder, locked

HOLD = """
import sys, time
from pathlib import Path
from pipeline.lock import locked
with locked(Path(sys.argv[1]), "20260101T000000"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_of_the_first_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        assert holder(tmp_path) == "20260101T000000"
        with pytest.raises(UsageError, match=r"a run \(20260101T000000\) is under way there; wait for it"):
            locked(tmp_path, "20260101T000001").__enter__()
        assert holder(tmp_path) == "20260101T000000"
        first.send_signal(signal.SIGKILL)
    assert holder(tmp_path) is None
    with locked(tmp_path, "20260101T000002"):
        assert holder(tmp_path) == "20260101T000002"
    assert holder(tmp_path) is None


def test_a_run_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), locked(tmp_path, "a"):
        raise ValueError("no")
    with locked(tmp_path, "b"):
        assert holder(tmp_path) == "b"


def test_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    """`ich status` holds the lock for a moment."""
    with (tmp_path / FILE_NAME).open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(LOOK_SECONDS / 4, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        timer.start()
        with locked(tmp_path, "a"):
            assert holder(tmp_path) == "a"
        timer.join()
