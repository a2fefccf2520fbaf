"""A disk that is full, or read-only, while something is written: said in one line, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.status import output_status
from serving.versions import versions
from tests.crash.conftest import BASELINE, Lab, Undisturbed

YEARS = -15 * 365 * 86400.0
"""Of a clock that is set back to before the model in service was pushed."""


def _mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=48m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_or_read_only_disk_loses_nothing(lab: Lab, undisturbed: Undisturbed, disk: Path) -> None:
    output, filler = disk / "output", disk / "filler"
    folder = lab.serve(output)
    with lab.watched(folder):
        for stage, point, count, room in [
            ("NiftiExampleGen", "registered", 1, 10_000),
            ("Trainer", "writes", undisturbed.passed["Trainer/writes"] // 2, 0),
            ("Trainer", "writes", undisturbed.passed["Trainer/writes"] // 2, 200_000),
            ("Evaluator", "registered", 1, 0),
            ("Pusher", "writes", 8, 0),
        ]:
            code, printed = lab.run(
                output, clock=YEARS, stage=stage, point=point, count=count, action="fill", filler=str(filler), room=room
            )
            assert code == 1, printed
            error = printed[printed.index("error: ") :]
            assert error.startswith(f"error: {output}: no space left on the device ("), printed
            assert error.count("\n") == 1 and "Traceback" not in printed and "WARNING" not in printed, printed
            assert f"  {stage} " in printed, printed
            filler.unlink()
            assert [path.name for path in versions(folder)] == [BASELINE]
        _mount("--bind", folder, folder)
        try:
            _mount("-o", "remount,ro,bind", folder)
            code, printed = lab.run(output, clock=YEARS)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        assert code == 1, printed
        assert f"error: {output}: part of it has become read-only (" in printed and "Traceback" not in printed
        code, printed = lab.run(output, clock=YEARS)
    assert code == 0, printed
    assert printed.count("(unchanged)") >= 12
    # The clock says 2011; what is in service goes by numbers, and so must the new model.
    assert [path.name for path in versions(folder)] == [BASELINE, str(int(BASELINE) + 1)]
    assert lab.masks(output) == undisturbed.masks
    states = [run["state"] for run in output_status(output)["runs"]]
    assert states[0] == "pushed" and len(states) == 7
    assert set(states[1:]) <= {"failed", "killed"}  # the latter where there was no room to write how it ended


def test_a_read_only_output_is_refused_at_once(lab: Lab, disk: Path) -> None:
    output = disk / "output"
    output.mkdir()
    _mount("-o", "remount,ro", disk)
    code, printed = lab.run(output)
    assert code == 2
    assert printed == f"error: {output}: cannot write there (Read-only file system); choose another --output\n"
