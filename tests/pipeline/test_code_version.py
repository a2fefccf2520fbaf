"""The hash of our own code: stable, and other for other code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import code_version as module


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source tree in the place of ours."""
    for name, text in {
        "components/one/a.py": "x = 1\n",
        "components/one/b.py": "y = 2\n",
        "components/one/sub/c.py": "z = 3\n",
        "components/two/a.py": "x = 1\n",
        "schema/s.pbtxt": "feature {}\n",
        "schema/f.py": "A = 1\n",
        "serving/r.py": "q = 1\n",
        "serving/sub/t.py": "t = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def version(*parts: str) -> str:
    """The hash as a fresh process computes it."""
    module.code_version.cache_clear()
    try:
        return module.code_version(*parts)
    finally:
        module.code_version.cache_clear()


def test_same_code_same_digits_whatever_the_order(root: Path) -> None:
    found = version("one", "schema")
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert found == version("schema", "one")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("components/one/a.py", "x = 2\n"),
        ("components/one/new.py", ""),
        ("schema/s.pbtxt", "feature { }\n"),
    ],
)
def test_other_code_other_digits(root: Path, file: str, text: str) -> None:
    before = version("one", "schema")
    (root / file).write_text(text)
    assert version("one", "schema") != before


def test_a_folder_below_counts_where_it_is_named(root: Path) -> None:
    before = version("serving"), version("serving/sub")
    (root / "serving/sub/t.py").write_text("t = 2\n")
    assert version("serving") == before[0] and version("serving/sub") != before[1]


def test_a_renamed_and_a_removed_file_count(root: Path) -> None:
    before = version("one")
    (root / "components/one/b.py").rename(root / "components/one/d.py")
    renamed = version("one")
    (root / "components/one/d.py").unlink()
    assert len({before, renamed, version("one")}) == 3


def test_text_that_moves_from_one_file_to_the_next_counts(root: Path) -> None:
    before = version("one")
    (root / "components/one/a.py").write_text("x = 1\ny = 2\n")
    (root / "components/one/b.py").write_text("")
    assert version("one") != before


@pytest.mark.parametrize(
    "file", ["components/one/sub/c.py", "components/two/a.py", "serving/r.py", "components/one/notes.md"]
)
def test_what_is_not_asked_for_does_not_count(root: Path, file: str) -> None:
    before = version("one", "schema")
    (root / file).write_text("changed\n")
    assert version("one", "schema") == before


def test_equal_files_in_two_parts_differ(root: Path) -> None:
    (root / "components/one/b.py").unlink()
    assert version("one") != version("two")


def test_a_part_that_is_not_there_is_no_empty_hash(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="three: no sources to hash"):
        version("three")


def test_every_part_that_the_pipeline_hashes_exists() -> None:
    text = (Path(module.__file__).parent / "pipeline.py").read_text()
    calls = re.findall(r"code_version\(((?:\"[a-z_]+\"(?:, )?)+)\)", text)
    assert len(calls) >= 7  # one a stage that caches
    for call in calls:
        assert version(*re.findall(r"\"([a-z_]+)\"", call))


def test_all_parts_are_every_package_and_can_be_hashed() -> None:
    found = module.all_parts()
    assert {"schema", "serving", "pipeline", "imaging", "data_validator", "pusher", "trainer"} <= set(found)
    assert len(set(found)) == len(found)
    assert re.fullmatch("[0-9a-f]{16}", version(*found))
