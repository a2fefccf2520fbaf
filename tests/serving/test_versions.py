"""Which folders count as versions, and what a model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.imaging.errors import UsageError
from serving.versions import CONTRACT_FILE, read_contract, versions
from tests.serving.test_contract import CONTRACT


def model(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "saved_model.pb").touch()
    return folder / name


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ("9", "10", "1700000000", "0002"):
        model(tmp_path, name)
    assert [path.name for path in versions(tmp_path)] == ["0002", "9", "10", "1700000000"]


def test_what_is_half_written_or_no_version_does_not_count(tmp_path: Path) -> None:
    model(tmp_path, "3")
    for name in ("latest", "-1", "1.5", ".4.part", "5 copy"):
        model(tmp_path, name)
    (tmp_path / "7" / "variables").mkdir(parents=True)
    (tmp_path / "8").touch()
    assert versions(tmp_path) == [tmp_path / "3"]


def test_no_folder_has_no_versions(tmp_path: Path) -> None:
    assert versions(tmp_path) == []
    assert versions(tmp_path / "nowhere") == []
    (tmp_path / "file").touch()
    assert versions(tmp_path / "file") == []


def test_contract_beside_the_model(tmp_path: Path) -> None:
    folder = model(tmp_path, "1")
    with pytest.raises(UsageError, match="no contract"):
        read_contract(folder)
    (folder / CONTRACT_FILE).parent.mkdir()
    (folder / CONTRACT_FILE).write_text(CONTRACT.to_json())
    assert read_contract(folder) == CONTRACT
