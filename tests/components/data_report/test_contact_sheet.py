"""Which slices are shown: the same for the same data, half of them bleeding, none of them twice."""

from __future__ import annotations

import pytest

from components.data_report.contact_sheet import SHARDS, choose_shards, choose_tiles
from tests.cases import Sample, cuboid

BLOOD = [cuboid((1, 4), (30, 38), (30, 40))]


def records(bleeding: int, others: int) -> list[tuple[str, bytes]]:
    """Slices of so many scans with and without blood."""
    samples = [Sample(f"b{number:02d}", BLOOD, BLOOD) for number in range(bleeding)]
    samples += [Sample(f"n{number:02d}") for number in range(others)]
    return [("train", record) for sample in samples for record in sample.examples("train")]


@pytest.fixture(scope="module")
def mixed() -> list[tuple[str, bytes]]:
    return records(8, 6)


def test_half_of_the_slices_bleed_and_no_scan_fills_the_sheet(mixed: list[tuple[str, bytes]]) -> None:
    tiles = choose_tiles(mixed, "aa", tiles=8)
    assert sum(tile["lesion_cm2"] > 0 for tile in tiles) == 4
    keys = [(tile["case_id"], tile["lesion_cm2"] > 0) for tile in tiles]
    assert len(tiles) == len(set(keys)) == 8
    for tile in tiles:
        assert bool(tile["outline"]) == (tile["lesion_cm2"] > 0)
        # 8 by 10 pixels of 3 by 3 mm.
        assert tile["lesion_cm2"] in (0, pytest.approx(7.2))
        assert tile["image"].startswith("data:image/webp;base64,")
        assert 1 <= tile["slice"] <= tile["slices"] == 5


def test_the_choice_is_fixed_by_the_data_and_not_by_its_order(mixed: list[tuple[str, bytes]]) -> None:
    def chosen(order: list[tuple[str, bytes]], fingerprint: str) -> list[tuple[str, int]]:
        return [(tile["case_id"], tile["slice"]) for tile in choose_tiles(order, fingerprint, tiles=6)]

    assert chosen(mixed, "aa") == chosen(mixed[::-1], "aa")
    assert len({tuple(chosen(mixed, name)) for name in ("aa", "bb", "cc", "dd")}) > 2


@pytest.mark.parametrize(("bleeding", "others", "wanted"), [(0, 5, (0, 5)), (2, 9, (2, 6)), (9, 0, (4, 4))])
def test_where_one_kind_is_rare_the_other_fills_the_sheet(bleeding: int, others: int, wanted: tuple[int, int]) -> None:
    tiles = choose_tiles(records(bleeding, others), "aa", tiles=8)
    bled = sum(tile["lesion_cm2"] > 0 for tile in tiles)
    assert (bled, len(tiles) - bled) == wanted


def test_nothing_of_nothing() -> None:
    assert choose_tiles([], "aa") == []


def test_few_shards_are_read_and_the_folder_does_not_matter() -> None:
    files = [f"examples-{number:05d}-of-00040.gz" for number in range(40)]
    one, other = (choose_shards([f"{folder}/{name}" for name in order], "train", "aa")
                  for folder, order in (("a/b", files), ("gs://c", files[::-1])))  # fmt: skip
    assert len(one) == SHARDS["train"]
    assert [path.rsplit("/", 1)[-1] for path in one] == [path.rsplit("/", 1)[-1] for path in other]
    assert choose_shards(files, "train", "bb") != choose_shards(files, "train", "aa")
    assert choose_shards([], "val", "aa") == []
