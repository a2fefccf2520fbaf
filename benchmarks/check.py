"""The checks of scans against the least that reading them can cost, on one processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks import cohort
from benchmarks.ingest import inflate_all, scan_pairs
from benchmarks.report import Result, interleaved_seconds
from components.imaging.checks.case import check_case
from pipeline.check import check_folder
from pipeline.config import load_config


def measure(data: Path, work: Path, repeats: int) -> Iterator[Result]:
    """Yields the ratio to inflating, the rate a core, and the growth of memory over three times the scans.

    Args:
        data: A folder with images/ and masks/.
        work: A folder to write to.
        repeats: Timed repetitions.
    """
    config = load_config("phe_sich")
    section = config.data.model_dump(mode="json")
    pairs = scan_pairs(data)

    def checks() -> None:
        for image, mask in pairs:
            check_case(image, mask, section)

    ours, floor = interleaved_seconds(checks, lambda: inflate_all(pairs), repeats)
    yield Result(
        "check / bare inflate + array", ours / floor, "x", 2.0, True,
        f"{1e3 * ours / len(pairs):.0f} ms against {1e3 * floor / len(pairs):.0f} ms a volume, one thread",
    )  # fmt: skip
    began, spent = time.perf_counter(), time.process_time()
    check_folder(data, config)
    wall, spent = time.perf_counter() - began, time.process_time() - spent
    yield Result(
        "check scans/s/core", len(pairs) / spent, "/s", 8.0, False, f"{len(pairs) / wall:.1f} scans/s on all cores",
    )  # fmt: skip
    process = psutil.Process()
    before = process.memory_info().rss
    check_folder(cohort.multiplied(data, work / "thrice", 3), config)
    grown = max(0, process.memory_info().rss - before) / 2**20
    yield Result("check memory grown by 3x scans", grown, "MiB", 64.0, True)
