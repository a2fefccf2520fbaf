"""The scans that are measured on: real ones where they are, generated ones elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from components.imaging.phantom import write_cohort

REAL = Path(os.environ.get("ICH_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "phe_sich"


def scans(folder: Path, count: int) -> Path:
    """A folder with `images/` and `masks/` of at most `count` scans of 512 x 512.

    Args:
        folder: Where to link or generate them.
        count: How many.
    """
    if REAL.is_dir():
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for path in sorted((REAL / kind).glob("*.nii.gz"))[:count]:
                _link(path, folder / kind / path.name)
    else:
        write_cohort(folder, patients=count, seed=7, size="full", workers=os.cpu_count() or 1)
    return folder


def multiplied(source: Path, folder: Path, times: int) -> Path:
    """The same scans linked several times over, under case ids of their own."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / kind).glob("*.nii.gz")):
            for copy in range(times):
                _link(path.resolve(), folder / kind / f"c{copy}-{path.name}")
    return folder


def _link(target: Path, link: Path) -> None:
    if not link.exists():
        link.symlink_to(target)
