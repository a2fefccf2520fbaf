"""What is on the cluster, as tables."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_listing(found: dict[str, Any]) -> None:
    """Shows schedules and runs.

    Args:
        found: From `Client.listing`.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    names = {one["id"]: one["name"] for one in found["schedules"]}
    schedules = _table("schedule", "state", "times (UTC)", "next due (UTC)", "missed times", "created (UTC)", "error")
    for one in found["schedules"]:
        schedules.add_row(
            one["name"],
            "enabled" if one["enabled"] else "disabled",
            one["cron"] or f"every {one['every_seconds']} s",
            _minute(one["next_due"]),
            "all" if one["catch_up"] else "the last",
            _minute(one["created"]),
            one["error"] or "",
        )
    runs = _table("run", "state", "created (UTC)", "finished (UTC)", "schedule", "error", "page")
    for one in found["runs"]:
        runs.add_row(
            one["name"],
            one["state"],
            _minute(one["created"]),
            _minute(one["finished"]),
            names.get(one["schedule"], one["schedule"] or ""),
            one["error"] or "",
            one["url"],
        )
    where = f", namespace {found['namespace']}" if found["namespace"] else ""
    console.print(f"experiment {found['experiment']} at {found['host']}{where}", soft_wrap=True)
    console.print(schedules if found["schedules"] else "no schedules")
    console.print(runs if found["runs"] else "no runs")


def _table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _minute(moment: str | None) -> str:
    return (moment or "")[:16].replace("T", " ")
