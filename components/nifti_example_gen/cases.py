"""`cases.json`: what went into the examples and what was quarantined, beside the splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from components.nifti_example_gen.examples import CaseRecord
from components.nifti_example_gen.layout import Quarantined, Superseded
from schema.features import SPLITS

FILE_NAME = "cases.json"


def summarise_cases(
    records: Iterable[CaseRecord],
    quarantined: Iterable[Quarantined],
    *,
    spans: Sequence[int] = (0,),
    superseded: Iterable[Superseded] = (),
) -> dict[str, Any]:
    """The content of `cases.json`.

    Args:
        records: Ingested cases.
        quarantined: The others.
        spans: The spans read, newest first.
        superseded: Scans left out for a newer one of the same case id.

    Returns:
        Mapping with `cases`, `quarantined`, `findings` (warnings and repairs of the cases in use), `splits` (patients,
        scans, slices and lesion slices of each), `span` (the newest), `spans`, `superseded`, and `fingerprint`, which
        depends on pixels and splits alone.
    """
    ordered = sorted(records, key=lambda record: record.case_id)
    splits = {}
    for name in SPLITS:
        members = [record for record in ordered if record.split == name]
        splits[name] = {
            "patients": len({record.patient_id for record in members}),
            "scans": len(members),
            "slices": sum(record.slices for record in members),
            "lesion_slices": sum(record.lesion_slices for record in members),
        }
    content = json.dumps([[record.case_id, record.split, record.digest] for record in ordered])
    return {
        "fingerprint": hashlib.sha256(content.encode()).hexdigest()[:16],
        "span": spans[0],
        "spans": list(spans),
        "superseded": [asdict(item) for item in sorted(superseded)],
        "splits": splits,
        "cases": [{key: value for key, value in asdict(record).items() if key != "findings"} for record in ordered],
        "findings": [{"case_id": record.case_id, **finding} for record in ordered for finding in record.findings],
        "quarantined": [asdict(item) for item in sorted(quarantined, key=lambda item: item.case_id)],
    }
