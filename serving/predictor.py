"""A pushed model in this process: a scan in, a mask on the scan's own grid out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np

from components.imaging.errors import IchError, UsageError
from components.imaging.nifti import Volume, read_volume
from components.imaging.postprocess import Postprocess, outline, quantise, skull_for
from components.imaging.scan import Scan, prepare_scan
from serving.contract import Contract
from serving.versions import read_contract, versions

BATCH = 8
"""Slices a call: enough to fill two cores, few enough to stay in their caches. A 3D model gets the whole scan."""


@dataclass(frozen=True)
class Prediction:
    """What the model makes of a scan.

    Attributes:
        volume: The scan as stored.
        scan: The scan as prepared for the model.
        mask: bool of shape (slices, rows, columns), canonical orientation, native grid.
        report: Volume, components, model and times, ready for JSON.
    """

    volume: Volume
    scan: Scan
    mask: np.ndarray
    report: dict[str, Any]

    @property
    def stored_mask(self) -> np.ndarray:
        """The mask in the order of the scan's own file, bool of shape (i, j, k)."""
        return self.scan.orientation.to_stored(self.mask)


def find_model(folder: Path) -> Path:
    """The model to use: `folder` itself, the newest version in it, or that of the model in a run's output folder.

    Raises:
        UsageError: There is no exported model, or the choice is not clear.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    if found := versions(folder):
        return found[-1]
    models = [path for path in sorted((folder / "serving").glob("*")) if versions(path)]
    if len(models) == 1:
        return versions(models[0])[-1]
    if models:
        raise UsageError(f"{folder}: holds {len(models)} models; give one with --model: {', '.join(map(str, models))}")
    raise UsageError(
        f"{folder}: no model there, wanted a SavedModel or a folder of versions such as <output>/serving/ich; "
        "run `ich run` first or give --model"
    )


class Predictor:
    """Loads a model once and predicts scans with it.

    Example:
        >>> predictor = Predictor(Path("output/serving/ich"))
        >>> prediction = predictor.predict(Path("scan.nii.gz"))
    """

    def __init__(self, model: Path) -> None:
        """Loads a model.

        Args:
            model: A SavedModel, or a folder of versions, of which the newest is taken.

        Raises:
            UsageError: There is no model, or none that this program made.
        """
        self.path = find_model(model)
        try:
            self.contract: Contract = read_contract(self.path)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from None
        tf = self._tf = _tensorflow()  # slow, and not needed to refuse a wrong folder
        try:
            loaded = tf.saved_model.load(str(self.path))
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise UsageError(f"{self.path}: the model cannot be loaded ({text}); push it again") from None
        self._keep = loaded
        self._signature = loaded.signatures["predict_slices"]

    def predict(self, path: Path) -> Prediction:
        """Outlines one scan.

        Raises:
            ScanError: The scan cannot be used.
            IchError: The model gives no numbers.
        """
        began = time.monotonic()
        volume = read_volume(path)
        scan = prepare_scan(volume, path, size=self.contract.grid_size, spacing_mm=self.contract.grid_spacing_mm)
        prepared = time.monotonic()
        try:
            quantised = quantise(self.probabilities(scan))
        except IchError as error:
            raise IchError(f"{self.path}: {error}") from None
        inferred = time.monotonic()
        post = Postprocess.from_dict(self.contract.postprocess)
        skull = skull_for(post, scan.hu, self.contract.grid_spacing_mm)
        mask = outline(quantised, scan.geometry, post, scan.hu, skull)
        finished = time.monotonic()
        report = {
            "model": self.contract.model_name,
            "model_version": self.path.resolve().name,
            **_measures(mask, scan),
            "seconds": {
                "read_and_prepare": round(prepared - began, 3),
                "network": round(inferred - prepared, 3),
                "postprocess": round(finished - inferred, 3),
            },
        }
        return Prediction(volume, scan, mask, report)

    def probabilities(self, scan: Scan) -> np.ndarray:
        """The network's probabilities, float32 of shape (slices, size, size)."""
        examples = scan.examples(self.contract.context_slices)
        size = len(examples) if self.contract.input == "scan" else BATCH
        parts = []
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            inputs = {"hu": self._tf.constant(part, self._tf.int16)}
            if self.contract.normalisation == "brain":
                inputs["brain_hu_mean"] = self._tf.fill([len(part)], np.float32(scan.head.brain_mean))
                inputs["brain_hu_sd"] = self._tf.fill([len(part)], np.float32(scan.head.brain_sd))
            parts.append(self._signature(**inputs)["probability"].numpy())
        return np.concatenate(parts)


def _tensorflow() -> Any:
    """TensorFlow without Keras, which it would import for its own sake and which is half of the time.

    An exported model does not need Keras. Where Keras is there already, as in training, nothing is special.
    """
    hidden = "keras" not in sys.modules and "tensorflow" not in sys.modules
    if hidden:
        sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        import tensorflow as tf
    finally:
        if hidden:
            del sys.modules["keras"]
    return tf


def _measures(mask: np.ndarray, scan: Scan) -> dict[str, Any]:
    """Total and per-component volume."""
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    voxel_ml = scan.geometry.voxel_ml
    return {
        "volume_ml": round(float(mask.sum()) * voxel_ml, 3),
        "component_count": int(count),
        "component_volumes_ml": [round(float(size) * voxel_ml, 3) for size in sorted(sizes, reverse=True)],
        "shape": [int(size) for size in mask.shape[::-1]],
        "orientation": scan.orientation.codes,
        "spacing_mm": [round(size, 5) for size in scan.geometry.spacing_mm[::-1]],
    }
