"""Backend of `ich predict`: one scan, three files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes, write_mask

_PLAIN_NAMES = ("image", "scan", "ct", "volume")


def case_name(path: Path) -> str:
    """The case id that a file's name gives; of names that say nothing, the folder's."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return path.resolve().parent.name if name.lower() in _PLAIN_NAMES else name


def predict_scan(path: Path, out: Path, model: Path) -> dict[str, Any]:
    """Writes `<case>_mask.nii.gz`, `<case>.json` and `<case>.png`.

    Args:
        path: A NIfTI scan.
        out: Folder for the results; made if need be.
        model: A SavedModel or a folder of versions.

    Returns:
        The content of the JSON file, and under `files` what was written.

    Raises:
        UsageError: The scan or the model is not there, or `out` cannot be written.
        ScanError: The scan cannot be used.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such scan; give a .nii or .nii.gz file")
    _refuse_unwritable(out)
    from serving.overlay import overlay_png
    from serving.predictor import Predictor

    prediction = Predictor(model).predict(path)
    case = case_name(path)
    files = {kind: out / f"{case}{end}" for kind, end in (("mask", "_mask.nii.gz"), ("json", ".json"), ("png", ".png"))}
    report = {"case": case, **prediction.report}
    canonical = prediction.scan.orientation.to_canonical(prediction.volume.data)
    try:
        write_mask(files["mask"], prediction.stored_mask, prediction.volume)
        write_bytes(files["json"], json.dumps(report, indent=1).encode())
        write_bytes(files["png"], overlay_png(canonical, prediction.mask, prediction.scan.geometry.spacing_mm))
    except OSError as error:
        raise UsageError(f"{out}: cannot write there ({error.strerror}); give another -o") from None
    return {**report, "files": {kind: str(file) for kind, file in files.items()}}


def _refuse_unwritable(out: Path) -> None:
    """Raises a UsageError before the slow part; the folder itself is made only when there is something to put in."""
    # os.path, because Path.exists raises where a folder on the way may not be entered.
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    if os.path.isfile(out):  # noqa: PTH113
        raise UsageError(f"{out}: is a file, wanted a folder; give another -o")
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise UsageError(f"{out}: cannot write there ({nearest} is no writable folder); give another -o")
