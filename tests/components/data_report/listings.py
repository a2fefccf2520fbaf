"""Listings of cohorts by hand, as ingestion leaves them in `cases.json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from schema import features as f


def record(case_id: str, split: str = "train", lesion_ml: float = 10.0, **changes: Any) -> dict[str, Any]:
    """One case: 20 slices, 5 of them with blood unless there is none."""
    return {
        "case_id": case_id,
        "patient_id": case_id,
        "split": split,
        "slices": 20,
        "lesion_slices": 5 if lesion_ml else 0,
        "lesion_ml": lesion_ml,
        "size_bin": f.size_bin(lesion_ml),
        "digest": "00ff",
        "spacing_mm": [5.0, 0.5, 0.5],
        "native_shape": [20, 512, 512],
        "orientation": "LPS",
        "brain_hu_mean": 33.0,
        "brain_hu_sd": 8.0,
        "head_hu": dict.fromkeys(f.HEAD_HU_PERCENTILES, 35.0),
        **changes,
    }


def listing(*records: dict[str, Any], quarantined: Any = (), **more: Any) -> dict[str, Any]:
    """The listing of some cases."""
    found = {"fingerprint": "0123456789abcdef", "span": 0, "cases": list(records), "quarantined": list(quarantined)}
    return found | more


def random_cohort(patients: int, seed: int = 0) -> list[dict[str, Any]]:
    """Cases that differ in everything, for sizes and looks."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(patients):
        size = int(rng.choice([512, 512, 512, 768, 640]))
        found.append(
            record(
                f"patient_{number:04d}",
                ("train", "train", "train", "val", "test")[number % 5],
                float(round(rng.lognormal(2.5, 1.0), 4)) if rng.random() < 0.9 else 0.0,
                slices=int(rng.integers(18, 64)),
                spacing_mm=[round(float(rng.uniform(0.6, 6.0)), 3), *[round(float(rng.uniform(0.35, 0.6)), 4)] * 2],
                native_shape=[30, size, size],
                orientation=str(rng.choice(["LPS", "RAS", "LAS"])),
                brain_hu_mean=float(round(rng.normal(33, 2), 3)),
                brain_hu_sd=float(round(rng.normal(8, 1), 3)),
                head_hu={
                    name: float(round(rng.normal(0, 10) + 10 * place, 2))
                    for place, name in enumerate(f.HEAD_HU_PERCENTILES)
                },
            )
        )
    return found


def finding(severity: str = "hold", **changes: Any) -> dict[str, Any]:
    """One finding of the data validator."""
    return {
        "split": "train",
        "feature": "brain_hu_mean",
        "kind": "drift",
        "severity": severity,
        "rule": "drift against the data before",
        "description": "differs from the data before",
        "value": 0.6123,
        "bound": 0.2,
        **changes,
    }


def quarantined(
    case_id: str, code: str = "truncated", reason: str = "f.nii.gz: ends early; copy it anew"
) -> dict[str, str]:
    """One quarantined case."""
    return {"case_id": case_id, "code": code, "reason": reason, "image": ""}


def tile(case_id: str = "a", **changes: Any) -> dict[str, Any]:
    """One tile of the contact sheet: a square outline on a picture of one pixel."""
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    return {
        "case_id": case_id, "split": "train", "slice": 7, "slices": 20, "lesion_cm2": 1.25, "size": 64,
        "image": pixel, "outline": "M10 10L20 10L20 20L10 20Z", **changes,
    }  # fmt: skip
