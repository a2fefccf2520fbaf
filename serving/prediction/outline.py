"""From a scan to a mask on the scan's own grid, whatever computes the probabilities."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from components.imaging.errors import IchError
from components.imaging.head import Head
from components.imaging.nifti import Volume
from components.imaging.postprocess import Postprocess, outline, quantise, skull_for
from components.imaging.scan import Scan, prepare_scan
from serving.contract import Contract
from serving.prediction.measures import measures


@dataclass(frozen=True)
class Answer:
    """A network's answer to one scan.

    Attributes:
        probabilities: On the model grid, float32 of shape (slices, size, size).
        contract: Of the version that gave all of them.
        version: That version.
    """

    probabilities: np.ndarray
    contract: Contract
    version: str


class Engine(Protocol):
    """Computes probabilities, in this process or on a server.

    Attributes:
        contract: Of the model that would answer now.
        place: Where the model is, for messages.
    """

    @property
    def contract(self) -> Contract: ...

    @property
    def place(self) -> str: ...

    def answer(self, scan: Scan) -> Answer:
        """Probabilities of a scan that was prepared for `contract`.

        Raises:
            GridChanged: The model in service changed, and with it the grid: prepare the scan for `contract` anew.
            IchError: There is no answer.
        """


class GridChanged(Exception):  # noqa: N818 - a reason to begin anew, no failure
    """Another version went into service, and it has another grid."""


@dataclass(frozen=True)
class Prediction:
    """What the model makes of a scan.

    Attributes:
        volume: The scan as stored.
        scan: The scan as prepared for the model.
        probabilities: On the model grid, as written down and as the post-processing saw them: uint8 of shape
            (slices, size, size), see `components.imaging.postprocess.quantise`.
        mask: bool of shape (slices, rows, columns), canonical orientation, native grid.
        report: Volume, components, model and times, ready for JSON.
    """

    volume: Volume
    scan: Scan
    probabilities: np.ndarray
    mask: np.ndarray
    report: dict[str, Any]

    @property
    def stored_mask(self) -> np.ndarray:
        """The mask in the order of the scan's own file, bool of shape (i, j, k)."""
        return self.scan.orientation.to_stored(self.mask)

    @property
    def stored_probability(self) -> np.ndarray:
        """255 times the probability, interpolated linearly, uint8 of the same shape; 0 beyond the model grid."""
        geometry = self.scan.geometry
        _, rows, columns = geometry.native_shape
        native = np.rint(geometry.to_native(self.probabilities, slice(0, rows), slice(0, columns)))
        return self.scan.orientation.to_stored(native.astype(np.uint8))


def predict_volume(engine: Engine, volume: Volume, path: Path, *, head: Head | None = None) -> Prediction:
    """Outlines one scan.

    Args:
        engine: Computes the probabilities.
        volume: The scan as stored, in HU.
        path: Where it came from, for messages.
        head: The scan's head, if it has been looked for already.

    Raises:
        ScanError: The scan cannot be used.
        IchError: The model gives no numbers, or no answer.
    """
    while True:
        began = time.monotonic()
        contract = engine.contract
        scan = prepare_scan(volume, path, size=contract.grid_size, spacing_mm=contract.grid_spacing_mm, head=head)
        prepared = time.monotonic()
        try:
            answer = engine.answer(scan)
            break
        except GridChanged:
            continue
    try:
        quantised = quantise(answer.probabilities)
    except IchError as error:
        raise IchError(f"{engine.place}: {error}") from None
    inferred = time.monotonic()
    post = Postprocess.from_dict(answer.contract.postprocess)
    skull = skull_for(post, scan.hu, answer.contract.grid_spacing_mm)
    mask = outline(quantised, scan.geometry, post, scan.hu, skull)
    finished = time.monotonic()
    report = {
        "model": answer.contract.model_name,
        "model_version": answer.version,
        **measures(scan.orientation.to_stored(mask), scan.affine),
        "seconds": {
            "prepare": round(prepared - began, 3),
            "network": round(inferred - prepared, 3),
            "postprocess": round(finished - inferred, 3),
        },
    }
    return Prediction(volume, scan, quantised, mask, report)
