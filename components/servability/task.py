"""What a model is put to: a generated head with blood, prepared as every scan is, and what must come of it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from components.imaging.nifti import Volume
from components.imaging.phantom import Phantom, generate_patient
from components.imaging.scan import Scan, prepare_scan
from components.servability.probe import EXPECTED_FILE, SCAN_FILE
from serving import signatures as s
from serving.contract import Contract
from serving.warmup import MAX_RECORDS, WARMUP_FILE

SEED, PATIENT = 7, 0
"""A head of 28 slices of 5 mm; the same numbers give the same bytes."""


@lru_cache(maxsize=1)
def _phantom() -> Phantom:
    return generate_patient(SEED, PATIENT, kinds=("intraparenchymal", "subdural"))


def golden_scan(contract: Contract) -> Scan:
    """The generated head on the model's grid."""
    phantom = _phantom()
    volume = Volume(phantom.hu, phantom.affine, nib.Nifti1Header())
    return prepare_scan(volume, Path("generated head"), size=contract.grid_size, spacing_mm=contract.grid_spacing_mm)


def write_task(folder: Path, contract: Contract, text: str) -> None:
    """Writes what the probe reads, so that it needs none of this package's code.

    Args:
        folder: An existing folder; receives `SCAN_FILE`, the inputs of `predict_slices` by name and the same as
            serialised examples, uint8 of shape (slices, bytes), and `EXPECTED_FILE`.
        contract: The model's contract.
        text: The same as it stands beside the model.
    """
    scan = golden_scan(contract)
    (inputs,) = s.requests(scan, contract, batch=len(scan.hu))
    examples = np.stack([np.frombuffer(record, np.uint8) for record in s.serialised(inputs)])
    np.savez(folder / SCAN_FILE, **inputs, **{s.EXAMPLES: examples})  # type: ignore[arg-type]  # a name could be `allow_pickle`
    expected: dict[str, Any] = {
        "model_name": contract.model_name,
        "contract": text,
        "whole_scans": contract.input == "scan",
        "batch": len(scan.hu) if contract.input == "scan" else s.BATCH,
        "signatures": s.specs(contract),
        "warmup_file": WARMUP_FILE,
        "max_warmup": MAX_RECORDS,
    }
    (folder / EXPECTED_FILE).write_text(json.dumps(expected), encoding="utf-8")
