"""Hand-made cases: a head of ellipses with cuboids of blood, as the scans and examples of a tiny grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.imaging.scan import Scan, prepare_scan
from components.nifti_example_gen.examples import Ingested, slice_examples
from components.nifti_example_gen.layout import Case
from components.nifti_example_gen.tfrecord import RecordBuffer
from tests.imaging.scans import ellipse_head, lps_affine, save, to_lps, volume

SHAPE = (5, 64, 64)
SPACING_MM = (5.0, 3.0, 3.0)
GRID = {"size": 32, "spacing_mm": 6.0, "context_slices": 0}
BLOOD_HU = 70

Cuboid = tuple[slice, slice, slice]
"""Slices, rows, columns of the native grid."""


def cuboid(slices: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Cuboid:
    """From first to last + 1 along each axis."""
    return slice(*slices), slice(*rows), slice(*columns)


@dataclass(frozen=True)
class Sample:
    """A case.

    Attributes:
        case_id: The case.
        patient_id: Its patient.
        bright: Where the scan has the HU of blood.
        truth: Where the mask says that there is blood.
        spacing_mm: Slices, rows, columns.
    """

    case_id: str
    bright: Sequence[Cuboid] = ()
    truth: Sequence[Cuboid] = ()
    patient_id: str = ""
    spacing_mm: tuple[float, float, float] = SPACING_MM

    @property
    def hu(self) -> np.ndarray:
        """HU of shape `SHAPE`, canonical orientation."""
        head = ellipse_head(SHAPE, self.spacing_mm)
        for place in self.bright:
            head[place] = BLOOD_HU
        return head

    @property
    def mask(self) -> np.ndarray:
        """The true mask, bool of shape `SHAPE`."""
        mask = np.zeros(SHAPE, bool)
        for place in self.truth:
            mask[place] = True
        return mask

    @property
    def affine(self) -> np.ndarray:
        """Of the stored (LPS) array."""
        return lps_affine(self.spacing_mm)

    def scan(self) -> Scan:
        """Prepared for the tiny grid."""
        stored = volume(to_lps(self.hu), self.affine)
        return prepare_scan(stored, Path(self.case_id), size=32, spacing_mm=6.0)

    def examples(self, split: str = "test", context_slices: int = 0) -> list[bytes]:
        """Its serialised slice examples."""
        case = Case(self.case_id, self.patient_id or self.case_id, Path("image"), Path("mask"))
        return slice_examples(case, split, Ingested(self.scan(), self.mask), context_slices)[0]

    def save(self, image: Path, mask: Path | None = None) -> Path:
        """Writes the scan, and the mask if wanted, as NIfTI; returns the scan's path."""
        if mask is not None:
            save(mask, to_lps(self.mask).astype(np.uint8), self.affine)
        return save(image, to_lps(self.hu).astype(np.int16), self.affine)


def write_shard(path: Path, records: Sequence[bytes]) -> None:
    """Writes records as GZIP TFRecord."""
    with RecordBuffer() as buffer:
        for record in records:
            buffer.add(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.data)
