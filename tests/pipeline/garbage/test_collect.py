"""`ich gc` on output folders of many runs: what stays, what goes, and what becomes of interruptions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from components.imaging.errors import IchError, UsageError
from pipeline.garbage import collect as module
from pipeline.garbage.collect import collect
from pipeline.lock import locked
from pipeline.status import size
from tests.command import ich
from tests.pipeline.garbage.history import (
    BYTES,
    ENDS,
    FAILED,
    HELD,
    KILLED,
    PUSHED,
    REFUSED,
    History,
)


def content(output: Path) -> dict[str, str]:
    """Digests of all files by their path."""
    files = [path for path in output.rglob("*") if path.is_file()]
    return {str(path.relative_to(output)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def check(history: History, keep: int) -> None:
    """Collects, and compares with the history's own account, to the folder and both ways."""
    output = history.output
    needed, runs, before = history.needed(keep), history.kept(keep), content(output)
    shown = collect(output, keep, dry_run=True)
    assert content(output) == before, "a dry run writes nothing"
    done = collect(output, keep)
    assert done.plan == shown.plan and done.failed == {}
    after = content(output)
    assert history.folders() == needed
    assert history.live() == needed, "TFX reuses what is there and nothing else"
    assert {path: digest for path, digest in after.items() if path not in ("metadata.sqlite", ".lock")}.items() <= (
        before.items()
    )
    for folder, suffix in (("runs", ".json"), ("logs", ".log"), ("reports", "")):
        assert {path.name.removesuffix(suffix) for path in (output / folder).iterdir()} == runs
    assert {path.name for path in output.glob("serving/ich/*") if path.is_dir()} == set(history.models)
    for model in history.waiting:
        assert (model / "Format-Serving" / "saved_model.pb").is_file()
    trainings = {path.name for path in (output / "training").glob("*")}
    assert trainings == {path.name for run, path in history.trainings.items() if run in runs}
    again = collect(output, keep)
    assert (again.plan.items, again.plan.dead, again.freed) == ([], frozenset(), 0)
    history.forget(set(history.uses) - runs)


runs = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from("xyz"),
    st.sampled_from(ENDS),
    st.sampled_from(("StatisticsGen", "Trainer", "Evaluator", "Pusher")),
    st.booleans(),
)


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.lists(runs, min_size=1, max_size=7), st.integers(1, 3), st.lists(runs, max_size=3))
def test_nothing_reachable_is_removed_and_nothing_else_stays(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], keep: int, then: list[Any]
) -> None:
    """After any runs, and again after any others: the cache makes use of what stayed, and of nothing that went."""
    history = History(tmp_path_factory.mktemp("any") / "out")
    for batch in (first, then):
        for data, recipe, end, stage, recorded in batch:
            history.run(data, recipe, end, stage=stage, recorded=recorded)
        check(history, keep)


@pytest.mark.parametrize("recorded", [True, False])
def test_twenty_runs_come_down_to_what_the_kept_ones_need(tmp_path: Path, recorded: bool) -> None:
    """The disk afterwards is that of a folder in which the kept runs alone were made."""
    history = History(tmp_path / "out")
    for number in range(20):
        history.run(f"data{number // 2}", f"recipe{number}", PUSHED if number % 2 else REFUSED, recorded=recorded)
    alone = History(tmp_path / "alone")
    for number in (17, 18, 19):
        alone.run(f"data{number // 2}", f"recipe{number}", PUSHED if number % 2 else REFUSED)
    before = size(history.output)
    done = collect(history.output, 3)
    assert list(done.plan.kept) == sorted(history.kept(3), reverse=True)[:3]
    after = size(history.output)
    assert done.plan.total == before and abs(before - after - done.freed) <= BYTES, "only the store may differ"
    for folder in ("artifacts", "training", "reports", "logs"):
        assert size(history.output / folder) == size(alone.output / folder)
    assert len(list((history.output / "runs").iterdir())) == 3
    assert len(list((history.output / "serving" / "ich").glob("1*"))) == 10, "versions stay, to go back to"


def test_what_is_reused_stays_in_the_folder_that_an_earlier_run_made(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    history.run("a", "x", REFUSED)
    history.run("b", "y", REFUSED)
    newest = history.run("a", "z", REFUSED)
    (examples,) = (history.output / "artifacts" / "NiftiExampleGen" / "examples").glob("1")
    check(history, 1)
    assert examples.is_dir() and examples in history.uses[newest]
    assert not (history.output / "training" / "b-y").exists()


def test_what_was_removed_is_made_anew_and_what_was_not_is_reused(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    for data, recipe in (("a", "x"), ("b", "y"), ("a", "z")):
        history.run(data, recipe, REFUSED)
    check(history, 1)
    history.reused.clear()
    history.run("a", "x", REFUSED)
    stages = {path.parts[-3] for path in history.reused}
    assert "NiftiExampleGen" in stages and "Transform" in stages and "Trainer" not in stages
    history.reused.clear()
    history.run("a", "z", REFUSED)
    assert {path.parts[-3] for path in history.reused} >= {"NiftiExampleGen", "Trainer", "Evaluator"}


def test_blessed_models_that_were_held_stay_the_latest_with_all_that_it_came_from(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    for data in "abc":
        history.run(data, "x", HELD)
    for _ in range(2):
        history.run("d", "y", REFUSED)
    check(history, 1)
    kept = {"/".join(path.parts[-3:-1]) for path in history.folders() if path in history.waiting}
    assert kept == {"Trainer/model"} and len(history.waiting) == 3
    listings = [json.loads(path.read_text()) for path in history.artifacts.glob("NiftiExampleGen/*/*/cases.json")]
    assert sorted(listing["fingerprint"] for listing in listings) == ["c", "d"]


def test_the_models_in_service_and_the_last_run_that_ended_stay_with_all_that_they_need(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    history.run("a", "x", PUSHED)
    history.run("b", "x", PUSHED)
    history.run("c", "x", PUSHED)
    history.run("d", "x", REFUSED)
    for _ in range(3):
        history.run("e", "x", FAILED)
    done = collect(history.output, 2, dry_run=True)
    assert list(done.plan.kept.values()) == [
        "among the 2 newest", "among the 2 newest", "the last that came to an end",
        "pushed ich/1700000002, whose model is in service", "pushed ich/1700000001, whose model is in service",
    ]  # fmt: skip
    check(history, 2)
    assert {path.name for path in (history.output / "statistics").iterdir()} == set("abcde"), "a is in serving/ still"


def test_statistics_of_data_that_nothing_is_compared_with_any_more(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    for data in "abcde":
        history.run(data, "x", REFUSED)
    (history.output / "statistics" / "half").mkdir()
    check(history, 1)
    assert {path.name for path in (history.output / "statistics").iterdir()} == {"d", "e"}


def test_a_checkpoint_stays_for_a_kept_run_that_was_killed_and_its_half_made_folder_goes(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    history.run("a", "x", KILLED, stage="Evaluator")
    history.run("a", "x", KILLED, stage="Trainer")
    half = [path for path in history.folders() if int(path.name) > 10_000]
    assert len(half) == 2
    done = collect(history.output, 1)
    assert not any(path.exists() for path in half)
    # The second run found the training finished and wrote nothing there; what it would need again stays.
    assert (history.output / "training" / "a-x" / "state.npz").is_file()
    assert [item.kind for item in done.plan.items].count("checkpoints") == 0


def test_of_what_is_not_ours_nothing_is_touched(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    for data in "ab":
        history.run(data, "x", REFUSED)
    own = ["note.txt", "artifacts/note.txt", "artifacts/Trainer/mine/note.txt", "logs/schedule.log", "runs/note.txt",
           "artifacts/Trainer/model/copy-of-2/x", "reports/mine/x", "serving/ich/notes.md"]  # fmt: skip
    for name in own:
        path = history.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    check_files = content(history.output)
    collect(history.output, 1)
    assert {name: check_files[name] for name in own}.items() <= content(history.output).items()


def test_working_files_and_copies_that_were_never_finished_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "out")
    history.run("a", "x", PUSHED)
    working = history.artifacts / "Trainer" / ".system" / "executor_execution" / "4"
    copy = history.output / "serving" / "ich" / ".1700000009.part"
    for folder in (working, copy):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"x" * BYTES)
    collect(history.output, 1)
    assert not working.exists() and copy.exists(), "a copy might be under way"
    later = time.time() + 4000
    monkeypatch.setattr(time, "time", lambda: later)
    collect(history.output, 1)
    assert not copy.exists() and (history.output / "serving" / "ich" / "1700000000" / "saved_model.pb").is_file()


@pytest.mark.parametrize("after", [0, 1, 8, 12, 17])
def test_a_collection_that_is_killed_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    history = History(tmp_path / "out")
    for data, end in (("a", REFUSED), ("a", HELD), ("b", PUSHED), ("c", REFUSED), ("c", REFUSED)):
        history.run(data, f"{data}{end}", end)
    remove = module._remove
    removed: list[Path] = []

    def cut_short(path: Path) -> str:
        if len(removed) == after:
            (next(path.rglob("*")) if path.is_dir() else path).unlink()  # in the midst of it
            raise KeyboardInterrupt
        removed.append(path)
        return remove(path)

    needed = history.needed(1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_remove", cut_short)
        with pytest.raises(KeyboardInterrupt):
            collect(history.output, 1)
    assert history.live() == needed, "whatever TFX might reuse is whole"
    assert all((path / "data").stat().st_size == BYTES for path in needed)
    check(history, 1)


def test_an_output_folder_that_was_moved(tmp_path: Path) -> None:
    """TFX's store names the old place; what is in the new one is known all the same."""
    history = History(tmp_path / "out")
    for data in "abc":
        history.run(data, "x", REFUSED)
    needed = {path.relative_to(history.output) for path in history.needed(1)}
    history.output.rename(tmp_path / "new")
    collect(tmp_path / "new", 1)
    history.output = tmp_path / "new"
    assert {path.relative_to(history.output) for path in history.folders()} == needed


def test_while_a_run_is_under_way_nothing_is_looked_at(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    history.run("a", "x", REFUSED)
    for dry_run in (False, True):
        with locked(history.output, "20260101T000000"):
            before = content(history.output)
            with pytest.raises(UsageError, match=r"a run \(20260101T000000\) is under way there; wait for it"):
                collect(history.output, 1, dry_run=dry_run)
            assert content(history.output) == before


def lose(path: Path) -> None:
    path.unlink()


def break_(path: Path) -> None:
    path.write_bytes(b"no database" * 100)


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [(lose, UsageError, "metadata.sqlite: is missing"), (break_, IchError, "cannot be read")],
)
def test_without_its_store_nothing_is_removed(
    tmp_path: Path, harm: Callable[[Path], None], error: type[IchError], words: str
) -> None:
    history = History(tmp_path / "out")
    for data in "ab":
        history.run(data, "x", REFUSED)
    harm(history.output / "metadata.sqlite")
    before = content(history.output)
    with pytest.raises(error, match=words):
        collect(history.output, 1)
    assert content(history.output) == {**before, ".lock": content(history.output)[".lock"]}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": 1}'])
def test_a_summary_that_cannot_be_read_keeps_what_the_store_says_of_its_run(tmp_path: Path, text: str) -> None:
    history = History(tmp_path / "out")
    for data in "ab":
        name = history.run(data, "x", REFUSED)
    (history.output / "last_run.json").unlink()
    history.last = None
    (history.output / "runs" / f"{name}.json").write_text(text)
    check(history, 1)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"found no run there; give the --output of `ich run`"):
            collect(folder, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_named_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "out")
    for data in "ab":
        history.run(data, "x", REFUSED)
    needed = history.needed(1)
    stuck = history.artifacts / "NiftiExampleGen" / "examples" / "1" / "stuck"
    stuck.touch()
    unlink = os.unlink

    def refuse(path: Any, **options: Any) -> None:
        if Path(os.fsdecode(path)).name == "stuck":
            raise PermissionError(13, "Permission denied", path)
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        done = collect(history.output, 1)
    assert done.failed == {stuck.parent: f"{stuck}: Permission denied"}
    assert history.folders() == needed | {stuck.parent} and history.live() == needed
    assert stuck.parent not in [history.output / item["path"] for item in done.to_json()["removed"]]
    check(history, 1)  # once it can be removed


def test_the_command(tmp_path: Path) -> None:
    history = History(tmp_path / "out")
    for data in "abc":
        history.run(data, "x", REFUSED)
    asked: list[str | Path] = ["gc", "--keep", "1", "--output", history.output]
    before = history.folders()
    listed = json.loads(ich(*asked, "--dry-run", "--json").stdout)
    shown = ich(*asked, "--dry-run").stdout
    assert "would be removed" in shown and "artifacts of Trainer" in shown and "would free 0." in shown
    assert history.folders() == before
    done = json.loads(ich(*asked, "--json").stdout)
    assert done == {**listed, "dry_run": False}
    assert done["freed"] == sum(item["bytes"] for item in done["removed"]) > 0
    assert not any((history.output / item["path"]).exists() for item in done["removed"])
    assert history.folders() == history.needed(1)
    again = ich(*asked)
    assert again.stdout.splitlines()[0] == "kept: run 20260101T020000, among the 1 newest"
    assert "freed 0.0 MiB of " in again.stdout and again.returncode == 0
    assert ich("gc", "--output", history.output).returncode == 2, "--keep must be given"
    shutil.rmtree(history.output)
    assert ich(*asked).returncode == 2


def test_it_starts_without_tensorflow() -> None:
    code = "import sys; import pipeline.garbage.collect; sys.exit(bool({'tensorflow', 'tfx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_a_folder_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "out")
    history.run("data", "recipe", PUSHED)
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    before = content(history.output)
    with pytest.raises(UsageError, match="cannot write there; run this as the user whose runs they are"):
        collect(history.output, 1)
    assert content(history.output) == before
    assert collect(history.output, 1, dry_run=True).plan.kept
