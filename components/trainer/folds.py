"""Dealing the patients of train and val out to folds, for cross-validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from components.imaging.errors import UsageError
from schema.features import SIZE_BINS_ML, size_bin

MAX_FOLDS = 10
"""More networks than this cost more in prediction than they bring."""

_BINS = list(SIZE_BINS_ML)


@dataclass(frozen=True)
class PatientSlices:
    """What training may draw of one patient: slices, or patches for a 3D network.

    Attributes:
        slices: Slices.
        lesion: Those of them with lesion.
        volume_ml: Lesion volume in ml of the scan that has most.
    """

    slices: int
    lesion: int
    volume_ml: float


def deal_folds(patients: Mapping[str, PatientSlices], folds: int, salt: str) -> list[list[str]]:
    """Deals patients out, so that folds differ by one in size, and by little in sources and lesion sizes.

    Patients are put in order (lesion or not, source, size bin, hash) and dealt like cards. Those with lesion come
    first and lie together, so each fold has some as soon as there are as many as folds. The source is what stands
    before the last underscore of the id, as ingestion puts it there; where it is something else, nothing is lost but
    evenness.

    Args:
        patients: What there is of each patient, by id.
        folds: Number of folds, at least 2.
        salt: Another salt deals the patients out anew.

    Returns:
        The ids of each fold, sorted.

    Raises:
        UsageError: Fewer patients with lesion than folds.
    """
    bleeding = sum(found.lesion > 0 for found in patients.values())
    if bleeding < folds:
        remedy = f"set training.folds to {bleeding} or less" if bleeding > 1 else "set training.folds to 1"
        raise UsageError(
            f"training.folds: found {folds}, but {bleeding} of the {len(patients)} patients in train and val have "
            f"lesion, and every fold wants one; {remedy}, lower training.min_lesion_cm2, or add patients with lesion"
        )

    def place(patient: str) -> tuple[bool, str, int, bytes]:
        found = patients[patient]
        digest = hashlib.sha256(f"{salt}:{patient}".encode()).digest()
        return found.lesion == 0, patient.rpartition("_")[0], _BINS.index(size_bin(found.volume_ml)), digest

    ordered = sorted(patients, key=place)
    return [sorted(ordered[number::folds]) for number in range(folds)]


def others(dealt: list[list[str]], number: int) -> list[str]:
    """The patients of all folds but one, sorted: what its network trains on.

    Args:
        dealt: From `deal_folds`.
        number: The fold, counted from 0.
    """
    return sorted(patient for index, fold in enumerate(dealt) if index != number for patient in fold)
