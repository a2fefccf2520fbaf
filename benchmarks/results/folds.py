"""Cross-validation around the whole pipeline: every patient is a test patient once."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results.plan import FOLDS, LAYOUTS
from components.imaging.nifti import write_bytes

TENTHS = 2 * FOLDS
"""Patients are dealt into tenths: two are tested on, one is validated on, the others are trained on."""


@dataclass(frozen=True)
class Member:
    """One case of a source; paths are relative to the data folder."""

    case_id: str
    patient_id: str
    image: str
    mask: str


def split_of(position: int, fold: int) -> str:
    """The split of the patient at a position of the shuffled list.

    Args:
        position: From 0.
        fold: From 0 to `FOLDS` - 1.
    """
    tenth = (position - 2 * fold) % TENTHS
    return "test" if tenth < 2 else "val" if tenth == 2 else "train"


def manifest(members: Iterable[Member], fold: int) -> str:
    """The manifest of one source: its patients in the order of a hash of their ids, dealt out like cards.

    Args:
        members: Cases of the source.
        fold: The fold.
    """
    listed = list(members)
    patients = sorted({member.patient_id for member in listed}, key=_digest)
    splits = {patient: split_of(position, fold) for position, patient in enumerate(patients)}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case_id", "patient_id", "image", "mask", "split"])
    for member in sorted(listed, key=lambda one: one.case_id):
        table.writerow([member.case_id, member.patient_id, member.image, member.mask, splits[member.patient_id]])
    return text.getvalue()


def stage(data: Path, folder: Path, sources: Iterable[str], fold: int) -> dict[str, Any]:
    """Makes a data folder that links to the sources and holds their manifests.

    Args:
        data: The folder that holds the sources.
        folder: Where to make it.
        sources: Names of the sources to be used.
        fold: The fold.

    Returns:
        The section `data.sources` of a configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    layouts = {}
    for source in sources:
        link = folder / source
        if not link.is_symlink():
            link.symlink_to((data / source).resolve())
        text = manifest(_members(data, source), fold)
        write_bytes(folder / f"{source}.csv", text.encode())
        layouts[source] = {"manifest": f"{source}.csv"}
    return layouts


def _members(data: Path, source: str) -> list[Member]:
    from components.nifti_example_gen.layout import find_cases
    from pipeline.config import load_config

    found = []
    for case in find_cases(data, load_config(LAYOUTS).data.model_dump()).cases:
        if case.source == source:
            own = len(source) + 1  # a source's name is put before the ids again when the manifest is read
            paths = [path.relative_to(data).as_posix() for path in (case.image, case.mask)]
            found.append(Member(case.case_id[own:], case.patient_id[own:], *paths))
    return found


def _digest(patient: str) -> bytes:
    return hashlib.sha256(patient.encode()).digest()
