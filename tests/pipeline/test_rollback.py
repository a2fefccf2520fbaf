"""Going back to an earlier version: in one step, recorded, and not undone by the next run."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import UsageError
from pipeline.last_run import LastRun, read_last_run, write_last_run
from pipeline.rollback import roll_back
from serving.manifests.models_config import read_labels
from serving.versions import CARD_FILES, read_contract, versions
from tests.command import ich
from tests.components.pusher.test_card import card
from tests.components.pusher.test_executor import copying_with
from tests.components.run_report.runs import cohort
from tests.models import unloadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three versions of different models."""
    for number in (5, 6, 7):
        unloadable(tmp_path / "serving" / "ich" / str(number), data_fingerprint=str(number))
    return tmp_path / "serving" / "ich"


def data_of(folder: Path) -> list[str]:
    """What each version was trained on, oldest first."""
    return [read_contract(path).data_fingerprint for path in versions(folder)]


def test_the_version_before_becomes_the_newest(folder: Path, tmp_path: Path) -> None:
    done = roll_back(folder, tmp_path)
    assert (done.source.name, done.replaced.name) == ("6", "7")
    assert versions(folder)[-1] == done.target and int(done.target.name) > 7
    assert data_of(folder) == ["5", "6", "7", "6"]
    assert (done.target / "saved_model.pb").read_bytes() == (folder / "6" / "saved_model.pb").read_bytes()
    number = int(done.target.name)
    assert read_labels((folder / "models.config").read_text()) == {"stable": number, "canary": number}


def test_going_back_twice_goes_back_further_and_no_further_than_there_is(folder: Path, tmp_path: Path) -> None:
    roll_back(folder, tmp_path)
    roll_back(folder, tmp_path)
    assert data_of(folder) == ["5", "6", "7", "6", "5"]
    with pytest.raises(
        UsageError, match=r"is the oldest model there is, nothing to go back to; --to names any of 5, 6"
    ):
        roll_back(folder, tmp_path)
    assert data_of(folder)[-1] == "5"
    assert roll_back(folder, tmp_path, to=7).source.name == "7"
    assert data_of(folder)[-1] == "7"


def test_what_cannot_be_gone_back_to(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UsageError, match="--to 4: no such version; found 5, 6, 7"):
        roll_back(folder, tmp_path, to=4)
    with pytest.raises(UsageError, match="7: is the model in service already"):
        roll_back(folder, tmp_path, to=7)
    with pytest.raises(UsageError, match="found no version"):
        roll_back(tmp_path / "nowhere", tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_card_says_where_it_came_from(folder: Path, tmp_path: Path) -> None:
    found, measures = cohort(4)
    (folder / "6" / CARD_FILES[1]).write_text(json.dumps(card(found, measures)))
    done = roll_back(folder, tmp_path)
    made = json.loads((done.target / CARD_FILES[1]).read_text())
    assert made["version"] == done.target.name and made["restored"]["version"] == "6"
    assert made["measures"] == card(found, measures)["measures"]
    text = (done.target / CARD_FILES[0]).read_text()
    assert f"version {done.target.name}" in text and "as a copy of version 6" in text


def test_the_next_run_without_new_data_leaves_it_so(folder: Path, tmp_path: Path) -> None:
    write_last_run(tmp_path, LastRun("key", "20260101T000000", 0, "7", False))
    done = roll_back(folder, tmp_path)
    assert read_last_run(tmp_path) == LastRun("key", "20260101T000000", 0, done.target.name, False)


@pytest.mark.parametrize("copied", [0, 1])
def test_a_full_disk_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    """What serves sees the old versions alone, before and after."""
    seen: list[str] = []

    def fail(source: Any, target: Any, **options: Any) -> Any:
        assert versions(folder)[-1].name == "7"
        if len(seen) == copied:
            raise OSError(errno.ENOSPC, "No space left on device")
        seen.append(str(source))
        return shutil.copy2(source, target, **options)

    copying_with(fail, monkeypatch)
    with pytest.raises(UsageError, match=r"cannot write there \(.*No space left on device.*\); 7 stays in service"):
        roll_back(folder, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["5", "6", "7"]


def test_the_command(folder: Path, tmp_path: Path) -> None:
    done = ich("rollback", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in service: {versions(folder)[-1]}, a copy of version 6, in place of 7" in done.stdout
    refused = ich("rollback", "--output", tmp_path, "--to", "1")
    assert refused.returncode == 2 and "--to 1: no such version" in refused.stderr
