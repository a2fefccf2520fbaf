"""Random slices to look at: the same ones for the same data, from a few shards, in memory that does not grow."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tensorflow.core.example.example_pb2 import Example

from components.pages.pictures import data_uri, in_window, outline_path
from schema import features as f

TILES = 24
SHARDS = {"train": 4, "val": 2, "test": 2}
"""How many shards are read of each split."""

_LEAST_HEAD_CM2 = 25.0
_TILE_PIXELS = 224


def _lot(*parts: object) -> str:
    """A fixed random draw: the smallest lots win."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def choose_shards(files: Sequence[str], split: str, fingerprint: str) -> list[str]:
    """The files of a split that are read."""
    return sorted(sorted(files), key=lambda path: _lot(fingerprint, path.rsplit("/", 1)[-1]))[: SHARDS[split]]


def choose_tiles(records: Iterable[tuple[str, bytes]], fingerprint: str, tiles: int = TILES) -> list[dict[str, Any]]:
    """Picks slices and draws them; half of them show blood where there is enough of it.

    At most one slice with and one without blood are taken of a scan; slices without a head are left out.

    Args:
        records: Split and serialised example of each slice.
        fingerprint: Of the data; another one, other slices.
        tiles: At most so many.

    Returns:
        For each slice `case_id`, `split`, `slice` (from 1), `slices`, `lesion_cm2`, `size` (pixels a side), `image`
        (a data URI in the brain window) and `outline` (an SVG path in pixels).
    """
    best: dict[tuple[str, bool], tuple[str, str, bytes]] = {}
    for split, record in records:
        values = Example.FromString(record).features.feature
        if values[f.HEAD_AREA_CM2].float_list.value[0] < _LEAST_HEAD_CM2:
            continue
        case = values[f.CASE_ID].bytes_list.value[0].decode()
        lot = _lot(fingerprint, case, values[f.SLICE_INDEX].int64_list.value[0])
        key = case, values[f.LESION_PIXELS].int64_list.value[0] > 0
        if key not in best or lot < best[key][0]:
            best[key] = lot, split, record
    bleeding, others = (
        heapq.nsmallest(tiles, [(*entry, case) for (case, blood), entry in best.items() if blood is wanted])
        for wanted in (True, False)
    )
    half = max(tiles // 2, tiles - len(others))
    chosen = [*bleeding[:half], *others[: tiles - min(half, len(bleeding))]]
    drawn = [_tile(split, Example.FromString(record)) for _, split, record, _ in chosen]
    return sorted(drawn, key=lambda tile: (f.SPLITS.index(tile["split"]), tile["case_id"], tile["slice"]))


def _tile(split: str, example: Example) -> dict[str, Any]:
    values = example.features.feature
    coverage = np.frombuffer(values[f.MASK].bytes_list.value[0], np.uint8)
    size = round(coverage.size**0.5)
    coverage = coverage.reshape(size, size)
    hu = np.frombuffer(values[f.IMAGE].bytes_list.value[0], "<i2").reshape(-1, size, size)
    shown = min(size, _TILE_PIXELS)
    return {
        "case_id": values[f.CASE_ID].bytes_list.value[0].decode(),
        "split": split,
        "slice": values[f.SLICE_INDEX].int64_list.value[0] + 1,
        "slices": values[f.SLICE_COUNT].int64_list.value[0],
        "lesion_cm2": round(values[f.LESION_AREA_CM2].float_list.value[0], 2),
        "size": size,
        "image": data_uri(in_window(hu[len(hu) // 2]), (shown, shown)),
        "outline": outline_path(coverage),
    }
