"""What is remembered of earlier data, and which of it comes before some data."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.data_validator.store import Entry, entries, of_data, previous, remember, state
from components.storage import files
from tests.buckets import Bucket
from tests.components.data_validator.data import listing, patients, statistics

COUNTS = {"train": 3, "val": 1, "test": 1}


def entry(fingerprint: str, span: int, time: str) -> Entry:
    return Entry(fingerprint, span, time, COUNTS, "")


def test_what_is_remembered_is_found_again(tmp_path: Path) -> None:
    store = str(tmp_path / "statistics")
    assert entries(store) == [] and state(store) == ""
    found = {split: statistics(patients(2, seed)) for seed, split in enumerate(COUNTS)}
    remember(store, listing("abc", COUNTS, span=4), found)
    (known,) = entries(store)
    assert (known.fingerprint, known.span, known.patients) == ("abc", 4, COUNTS)
    assert known.listing() == listing("abc", COUNTS, span=4)
    for split in COUNTS:
        assert known.statistics(split) == found[split]
    assert of_data([known], "abc") is known and of_data([known], "other") is None
    assert sorted(path.name for path in (tmp_path / "statistics" / "abc").iterdir()) == [
        "cases.json", "record.json", "test.pb", "train.pb", "val.pb"
    ]  # fmt: skip


def test_a_bucket_remembers_likewise(bucket: Bucket) -> None:
    store = bucket.uri("statistics")
    assert entries(store) == [] and state(store) == ""
    found = {"train": statistics(patients(3, 0))}
    for fingerprint in ("a", "b", "a"):
        remember(store, listing(fingerprint, COUNTS), found)
    assert state(store) == "b:0,a:0"
    known = entries(store)[-1]
    assert known.statistics("train") == found["train"] and known.listing() == listing("a", COUNTS)
    bucket.put("statistics/half/train.pb")
    assert state(store) == "b:0,a:0"


def test_the_latest_is_last_and_the_same_data_again_is_the_latest(tmp_path: Path) -> None:
    store = str(tmp_path)
    for fingerprint in ("a", "b", "a"):
        remember(store, listing(fingerprint, COUNTS), {"train": statistics(patients(1, 0))})
    assert [known.fingerprint for known in entries(store)] == ["b", "a"]
    assert state(store) == "b:0,a:0"


def test_an_interrupted_write_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = files.write

    def fail(path: str, data: bytes) -> None:
        if path.endswith("record.json"):
            raise OSError("No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", fail)
        with pytest.raises(OSError, match="No space"):
            remember(str(tmp_path), listing("a", COUNTS), {"train": statistics(patients(1, 0))})
    assert entries(str(tmp_path)) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "a"}', '{"other": 1}'])
def test_an_unreadable_record_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text(text)
    assert entries(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("fingerprint", "span", "wanted"),
    [
        ("new", 4, "3b"),  # the nearest older span, its latest data
        ("new", 9, "5"),
        ("new", 3, "1"),  # mended data of span 3 is compared with span 1
        ("new", 1, "1"),  # nothing older: other data of the same span
        ("1", 1, None),  # only itself
        ("new", 0, None),
    ],
)
def test_the_data_before(fingerprint: str, span: int, wanted: str | None) -> None:
    known = [entry("1", 1, "t1"), entry("3a", 3, "t2"), entry("5", 5, "t3"), entry("3b", 3, "t4")]
    found = previous(known, fingerprint, span)
    assert (found.fingerprint if found else None) == wanted


def test_without_spans_the_latest_other_data_is_before() -> None:
    known = [entry("a", 0, "t1"), entry("b", 0, "t2"), entry("c", 0, "t3")]
    assert [getattr(previous(known, now, 0), "fingerprint", None) for now in ("a", "b", "c", "d")] == list("ccbc")
    assert previous([], "a", 0) is None
