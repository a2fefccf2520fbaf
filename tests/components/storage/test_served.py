"""Versions in a bucket are found as those in a folder are."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.imaging.errors import UsageError
from components.starting_point.state import serving_state
from components.storage.files import copy_tree
from components.storage.served import served_contract, served_versions, version_name
from tests.buckets import AnyBucket
from tests.models import contract, unloadable


@pytest.mark.parametrize("remote", [False, True])
def test_complete_versions_by_number(tmp_path: Path, bucket: AnyBucket, remote: bool) -> None:
    folder = tmp_path / "ich"
    for version in ("9", "20", "100", "latest", ".8.part"):
        unloadable(folder / version, data_fingerprint=version)
    (folder / "100" / "saved_model.pb").unlink()  # an upload that was killed
    (folder / "30").write_text("a file")
    place = str(folder)
    if remote:
        place = bucket.uri("serving/ich")
        copy_tree(str(folder), place)
    assert served_versions(place) == [f"{place}/9", f"{place}/20"]
    assert serving_state(place) == serving_state(f"{place}/") == "9,20"
    assert version_name(f"{place}/20/") == "20"
    assert served_contract(f"{place}/20") == contract(data_fingerprint="20")


@pytest.mark.parametrize("remote", [False, True])
def test_nothing_there(tmp_path: Path, bucket: AnyBucket, remote: bool) -> None:
    place = bucket.uri("none") if remote else str(tmp_path / "none")
    assert served_versions(place) == [] and serving_state(place) == ""
    with pytest.raises(UsageError, match="contract"):
        served_contract(f"{place}/1")
