"""What TFX itself makes of an output folder after a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import DataError
from pipeline.config import Config
from pipeline.garbage.collect import collect
from tests.cases import Sample
from tests.pipeline.test_local_runner import BLOOD, CONFIG, cohort, run


def test_a_run_whose_artifacts_were_removed_makes_them_anew_and_reuses_the_others(tmp_path: Path) -> None:
    """Ingestion to the data gate, which stops these runs, with two grids in turn."""
    thick = Sample("thick", BLOOD, BLOOD, spacing_mm=(25.0, 3.0, 3.0))
    others = {"val": Sample("v", BLOOD, BLOOD), "test": Sample("t", BLOOD, BLOOD)}
    data, output = cohort(tmp_path / "data", {"train": thick, **others}), tmp_path / "out"
    checks = {"spacing": "warning", "duplicate-across-splits": "warning"}

    def stages(spacing_mm: float) -> dict[str, dict[str, Any]]:
        config = CONFIG.model_dump(exclude_unset=True)
        config["data"]["checks"], config["grid"]["spacing_mm"] = checks, spacing_mm
        with pytest.raises(DataError, match="slice_spacing_mm"):
            run(data, output, config=Config.model_validate(config))
        newest = max((output / "runs").iterdir())
        return {stage["name"]: stage for stage in json.loads(newest.read_text())["stages"]}

    first, second = stages(6.0), stages(5.0)
    assert first["CuratedSchema"]["outputs"] == second["CuratedSchema"]["outputs"], "reused, and recorded all the same"
    removed = output / first["NiftiExampleGen"]["outputs"]["examples"]
    stay = [output / folder for stage in second.values() for folder in stage.get("outputs", {}).values()]
    assert removed.is_dir() and removed not in stay
    done = collect(output, 1)
    assert removed in [item.path for item in done.plan.items] and not removed.exists()
    assert all(path.is_dir() for path in stay)

    again = stages(6.0)
    cached = {name for name, stage in again.items() if stage.get("cached")}
    assert cached == {"CuratedSchema"}
    assert again["DataGate"]["state"] == "failed", "as far as the first time"
    assert (output / again["NiftiExampleGen"]["outputs"]["examples"] / "cases.json").is_file()
    reused = stages(5.0)
    assert {name for name, stage in reused.items() if stage.get("cached")} >= {"NiftiExampleGen", "StatisticsGen"}
