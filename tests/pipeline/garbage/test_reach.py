"""What is needed, as sets: against what makes use of it, and by properties that hold whatever was run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data_validator.store import Entry, previous
from pipeline.garbage.reach import (
    Artifact,
    Execution,
    Models,
    Records,
    Remembered,
    Run,
    kept_runs,
    needed_artifacts,
    needed_statistics,
    needed_trainings,
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Records, list[Run], Models]:
    """Executions that take artifacts made before them, a few of them blessings; runs and models that use any."""
    artifacts: dict[int, Artifact] = {}
    executions: dict[int, Execution] = {}
    for number in range(draw(st.integers(1, 12))):
        inputs: set[int] = draw(st.sets(st.sampled_from(sorted(artifacts) or [0]), max_size=3 if artifacts else 0))
        reused: bool = draw(st.booleans())
        if artifacts and reused:
            again = executions[draw(st.integers(0, number - 1))]
            executions[number] = again
            continue
        made = range(len(artifacts), len(artifacts) + draw(st.integers(1, 2)))
        for one in made:
            blesses: int | None = draw(st.sampled_from([None, *sorted(inputs)]))
            artifacts[one] = Artifact(one, f"s/k/{one}", draw(st.integers(0, 9)) > 0, blesses)
        executions[number] = Execution(frozenset(inputs), frozenset(made))
    any_of = st.frozensets(st.sampled_from(sorted(artifacts)), max_size=3)
    runs = [
        Run(f"2026010{number}T000000", draw(any_of), frozenset(artifacts[one].place for one in draw(any_of)))
        for number in range(1, draw(st.integers(1, 5)) + 1)
    ]
    labelled = draw(any_of)
    return Records(artifacts, executions), runs, Models(frozenset(), labelled, labelled | draw(any_of))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(histories(), st.integers(1, 5))
def test_whatever_was_run_what_is_needed_is_whole(history: tuple[Records, list[Run], Models], keep: int) -> None:
    records, runs, models = history
    kept = runs[-keep:]
    needed, places = needed_artifacts(records, kept, models)
    roots = set(models.labelled).union(*(run.artifacts for run in kept))
    roots |= {one.id for one in records.artifacts.values() for run in kept if one.place in run.places}
    # By hand: one step back at a time, until nothing is added.
    before: set[int] = set()
    while before != roots:
        before = set(roots)
        for execution in records.executions.values():
            if execution.outputs & roots:
                roots |= execution.outputs | execution.inputs
    assert roots <= needed
    assert {records.artifacts[one].place for one in roots if records.artifacts[one].live} <= places
    blessings = [one for one in records.artifacts.values() if one.live and one.blesses is not None]
    blessed = {one.blesses for one in blessings if one.blesses is not None and records.artifacts[one.blesses].live}
    assert blessed - models.served <= needed, "a blessed model that is not in service stays"
    assert all(one.id in needed for one in blessings if one.blesses in blessed - models.served)
    fewer, _ = needed_artifacts(records, runs[-1:], models)
    assert fewer <= needed, "who keeps more runs removes no more"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(histories())
def test_nothing_is_needed_without_a_reason(history: tuple[Records, list[Run], Models]) -> None:
    records, runs, _ = history
    bare = Records(
        {one.id: Artifact(one.id, one.place, one.live) for one in records.artifacts.values()}, records.executions
    )
    assert needed_artifacts(bare, [], Models()) == (set(), set())
    used = runs[0].artifacts | {one.id for one in bare.artifacts.values() if one.place in runs[0].places}
    needed, _ = needed_artifacts(bare, runs[:1], Models())
    for one in needed - used:
        users = [made for made in bare.executions.values() if one in made.inputs | made.outputs]
        assert any(made.outputs & needed for made in users)


def runs(*pushed: str | None) -> list[Run]:
    """A run a day."""
    return [Run(f"202601{day:02}T000000", pushed=version) for day, version in enumerate(pushed, 1)]


def test_which_runs_stay() -> None:
    made = runs(None, "ich/1", "ich/1", None, "ich/2", None, None)
    kept = kept_runs(made, 2, "20260104T000000", {"ich/1", "other/2"})
    assert kept == {
        "20260107T000000": "among the 2 newest",
        "20260106T000000": "among the 2 newest",
        "20260104T000000": "the last that came to an end",
        "20260102T000000": "pushed ich/1, whose model is in service",
    }
    assert len(kept_runs(made, 99, "20250101T000000", set())) == 7
    assert kept_runs([], 1, "20250101T000000", {"ich/1"}) == {}


DAY = 86400.0


@pytest.mark.parametrize(
    ("written", "untrained", "kept", "needed"),
    [
        ({"a": 1.5, "b": 2.5}, (), {2}, {"b"}),
        ({"a": 1.5, "b": 2.5}, (), {1}, {"a"}),
        ({"a": 0.5}, (), {1, 2, 3}, set()),
        ({"a": 2.0}, (), {2}, {"a"}),  # within the second that it began
        # A run that was at work on what an earlier one had finished, or on what cannot be told.
        ({"a": 0.7, "b": 1.5, "c": 3.5}, (2,), {2}, {"b"}),
        ({"tuner-a": 1.2, "b": 1.5, "c": 3.5}, (2,), {2}, {"tuner-a", "b"}),
        ({"a": 1.2, "b": 1.5}, (2,), {3}, set()),
        ({"a": 1.2, "b": 9.5}, (3,), {3}, {"b"}),
        ({}, (1, 2, 3), {1, 2, 3}, set()),
    ],
)
def test_which_checkpoints_stay(
    written: dict[str, float], untrained: tuple[int, ...], kept: set[int], needed: set[str]
) -> None:
    """Runs begin on days 1, 2 and 3."""
    made = [Run(f"2026010{day}T000000", trained=day not in untrained) for day in (1, 2, 3)]
    first = made[0].began - DAY
    times = {name: first + when * DAY for name, when in written.items()}
    assert needed_trainings(times, made, {f"2026010{day}T000000" for day in kept}) == needed


def test_a_run_whose_name_tells_no_time_began_before_all_others() -> None:
    assert Run("mine").began == 0 and Run("20260101T000000").began == 1767225600


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), max_size=8), st.sets(st.integers(0, 7)))
def test_what_data_is_compared_with_does_not_change(spans: list[int], named: set[int]) -> None:
    """`previous` is what the validator asks; it must find the same among what stays, for old data and for new."""
    entries = [Entry(str(number), span, f"2026-01-0{number + 1}", {}, "") for number, span in enumerate(spans)]
    remembered = [Remembered(entry.fingerprint, entry.span, entry.time) for entry in reversed(entries)]
    stay = needed_statistics(remembered, {str(number) for number in named})
    left = [entry for entry in entries if entry.fingerprint in stay]
    assert {str(number) for number in named} <= stay
    for fingerprint in [*(entry.fingerprint for entry in entries), "new"]:
        for span in range(5):
            assert previous(left, fingerprint, span) == previous(entries, fingerprint, span)
    many = needed_statistics([Remembered(str(number), 0, str(number)) for number in range(9)], {"3"})
    assert many == {"3", "7", "8"}
