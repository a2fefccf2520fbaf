"""CSV files that list scans and masks: those that are there, and one that is written where no pattern says it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.nifti_example_gen.layout import MANIFEST_COLUMNS
from pipeline.guess.words import as_delivery

NEEDED = ("case_id", "image", "mask")
_COLUMN_WORDS = {
    "case_id": ("case", "id", "scan_id", "name", "subject"),
    "image": ("scan", "ct", "image_path", "img", "volume", "path"),
    "mask": ("label", "seg", "segmentation", "mask_path", "truth"),
}


@dataclass(frozen=True)
class Table:
    """A CSV file that may be a manifest.

    Attributes:
        path: Relative to the data folder.
        columns: Its columns.
        lines: How many cases it lists.
    """

    path: str
    columns: tuple[str, ...]
    lines: int

    @property
    def usable(self) -> bool:
        """Whether it has the columns of a manifest."""
        return all(name in self.columns for name in NEEDED)

    def nearly(self) -> str:
        """How its columns would have to be named; empty where it does not look like a manifest at all."""
        low = {column.strip().lower(): column for column in self.columns}
        renamed = {}
        for wanted, known in _COLUMN_WORDS.items():
            if wanted in self.columns:
                continue
            found = next((low[name] for name in (wanted, *known) if name in low), None)
            if found is None:
                return ""
            renamed[found] = wanted
        return ", ".join(f"{found} to {wanted}" for found, wanted in renamed.items())


def read_tables(root: Path, paths: Sequence[str]) -> list[Table]:
    """The CSV files that can be read."""
    found = []
    for path in paths:
        try:
            with (root / path).open(newline="", encoding="utf-8-sig") as file:
                rows = csv.reader(file)
                columns = tuple(name.strip() for name in next(rows, []))
                found.append(Table(path, columns, sum(1 for _ in rows)))
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
    return found


def manifest_pattern(tables: Sequence[Table]) -> tuple[str, int, tuple[str, ...]]:
    """The manifest to take, or a pattern for one a delivery.

    Args:
        tables: Those that are usable, at least one.

    Returns:
        Path or pattern, how many deliveries it tells apart (0: none), and the paths that it leaves aside.
    """
    by_pattern: dict[str, set[str]] = {}
    for table in tables:
        folder, _, name = table.path.rpartition("/")
        stem = name[: -len(".csv")]
        spelt = as_delivery(stem)
        pattern = spelt[0] if spelt else re.sub(r"\d+$", "{SPAN}", stem)
        whole = f"{folder}/{pattern}{name[len(stem) :]}" if folder else f"{pattern}{name[len(stem) :]}"
        by_pattern.setdefault(whole, set()).add(table.path)
    pattern, held = max(by_pattern.items(), key=lambda item: (len(item[1]), item[0]))
    if len(held) > 1 and "{" in pattern:
        return pattern, len(held), tuple(table.path for table in tables if table.path not in held)
    chosen = min(tables, key=lambda table: (Path(table.path).name != "manifest.csv", -table.lines, table.path))
    return chosen.path, 0, tuple(table.path for table in tables if table is not chosen)


def manifest_text(rows: Sequence[dict[str, str]]) -> str:
    """A manifest.

    Args:
        rows: By column; a column that is missing stays empty.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, MANIFEST_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
