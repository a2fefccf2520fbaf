"""Data folders in the layouts that people have, with tiny files and the pairs that are meant."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

Pairs = set[tuple[str, str]]
"""Paths of scan and mask, relative to the folder."""


@cache
def scan(zipped: bool = True, *, slices: int = 4) -> bytes:
    """A scan of 12 x 12 pixels with HU of air and brain."""
    hu = np.full((12, 12, slices), -1000, np.int16)
    hu[2:10, 2:10] = np.arange(64 * slices).reshape(8, 8, slices) % 90
    return _nifti(hu, zipped)


@cache
def mask(zipped: bool = True, *, labels: tuple[int, ...] = (1,), slices: int = 4) -> bytes:
    """A mask for it, with a voxel of each label; none: empty."""
    drawn = np.zeros((12, 12, slices), np.uint8)
    for index, label in enumerate(labels):
        drawn[3 + index, 4, 1] = label
    return _nifti(drawn, zipped)


def _nifti(data: np.ndarray, zipped: bool) -> bytes:
    file = io.BytesIO()
    image = nib.Nifti1Image(data, np.diag([0.45, 0.45, 5.0, 1.0]))
    image.to_file_map({"image": nib.FileHolder(fileobj=file)})
    return gzip.compress(file.getvalue(), 1, mtime=0) if zipped else file.getvalue()


@dataclass
class Folder:
    """A data folder that is written bit by bit.

    Attributes:
        root: Where.
        pairs: What belongs together.
    """

    root: Path
    pairs: Pairs = field(default_factory=set)

    def add(self, path: str, content: bytes) -> None:
        """Writes a file that is part of no case."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def case(self, image: str, drawn: str, *, labels: tuple[int, ...] = (1,)) -> None:
        """Writes a scan and its mask."""
        self.add(image, scan(image.endswith(".gz")))
        self.add(drawn, mask(drawn.endswith(".gz"), labels=labels))
        self.pairs.add((image, drawn))
