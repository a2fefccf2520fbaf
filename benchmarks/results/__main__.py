"""`python -m benchmarks.results`: trains what the plan lists and writes docs/RESULTS.md. Resumable; takes hours."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.cohort import REAL
from benchmarks.results.measure import measure
from benchmarks.results.page import page
from benchmarks.results.plan import SEEDS, rows
from components.imaging.nifti import write_bytes

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = DOCS / "results.json"


def main() -> int:
    """Measures what is not in `docs/results.json` yet, row by row, and writes the page after each."""
    plan = {row.name: row for row in rows()}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(plan)}; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: 0 1 2")
    parser.add_argument("--data", type=Path, default=REAL.parent, help="folder with phe_sich/ and ct_ich/")
    parser.add_argument("--work", type=Path, default=Path("results-work"), help="where trainings lie; may be resumed")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have figures already")
    parser.add_argument("--page-only", action="store_true", help="write the page from the figures there are")
    options = parser.parse_args()
    unknown = sorted(set(options.rows) - set(plan))
    if unknown:
        parser.error(f"unknown row {', '.join(unknown)}; choose from {', '.join(plan)}")
    found = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else []
    wanted = [] if options.page_only else [plan[name] for name in options.rows or plan]
    for seed in options.seeds:
        for row in wanted:
            done = [one for one in found if (one["row"], one["seed"]) == (row.name, seed)]
            if done and not options.again:
                continue
            measured = measure(row, seed, options.data, options.work)
            found = [one for one in found if one not in done] + [measured]
            _write(found)
    _write(found)
    return 0


def _write(found: list[dict[str, object]]) -> None:
    order = {name: position for position, name in enumerate(row.name for row in rows())}
    kept = sorted(found, key=lambda one: (order.get(str(one["row"]), len(order)), one["seed"]))
    write_bytes(FIGURES, (json.dumps(kept, indent=1) + "\n").encode())
    write_bytes(DOCS / "RESULTS.md", page(kept, rows()).encode())
    print(f"{DOCS / 'RESULTS.md'}: {len(kept)} trainings", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
