"""A search in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from components.trainer.hyperparameters import describe


def search_summary(table: Mapping[str, Any]) -> str:
    """What was chosen, from how many trials.

    Args:
        table: What `Search.table` returns, as `trials.json` holds it.
    """
    best = next(row for row in table["trials"] if row["trial"] == table["best"])
    counts = Counter(row["status"] for row in table["trials"])
    left_out = "".join(f", {counts[status]} {status}" for status in ("failed", "unfinished") if counts[status])
    return (
        f"trial {best['trial']} of {len(table['trials'])}{left_out}: {describe(best['hyperparameters'])}; "
        f"val Dice {best['val_dice']:.4f}"
    )
