"""The copy of a data folder: what is fetched, what is not, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import IchError, UsageError
from components.nifti_example_gen.layout import find_cases, fingerprint
from components.starting_point.state import data_state
from components.storage import mirror
from components.storage.mirror import as_named, local_copy, renamed
from tests.buckets import AnyBucket, Bucket

LAYOUT: dict[str, Any] = {"image": "images/{case}.nii.gz", "mask": "masks/{case}.nii.gz", "manifest": None,
                          "patient": None}  # fmt: skip
CASES = [f"{kind}/{case}.nii.gz" for kind in ("images", "masks") for case in ("a", "b", "ç d")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the objects that are fetched."""
    names: list[str] = []
    fetch = mirror._fetch

    def note(uri: str, entry: Any, part: Path, target: Path) -> None:
        names.append(entry.name)
        fetch(uri, entry, part, target)

    monkeypatch.setattr(mirror, "_fetch", note)
    return names


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def fill(bucket: AnyBucket) -> None:
    for name in CASES:
        bucket.put(f"scans/{name}", name.encode())


def test_a_folder_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    assert local_copy(str(tmp_path)) == tmp_path
    assert not cache.exists()


def test_everything_comes_and_nothing_twice(bucket: AnyBucket, cache: Path, fetched: list[str]) -> None:
    fill(bucket)
    bucket.put("other/x", b"not below it")
    folder = local_copy(bucket.uri("scans"))
    assert files(folder) == {name: name.encode() for name in CASES}
    assert folder.is_relative_to(cache / "data") and sorted(fetched) == sorted(CASES)
    assert local_copy(bucket.uri("scans/")) == folder
    assert len(fetched) == len(CASES)


def test_what_changed_comes_and_what_is_gone_goes(bucket: AnyBucket, fetched: list[str]) -> None:
    fill(bucket)
    folder = local_copy(bucket.uri("scans"))
    fetched.clear()
    bucket.put("scans/images/a.nii.gz", b"longer than it was before")
    bucket.put("scans/new/deep", b"n")
    for name in ("b", "ç d"):
        bucket.delete(f"scans/masks/{name}.nii.gz")
    bucket.delete("scans/masks/a.nii.gz")
    (folder / "stray").write_bytes(b"of nobody")
    (folder / "images" / "b.nii.gz").write_bytes(b"mended by hand")  # which does not count
    local_copy(bucket.uri("scans"))
    assert sorted(fetched) == ["images/a.nii.gz", "images/b.nii.gz", "new/deep"]
    assert sorted(files(folder)) == ["images/a.nii.gz", "images/b.nii.gz", "images/ç d.nii.gz", "new/deep"]
    assert files(folder)["images/a.nii.gz"] == b"longer than it was before"


def test_a_file_becomes_a_folder_and_back(bucket: AnyBucket) -> None:
    bucket.put("scans/x", b"file")
    folder = local_copy(bucket.uri("scans"))
    bucket.delete("scans/x")
    bucket.put("scans/x/y", b"deep")
    assert files(local_copy(bucket.uri("scans"))) == {"x/y": b"deep"}
    bucket.delete("scans/x/y")
    bucket.put("scans/x", b"file")
    local_copy(bucket.uri("scans"))
    local_copy(bucket.uri("scans"))
    assert files(folder) == {"x": b"file"}


def test_a_copy_looks_alike_on_every_machine(bucket: AnyBucket, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bucket)
    found = []
    for machine in ("one", "two"):
        monkeypatch.setenv("ICH_CACHE", str(cache / machine))
        folder = local_copy(bucket.uri("scans"))
        found.append(fingerprint(find_cases(folder, LAYOUT), folder))
        time.sleep(1.1)  # a full second of a server's clock
    assert found[0] == found[1]
    bucket.put("scans/images/a.nii.gz", CASES[0].encode())  # the same bytes, later
    local_copy(bucket.uri("scans"))
    assert fingerprint(find_cases(folder, LAYOUT), folder) != found[0]


def test_a_killed_copy_leaves_no_half_a_file_and_is_taken_up(bucket: AnyBucket, cache: Path) -> None:
    fill(bucket)
    big = os.urandom(3 << 20)
    bucket.put("scans/images/z.nii.gz", big)
    child = os.fork()
    if child == 0:
        block = mirror._block

        def slow(name: str, stream: Any) -> bytes:
            found = block(name, stream)
            if "z.nii" in name:
                time.sleep(30)
            return found

        mirror._block = slow
        local_copy(bucket.uri("scans"))
        os._exit(0)
    deadline = time.monotonic() + 60
    while len(list(cache.glob("data/*/files/*/*"))) < len(CASES) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (folder,) = cache.glob("data/*/files")
    assert files(folder) == {name: name.encode() for name in CASES}
    assert list(cache.glob("data/*/parts/*"))
    local_copy(bucket.uri("scans"))
    assert files(folder) == {**{name: name.encode() for name in CASES}, "images/z.nii.gz": big}
    assert not list(cache.glob("data/*/parts"))


def test_an_object_that_goes_meanwhile(bucket: AnyBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bucket)
    found = mirror.data_entries(bucket.uri("scans"))
    bucket.delete("scans/images/a.nii.gz")
    monkeypatch.setattr(mirror, "data_entries", lambda uri: found)
    with pytest.raises(IchError, match=r"images/a\.nii\.gz.*removed while .*scans was copied; run again"):
        local_copy(bucket.uri("scans"))


def test_an_object_that_changes_meanwhile(bucket: AnyBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(bucket)
    found = mirror.data_entries(bucket.uri("scans"))
    bucket.put("scans/images/a.nii.gz", b"x")
    monkeypatch.setattr(mirror, "data_entries", lambda uri: found)
    with pytest.raises(IchError, match=r"found 1 bytes, wanted 15: it changed while it was copied; run again"):
        local_copy(bucket.uri("scans"))


@pytest.mark.parametrize("keys", [["x", "x/y"], ["a/../../b"]])
def test_names_that_no_file_can_have(s3_bucket: Bucket, keys: list[str], cache: Path) -> None:
    s3_bucket.fill(f"scans/{key}" for key in keys)
    with pytest.raises(UsageError, match=f"found the object '{keys[-1]}', which cannot be a file"):
        local_copy(s3_bucket.uri("scans"))
    assert not list(cache.rglob("b"))


def test_nothing_at_all(bucket: AnyBucket) -> None:
    bucket.put("scans-2/x")
    for call in (local_copy, lambda uri: data_state(uri, LAYOUT)):
        with pytest.raises(UsageError, match=rf"{bucket.uri('scans')}: no such data folder"):
            call(bucket.uri("scans"))


def test_a_cache_that_cannot_be_written(bucket: AnyBucket, cache: Path) -> None:
    fill(bucket)
    cache.write_text("a file")
    with pytest.raises(IchError, match=rf"{cache}.*cannot hold a copy.*Not a directory.*ICH_CACHE"):
        local_copy(bucket.uri("scans"))


def test_messages_name_the_uri(tmp_path: Path) -> None:
    place, copy = "s3://b/scans/", tmp_path / "copy"
    with pytest.raises(UsageError, match=r"^s3://b/scans/images/a: bad$"), as_named(place, copy):
        raise UsageError(f"{copy}/images/a: bad")
    with pytest.raises(UsageError, match=f"^{copy}: bad$"), as_named(str(copy), copy):
        raise UsageError(f"{copy}: bad")
    content = {"image": f"{copy}/a", "n": 1, "list": [f"{copy}/a: and {copy}/b", None]}
    assert renamed(content, place, copy) == {
        "image": "s3://b/scans/a", "n": 1, "list": ["s3://b/scans/a: and s3://b/scans/b", None]
    }  # fmt: skip
    assert renamed(content, str(copy), copy) == content


def test_the_state_changes_with_whatever_comes_changes_or_goes(bucket: AnyBucket) -> None:
    fill(bucket)
    uri = bucket.uri("scans")
    states = [data_state(uri, LAYOUT)]
    assert data_state(uri, LAYOUT) == states[0] and data_state(f"{uri}/", LAYOUT) == states[0]
    bucket.put("scans/images/e.nii.gz", b"new")
    states.append(data_state(uri, LAYOUT))
    bucket.put("scans/images/e.nii.gz", b"other")
    states.append(data_state(uri, LAYOUT))
    bucket.delete("scans/images/a.nii.gz")
    states.append(data_state(uri, LAYOUT))
    assert len(set(states)) == 4
