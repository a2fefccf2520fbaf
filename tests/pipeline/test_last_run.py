"""What the same run again goes by: what it found the first time, not what it left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.last_run import BEGAN_FILE, Began, LastRun, begin, write_last_run

FIRST = Began("key", "5", "before:1")
LEFT = replace(FIRST, statistics="before:1,own:1")
"""After its data was remembered."""
PUSHED = replace(LEFT, serving="5,6")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a run began."""
    assert begin(tmp_path, FIRST) == FIRST
    return tmp_path


def ended(root: Path, serving: str, key: str = "key") -> None:
    """A run came to its end."""
    write_last_run(root, LastRun(key, "20260101T000000", 0, serving[-1], False, serving=serving))


def test_a_killed_run_goes_on_as_it_began(root: Path) -> None:
    assert begin(root, LEFT) == begin(root, LEFT) == FIRST


def test_a_forced_run_finds_what_the_finished_one_found(root: Path) -> None:
    ended(root, "5,6")
    assert begin(root, PUSHED) == FIRST


@pytest.mark.parametrize(
    "now",
    [
        replace(LEFT, key="other"),
        replace(LEFT, serving="5,7"),  # somebody else pushed, or went back
        replace(LEFT, serving=""),
        replace(LEFT, statistics="own:1"),
    ],
)
def test_another_run_or_another_world_begins_anew(root: Path, now: Began) -> None:
    assert begin(root, now) == now
    assert begin(root, now) == now


def test_what_was_pushed_and_is_gone_or_taken_back_is_news(root: Path) -> None:
    ended(root, "5,6")
    for serving in ("5", "5,6,7"):
        now = replace(PUSHED, serving=serving)
        begin(root, FIRST)
        assert begin(root, now) == now


def test_a_run_that_ended_before_another_began_counts_not(root: Path) -> None:
    ended(root, "5,6", key="other")
    assert begin(root, LEFT) == FIRST


def test_a_broken_record_is_none(root: Path) -> None:
    (root / BEGAN_FILE).write_text("{")
    assert begin(root, LEFT) == LEFT
