"""`make bench`: every promised figure beside its goal. Takes about an hour on 2 cores."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import check, cohort, ingest, memory, prediction, restart, serving, training
from benchmarks.report import Result

PARTS = ("check", "ingest", "memory", "training", "prediction", "serving", "restart")


def main() -> int:
    """Runs the chosen parts and prints a line a figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--scans", type=int, default=60, help="scans to measure on (default 60)")
    parser.add_argument("--served", type=int, default=500, help="scans asked of the server under load (default 500)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions (default 5)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    work = Path(tempfile.mkdtemp(prefix="ich-bench-"))
    found = []
    try:
        for result in _measure(set(options.parts or PARTS), options.scans, options.repeats, options.served, work):
            print(result.line(), flush=True)
            found.append({**asdict(result), "met": result.met})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


def _measure(parts: set[str], scans: int, repeats: int, served: int, work: Path) -> Iterator[Result]:
    data = cohort.scans(work / "data", scans)
    print(f"{scans} scans, {'real' if cohort.REAL.is_dir() else 'generated'}; {os.cpu_count()} cores", flush=True)
    if "check" in parts:
        yield from check.measure(data, work, repeats)
    if "ingest" in parts:
        yield from ingest.measure(data, work, repeats)
    if "memory" in parts:
        yield from memory.measure(data, work)
    elif parts & {"training", "prediction", "serving"}:
        memory.peak_gib(data, work / "once")
    if "training" in parts:
        yield from training.measure(work / "once", repeats)
    if parts & {"prediction", "serving"}:
        scan = sorted((data / "images").glob("*.nii.gz"))[0]
        # As exported: after so few steps the gate may refuse to push it.
        model = training.newest(work / "once" / "artifacts" / "Trainer" / "model") / "Format-Serving"
    if "prediction" in parts:
        yield from prediction.measure(scan, model, work, repeats)
    if "serving" in parts:
        yield from serving.measure(scan, model, work, served)
    if "restart" in parts:
        yield from restart.measure(data, work)


if __name__ == "__main__":
    raise SystemExit(main())
