"""Anomalies as plain findings, and the rule that stops a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.imaging.errors import DataError
from schema.features import STATISTICS_FEATURES


@dataclass(frozen=True)
class Finding:
    """One anomaly.

    Attributes:
        split: Split in which it was found.
        feature: The feature.
        severity: `error` or `warning`.
        rule: What fired, in short.
        description: What was found and what the schema wants.
    """

    split: str
    feature: str
    severity: str
    rule: str
    description: str


def split_findings(split: str, anomalies: bytes) -> list[Finding]:
    """The findings in one split's serialised `Anomalies`."""
    parsed = anomalies_pb2.Anomalies.FromString(anomalies)
    found = [
        _finding(split, name, info)
        for name, info in sorted(parsed.anomaly_info.items())
        if name in STATISTICS_FEATURES or not _only_missing(info)
    ]
    if parsed.HasField("dataset_anomaly_info"):
        found.append(_finding(split, "(whole data set)", parsed.dataset_anomaly_info))
    if parsed.data_missing:
        found.append(Finding(split, "(whole data set)", "error", "no data", "the split holds no examples"))
    return found


def _only_missing(info: anomalies_pb2.AnomalyInfo) -> bool:
    """Whether all that is wrong is that there are no statistics, as of the pixels, of which none are taken."""
    kinds = {reason.type for reason in info.reason}
    return kinds == {anomalies_pb2.AnomalyInfo.SCHEMA_MISSING_COLUMN}


def _finding(split: str, feature: str, info: anomalies_pb2.AnomalyInfo) -> Finding:
    severity = "error" if info.severity == anomalies_pb2.AnomalyInfo.ERROR else "warning"
    return Finding(split, feature, severity, info.short_description, info.description)


def to_json(findings: Iterable[Finding]) -> str:
    """The content of `findings.json`."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raises a DataError when there is a finding of severity error, listing them."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        listed = "\n".join(f"  {item.split}: {item.feature}: {item.description}" for item in errors)
        raise DataError(
            f"the data breaks the schema (schema/schema.pbtxt) in {len(errors)} place(s), nothing was trained:\n"
            f"{listed}\nmend or remove the scans concerned, or widen the schema if they are right"
        )
