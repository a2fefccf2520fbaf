"""What a run's data is compared with, and everything that is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow_metadata.proto.v0 import schema_pb2

from components.data_validator import rules
from components.data_validator.findings import NOTE, STOP, Finding
from components.data_validator.rules import Measurement
from components.data_validator.store import Entry, of_data, previous
from components.imaging.errors import UsageError
from components.storage.served import served_contract, served_versions, version_name

TRAIN = "train"


@dataclass(frozen=True)
class Comparison:
    """The result.

    Attributes:
        findings: What fired.
        measurements: Every distance, also of rules that did not fire.
        references: Name, fingerprint, span and time of what the training split was compared with.
        previous: The data before, if any.
    """

    findings: list[Finding]
    measurements: list[Measurement]
    references: list[dict[str, Any]]
    previous: Entry | None


def compare(
    listing: Mapping[str, Any],
    statistics: Mapping[str, Any],
    schema: schema_pb2.Schema,
    validation: Mapping[str, Any],
    known: Sequence[Entry],
    serving: str,
    *,
    most_quarantined: float = 1.0,
) -> Comparison:
    """Applies every rule.

    Args:
        listing: `cases.json`.
        statistics: DatasetFeatureStatisticsList by split.
        schema: The curated schema.
        validation: The configuration's section `validation`.
        known: What earlier runs' data was.
        serving: The folder that TF Serving watches, or its URI.
        most_quarantined: A larger share of quarantined scans stops the run, whatever else is allowed.
    """
    findings = [
        finding
        for split, found in statistics.items()
        for finding in rules.anomalies(split, found, schema, validation["anomalies"])
    ]
    findings += rules.quarantined(listing, most_quarantined, STOP, rules.TOO_FEW_LEFT) or rules.quarantined(
        listing, validation["max_quarantined"], validation["quarantined"], "share of quarantined scans"
    )
    patients = {name: counts["patients"] for name, counts in listing["splits"].items()}

    before = previous(known, listing["fingerprint"], listing["span"])
    references, notes = _references(before, listing["fingerprint"], known, serving)
    findings += notes
    measured: list[Measurement] = []
    for name, entry in references:
        counts = (patients[TRAIN], entry.patients[TRAIN])
        measured += rules.drift(TRAIN, statistics[TRAIN], schema, entry.statistics(TRAIN), name=name, patients=counts)
    findings += rules.distance_findings(measured, validation["drift"])
    skewed: list[Measurement] = []
    for split in (name for name in statistics if name != TRAIN):
        counts = (patients[split], patients[TRAIN])
        skewed += rules.skew(
            split, statistics[split], schema, statistics[TRAIN], name="the train split", patients=counts
        )
    findings += rules.distance_findings(skewed, validation["skew"])
    listed = [
        {"name": name, "fingerprint": entry.fingerprint, "span": entry.span, "time": entry.time}
        for name, entry in references
    ]
    return Comparison(findings, measured + skewed, listed, before)


def _references(
    before: Entry | None, fingerprint: str, known: Sequence[Entry], serving: str
) -> tuple[list[tuple[str, Entry]], list[Finding]]:
    """Name and entry of what the training split is compared with, and notes on what cannot be found."""
    references = [] if before is None else [(f"the data before ({_time(before)})", before)]
    served = served_versions(serving)
    if not served:
        return references, []
    name = f"the training data of version {version_name(served[-1])} in service"
    try:
        trained_on = served_contract(served[-1]).data_fingerprint
    except UsageError as error:
        return references, [_unknown(name, str(error))]
    if trained_on == fingerprint:
        return references, []
    entry = of_data(known, trained_on)
    if entry is None:
        return references, [_unknown(name, f"the store holds no statistics of the data {trained_on}")]
    if before is not None and before.fingerprint == trained_on:
        return [(f"{name}, which is the data before ({_time(before)})", entry)], []
    return [*references, (name, entry)], []


def _time(entry: Entry) -> str:
    return f"span {entry.span}" if entry.span else f"of {entry.time[:16]}"


def _unknown(name: str, reason: str) -> Finding:
    return Finding(TRAIN, rules.WHOLE, "drift", NOTE, f"drift against {name}", f"not compared with {name}: {reason}")
