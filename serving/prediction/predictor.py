"""A pushed model in this process: a scan in, a mask on the scan's own grid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.imaging.errors import UsageError
from components.imaging.nifti import read_volume
from components.imaging.scan import Scan
from serving.contract import Contract
from serving.prediction.outline import Answer, Prediction, predict_volume
from serving.prediction.tensorflow_only import tensorflow_without_keras
from serving.signatures import PROBABILITY, SLICES_SIGNATURE, requests
from serving.versions import models, read_contract, versions


def find_model(folder: Path) -> Path:
    """The model to use: `folder` itself, the newest version in it, or that of the model in a run's output folder.

    Raises:
        UsageError: There is no exported model, or the choice is not clear.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    if found := versions(folder):
        return found[-1]
    found = models(folder)
    if len(found) == 1:
        return versions(found[0])[-1]
    if found:
        raise UsageError(f"{folder}: holds {len(found)} models; give one with --model: {', '.join(map(str, found))}")
    remedy = "run `ich run` first or give --model"
    if any((folder / "runs").glob("*.json")):
        remedy = f"no run there put one in service, `ich status -o {folder}` says why; or give --model"
    raise UsageError(
        f"{folder}: no model there, wanted a SavedModel or a folder of versions such as <output>/serving/ich; {remedy}"
    )


class Predictor:
    """Loads a model once and predicts scans with it: the engine in this process.

    Attributes:
        contract: The model's contract.
        path: The version's folder.

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
        tf = self._tf = tensorflow_without_keras()  # slow, and not needed to refuse a wrong folder
        try:
            self._keep = tf.saved_model.load(str(self.path))
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise UsageError(f"{self.path}: the model cannot be loaded ({text}); push it again") from None
        self._signature = self._keep.signatures[SLICES_SIGNATURE]

    @property
    def place(self) -> str:
        """Where the model is."""
        return str(self.path)

    def predict(self, path: Path) -> Prediction:
        """Outlines the scan in a NIfTI file.

        Raises:
            ScanError: The scan cannot be used.
            IchError: The model gives no numbers.
        """
        return predict_volume(self, read_volume(path), path)

    def answer(self, scan: Scan) -> Answer:
        """The network's probabilities of a scan."""
        parts = []
        for inputs in requests(scan, self.contract):
            tensors = {name: self._tf.constant(value) for name, value in inputs.items()}
            parts.append(self._signature(**tensors)[PROBABILITY].numpy())
        return Answer(np.concatenate(parts), self.contract, self.path.resolve().name)
