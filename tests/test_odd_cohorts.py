"""`ich run` on cohorts that hardly can be trained on: a clear refusal or a correct run, never NaN nor a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from components.imaging.phantom import write_cohort
from tests.command import ich
from tests.imaging.scans import load, save, stored_as

SETTINGS = (
    "data.image=null", "data.mask=null", "data.manifest=manifest.csv", "grid.size=64", "grid.spacing_mm=3.6",
    "network.base_filters=8", "network.depth=3", "training.epochs=1", "training.steps_per_epoch=6",
    "training.batch_size=8", "gate.min_mean_dice=0",
)  # fmt: skip

Pair = tuple[np.ndarray, np.ndarray]
"""HU and mask, axes (columns, rows, slices) of an LPS volume."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sound patients, dealt out to all three splits by a manifest."""
    folder = tmp_path_factory.mktemp("cohort") / "sound"
    write_cohort(folder, patients=5, seed=3, size="tiny", manifest=True, workers=1)
    return folder


def changed(cohort: Path, folder: Path, change: Callable[[int, Pair, float], tuple[Pair, float]]) -> Path:
    """The cohort with each scan changed: number, pixels and slice spacing in mm go in, the latter two come out."""
    shutil.copytree(cohort, folder)
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        image, mask = (load(folder / part / path.name) for part in ("images", "masks"))
        hu, affine = stored_as(np.asarray(image.dataobj).astype(np.int16), image.affine, "LPS")
        lesion, _ = stored_as(np.asarray(mask.dataobj).astype(np.uint8), image.affine, "LPS")
        spacing = float(np.linalg.norm(affine[:3, 2]))
        (hu, lesion), wanted = change(number, (hu, lesion), spacing)
        affine = affine @ np.diag([1, 1, wanted / spacing, 1])
        save(folder / "images" / path.name, hu, affine)
        save(folder / "masks" / path.name, lesion, affine)
    return folder


def run(data: Path, output: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`ich run`; the JSON that it printed last must hold numbers only."""
    settings = [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    process = ich("run", "-c", "demo", "-d", data, "-o", output, "--json", *settings)
    assert "Traceback" not in process.stdout + process.stderr
    lines = process.stdout.strip().splitlines()
    return process, finite(lines[-1]) if lines and lines[-1].startswith("{") else {}


def finite(text: str) -> dict[str, Any]:
    """JSON without NaN and infinities."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in {text}")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def assert_sound(output: Path, process: subprocess.CompletedProcess[str], outcome: dict[str, Any]) -> None:
    """Trained to the end, measured, and decided by the gate."""
    assert process.returncode in (0, 3), process.stdout + process.stderr
    assert "nan" not in process.stdout.lower().split()
    assert len(outcome["verdict"]["by_case"]) == 1
    (history,) = (output / "artifacts" / "Trainer" / "model_run").glob("*/history.json")
    metrics = finite(history.read_text(encoding="utf-8"))["metrics"]
    assert metrics["epochs"] == 1.0


def cases(output: Path) -> list[dict[str, Any]]:
    (listing,) = (output / "artifacts" / "NiftiExampleGen" / "examples").glob("*/cases.json")
    found: list[dict[str, Any]] = json.loads(listing.read_text(encoding="utf-8"))["cases"]
    return found


def test_every_mask_empty_is_refused_before_training(cohort: Path, tmp_path: Path) -> None:
    data = changed(cohort, tmp_path / "data", lambda _, pair, spacing: ((pair[0], 0 * pair[1]), spacing))
    process, _ = run(data, tmp_path / "out")
    assert process.returncode == 2, process.stdout + process.stderr
    assert "no lesion in the whole training split (3 scans, " in process.stderr + process.stdout
    assert "check the masks and data.lesion_labels" in process.stderr + process.stdout


def test_one_patient_only_is_refused_before_anything_starts(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort, tmp_path / "data")
    for path in [*(tmp_path / "data" / "images").iterdir(), *(tmp_path / "data" / "masks").iterdir()]:
        if not path.name.startswith("001"):
            path.unlink()
    layout = ("data.manifest=null", "data.image=images/{case}.nii.gz", "data.mask=masks/{case}.nii.gz")
    process, _ = run(tmp_path / "data", tmp_path / "out", *layout)
    assert process.returncode == 2, process.stdout + process.stderr
    text = process.stderr + process.stdout
    assert "patients per split are train 1, val 0, test 0, wanted at least one in each; add patients" in text
    assert not (tmp_path / "out" / "artifacts").exists()


def test_scans_of_one_slice_only_are_trained_on_and_judged(cohort: Path, tmp_path: Path) -> None:
    """With neighbours as context, which are the slice itself."""

    def one_slice(_: int, pair: Pair, spacing: float) -> tuple[Pair, float]:
        index = int(pair[1].sum(axis=(0, 1)).argmax()) or pair[1].shape[2] // 2
        return (pair[0][:, :, index : index + 1], pair[1][:, :, index : index + 1]), spacing

    data = changed(cohort, tmp_path / "data", one_slice)
    process, outcome = run(data, tmp_path / "out", "grid.context_slices=1")
    assert_sound(tmp_path / "out", process, outcome)
    assert [case["slices"] for case in cases(tmp_path / "out")] == [1] * 5


def test_slices_3_mm_and_0_6_mm_apart_are_mixed(cohort: Path, tmp_path: Path) -> None:
    def resampled(number: int, pair: Pair, spacing: float) -> tuple[Pair, float]:
        wanted = 3.0 if number % 2 else 0.6
        hu, mask = (ndimage.zoom(part, (1, 1, spacing / wanted), order=0) for part in pair)
        middle = int(mask.sum(axis=(0, 1)).argmax())
        kept = slice(max(0, middle - 20), middle + 20)
        return (hu[:, :, kept], mask[:, :, kept]), wanted

    data = changed(cohort, tmp_path / "data", resampled)
    process, outcome = run(data, tmp_path / "out", "gate.slices={thin: 0.0}", "validation.skew=note")
    assert_sound(tmp_path / "out", process, outcome)
    found = {case["case_id"]: case["spacing_mm"][0] for case in cases(tmp_path / "out")}
    assert sorted(found.values()) == pytest.approx([0.6, 0.6, 0.6, 3.0, 3.0], abs=1e-3)
    # Volumes do not depend on how far slices are apart.
    for values in outcome["verdict"]["by_case"].values():
        assert 0 < values["true_volume_ml"] < 200
