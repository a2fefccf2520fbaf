"""Progress where there is no terminal: a line now and then, on standard error alone."""

from __future__ import annotations

import pytest

from pipeline import progress


def test_lines_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress_bar("scans") as advance:
        for done in range(101):
            clock[0] = 9.0 * done
            advance(done, 100)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[:2] == ["scans: 4 of 100, about 14 min left", "scans: 8 of 100, about 14 min left"]
    assert len(lines) == 24  # each 36 s, and nothing once all is done


def test_what_is_over_soon_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("scans") as advance:
        for done in range(4):
            advance(done, 3)
    assert capsys.readouterr() == ("", "")
