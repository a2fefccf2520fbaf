"""The statistics store: what earlier runs' data looked like, to be found without TFX's metadata.

One folder a data fingerprint: `cases.json`, `<split>.pb` with TFDV's statistics, and `record.json`, which is written
last, so that a folder without it is an unfinished one.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.dsl.io import fileio

from components.storage import files

RECORD, LISTING = "record.json", "cases.json"


@dataclass(frozen=True)
class Entry:
    """What is known of the data of an earlier run.

    Attributes:
        fingerprint: Of the data, as in `cases.json` and in a model's contract.
        span: The newest span in it.
        time: When it was last trained on, ISO 8601 in UTC.
        patients: Patients by split.
        folder: Where the rest lies, a folder or a URI.
    """

    fingerprint: str
    span: int
    time: str
    patients: dict[str, int]
    folder: str

    def statistics(self, split: str) -> Any:
        """The statistics of a split, a DatasetFeatureStatisticsList."""
        return statistics_pb2.DatasetFeatureStatisticsList.FromString(files.read(f"{self.folder}/{split}.pb"))

    def listing(self) -> dict[str, Any]:
        """Its `cases.json`."""
        found: dict[str, Any] = json.loads(files.read(f"{self.folder}/{LISTING}"))
        return found


def remember(store: str, listing: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
    """Keeps the statistics of a run's data; what was known of the very same data is replaced.

    Args:
        store: `<output>/statistics`, a folder or a URI.
        listing: `cases.json`.
        statistics: By split.
    """
    folder = f"{store}/{listing['fingerprint']}"
    for split, found in statistics.items():
        files.write(f"{folder}/{split}.pb", found.SerializeToString())
    files.write(f"{folder}/{LISTING}", json.dumps(listing, indent=1).encode())
    record = {
        "fingerprint": listing["fingerprint"],
        "span": listing["span"],
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
        "patients": {name: counts["patients"] for name, counts in listing["splits"].items()},
    }
    files.write(f"{folder}/{RECORD}", json.dumps(record, indent=1).encode())


def entries(store: str) -> list[Entry]:
    """Everything that is remembered, the latest last; what cannot be read is left out."""
    found = []
    for path in fileio.glob(f"{store}/*/{RECORD}"):
        try:
            found.append(Entry(**json.loads(files.read(path)), folder=path.rpartition("/")[0]))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda entry: entry.time)


def previous(known: Iterable[Entry], fingerprint: str, span: int) -> Entry | None:
    """The data before some data: of the nearest older span, else what was last trained on of the same span."""
    others = [entry for entry in known if entry.fingerprint != fingerprint and entry.span <= span]
    older = [entry for entry in others if entry.span < span]
    return max(older or others, key=lambda entry: (entry.span, entry.time), default=None)


def of_data(known: Iterable[Entry], fingerprint: str) -> Entry | None:
    """The entry of a data fingerprint."""
    return next((entry for entry in known if entry.fingerprint == fingerprint), None)


def state(store: str) -> str:
    """Names what is remembered, in order: another value means that there may be something else to compare with."""
    return ",".join(f"{entry.fingerprint}:{entry.span}" for entry in entries(store))
