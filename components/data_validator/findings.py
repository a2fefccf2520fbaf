"""What is found against a run's data, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from components.imaging.errors import DataError

FILE_NAME = "findings.json"
STOP, HOLD, NOTE = "stop", "hold", "note"
"""The run ends before training; a model is trained and measured but not pushed; it is only said."""


@dataclass(frozen=True)
class Finding:
    """One rule that fired.

    Attributes:
        split: Split in which it was found; empty for the whole cohort.
        feature: The feature; a name in brackets where it is none.
        kind: `anomalies`, `drift`, `skew` or `quarantined`: the key of the configuration's section `validation`.
        severity: `stop`, `hold` or `note`.
        rule: What fired, in short; the key of a setting below `data` where that is the rule.
        description: What was found and what is wanted.
        value: What was measured, where it is a number.
        bound: What is allowed, where it is a number.
    """

    split: str
    feature: str
    kind: str
    severity: str
    rule: str
    description: str
    value: float | None = None
    bound: float | None = None


def to_json(findings: Iterable[Finding]) -> str:
    """The content of `findings.json`, the gravest first."""
    ordered = sorted(findings, key=lambda item: ((STOP, HOLD, NOTE).index(item.severity), item.kind))
    return json.dumps([asdict(finding) for finding in ordered], indent=1)


def holding(text: str | bytes) -> list[dict[str, Any]]:
    """The findings of a `findings.json` that forbid a push."""
    return [finding for finding in json.loads(text) if finding["severity"] != NOTE]


def refuse_stops(findings: Iterable[Finding]) -> None:
    """Raises a DataError when there is a finding of severity stop, listing them."""
    stops = [finding for finding in findings if finding.severity == STOP]
    if not stops:
        return
    listed = "\n".join(f"  {item.split or 'all'}: {item.feature}: {item.description}" for item in stops)
    kinds = sorted({item.kind for item in stops if not item.rule.startswith("data.")})
    limits = sorted({item.rule for item in stops if item.rule.startswith("data.")})
    ways = [f"raise {limit}" for limit in limits]
    if kinds:
        ways.append(f"widen the schema or set {', '.join(f'validation.{kind}' for kind in kinds)} to hold or note")
    raise DataError(
        f"the data breaks {len(stops)} rule(s) of schema/schema.pbtxt and of the section validation, nothing was "
        f"trained:\n{listed}\nmend or remove the scans concerned; if the data is right, {', or '.join(ways)}"
    )
