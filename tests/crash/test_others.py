"""Others at the same output folder: a second run, a program that locks the metadata; and a clock that is set back."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from pipeline.status import output_status
from serving.versions import versions
from tests.crash.conftest import Lab, Undisturbed

DAY = 86400.0


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_second_run_is_refused_while_the_first_only_stands_still(lab: Lab) -> None:
    output = lab.folder / "two"
    at = {"output": str(output), "stage": "NiftiExampleGen", "point": "writes", "action": "stop"}
    first = lab.server.start("ich", lab.arguments(output), at)
    until = time.monotonic() + 300
    while _state(first) != "T":
        assert time.monotonic() < until
        time.sleep(0.05)
    (running,) = output_status(output)["runs"]
    assert (running["state"], running["stage"]) == ("running", "NiftiExampleGen")
    before = sorted(output.rglob("*"))
    code, printed = lab.run(output)
    assert code == 2 and printed.count("\n") == 1, printed
    assert f"error: {output}: a run ({running['run']}) is under way there; wait for it" in printed
    assert sorted(output.rglob("*")) == before
    os.killpg(first, signal.SIGKILL)
    assert lab.server.wait(first) == -signal.SIGKILL
    assert output_status(output)["runs"][0]["state"] == "killed"


def test_a_locked_metadata_store_is_waited_for(lab: Lab, undisturbed: Undisturbed) -> None:
    database = sqlite3.connect(undisturbed.output / "metadata.sqlite", isolation_level=None, check_same_thread=False)
    database.execute("BEGIN EXCLUSIVE")
    code, printed = lab.run(undisturbed.output, "--force", patience=0.5)
    assert code == 1 and "Traceback" not in printed, printed
    assert "metadata.sqlite is locked by another program; waiting up to 0.5 s" in printed
    assert f"error: {undisturbed.output}/metadata.sqlite: another program keeps it locked; end that program" in printed
    threading.Timer(3, lambda: database.execute("ROLLBACK")).start()
    code, printed = lab.run(undisturbed.output, "--force", patience=60)
    database.close()
    assert code == 0, printed
    assert "metadata.sqlite is locked by another program; waiting up to 60 s" in printed


@pytest.mark.parametrize("clock", [0.0, -DAY, 40 * 365 * DAY, 0.0])
def test_runs_are_in_order_whatever_the_clock_says(lab: Lab, undisturbed: Undisturbed, clock: float) -> None:
    """Also those that take less than the second that their names tell apart; nothing is overwritten."""
    output = undisturbed.output
    before = output_status(output)["runs"]
    served = versions(output / "serving" / "ich")
    code, printed = lab.run(output, "--force", clock=clock)
    assert code == 0, printed
    after = output_status(output)["runs"]
    assert after[1:] == before and after[0]["state"] == "pushed"
    assert re.fullmatch(r"\d{8}T\d{6}", after[0]["run"])
    assert versions(output / "serving" / "ich") == served
    code, printed = lab.run(output)
    assert code == 0 and "no new data" in printed, printed
