"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: What was looked at.
        state: `ok`, `note` (slower, or only some commands suffer) or `problem` (runs will fail or mislead).
        text: What was found.
        remedy: What to do; empty where there is nothing to.
    """

    name: str
    state: str
    text: str
    remedy: str = ""


def worst(name: str, text: str, findings: list[Finding]) -> list[Finding]:
    """The findings, or that all is well where there are none."""
    return findings or [Finding(name, OK, text)]
