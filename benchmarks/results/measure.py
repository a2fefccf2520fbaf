"""One training of the plan: a run of the pipeline, and its figures by source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results.folds import stage
from benchmarks.results.plan import LAYOUTS, SOURCES, Row

SHIPPED = Path(__file__).parents[2] / "pipeline" / "configs"
KEPT = ("dice", "nsd_1mm", "hd95_mm", "absolute_volume_error_ml", "lesion_f1", "false_positive_components",
        "missed_components")  # fmt: skip
WITHOUT_MASK = {"rsna_ich_volume.nii.gz": "bleeds, no mask", "negative/cq500_ct0.nii.gz": "no blood"}


def configuration(row: Row, layouts: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a training: the recipe's with the plan's changes.

    Args:
        row: What is trained.
        layouts: The section `data.sources`, from `stage`.
    """
    tree = _read(row.recipe)
    merge(tree, row.changes)
    merge(tree, {"gate": {"min_mean_dice": 0.0}, "name": row.name.replace("-", "_")})
    training = tree.setdefault("training", {})
    if row.minutes is not None:
        training["max_minutes"] = row.minutes
    if "source_shares" in training:  # of one source there is nothing to share out
        shares = {name: share for name, share in training["source_shares"].items() if name in layouts}
        training["source_shares"] = shares if len(shares) > 1 else {}
    return {**tree, "data": {"sources": dict(layouts)}}


def merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts nested values into nested sections; lists replace lists."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(tree.get(name), dict):
            merge(tree[name], value)
        else:
            tree[name] = value


def measure(row: Row, fold: int, data: Path, work: Path) -> dict[str, Any]:
    """Trains, or goes on where it was killed, and measures.

    Args:
        row: What to train.
        fold: Which fifth of the patients is left out and measured.
        data: The folder that holds the sources.
        work: Where each training gets an output folder of its own.

    Returns:
        Figures without any case id: each source's per test patient, in the order of the ids.
    """
    output, staged = work / f"{row.name}-{fold}", work / "data" / f"{'-'.join(row.sources)}-{fold}"
    output.mkdir(parents=True, exist_ok=True)
    file = output / "config.yaml"
    layouts = stage(data, staged, row.sources, fold)
    file.write_text(yaml.safe_dump(configuration(row, layouts), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "run", "-c", str(file), "-d", str(staged), "-o", str(output), "--json"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not line.startswith("{"):
            print(f"  {row.name} fold {fold}: {line}", end="", flush=True)
    if process.wait() not in (0, 3):
        raise SystemExit(f"{row.name}, fold {fold}: the run failed with exit code {process.returncode}")
    outcome = json.loads(lines[-1])
    minutes = sum(stage.get("seconds", 0.0) for stage in outcome["stages"]) / 60
    found: dict[str, Any] = {
        "row": row.name,
        "fold": fold,
        "minutes": round(minutes or (time.monotonic() - began) / 60, 1),
        "hardware": hardware(),
        "test": _by_source(outcome["verdict"]["by_case"]),
    }
    if row.elsewhere and outcome["model"]:
        found |= _elsewhere(row, data, Path(outcome["model"]))
    return found


def hardware() -> str:
    """Processor and cores, and whether it multiplies bfloat16."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    values = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    native = {"avx512_bf16", "amx_bf16"} & set(values.get("flags", "").split())
    return f"{os.cpu_count()} cores, {values.get('model name', 'unknown')}{', bfloat16' if native else ''}"


def _read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    return tree


def _by_source(by_case: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for source in SOURCES:
        cases = [by_case[case] for case in sorted(by_case) if case.startswith(f"{source}_")]
        if cases:
            found[source] = {
                name: [round(case["patient_dice" if name == "dice" else name], 4) for case in cases] for name in KEPT
            }
    return found


def _elsewhere(row: Row, data: Path, model: Path) -> dict[str, Any]:
    from serving.prediction.predictor import Predictor

    predictor = Predictor(model)
    found: dict[str, Any] = {"generalisation": {}, "volumes_ml": {}}
    for source in set(SOURCES) - set(row.sources):
        measured = [_scan(predictor, image, mask) for image, mask in _pairs(data, source)]
        found["generalisation"][source] = {name: [round(one[name], 4) for one in measured] for name in KEPT}
    for name in WITHOUT_MASK:
        if (data / name).is_file():
            found["volumes_ml"][name] = predictor.predict(data / name).report["volume_ml"]
    return found


def _pairs(data: Path, source: str) -> Iterator[tuple[Path, Path]]:
    from components.nifti_example_gen.layout import find_cases
    from pipeline.config import load_config

    for case in find_cases(data, load_config(LAYOUTS).data.model_dump()).cases:
        if case.source == source:
            yield case.image, case.mask


def _scan(predictor: Any, image: Path, mask: Path) -> dict[str, float]:
    import numpy as np

    from components.imaging.metrics import scan_metrics
    from components.imaging.nifti import read_volume

    prediction = predictor.predict(image)
    truth = prediction.scan.orientation.to_canonical(np.asarray(read_volume(mask).data) > 0)
    measured = scan_metrics(truth, prediction.mask, prediction.scan.geometry.spacing_mm).as_dict()
    return {name: float(measured[name] or 0.0) for name in KEPT}
