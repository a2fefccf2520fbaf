"""The stage: the blessing that TFX's Pusher reads, what is skipped, and that TFX's own runner can run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx
from tfx.components.util import model_utils
from tfx.orchestration import metadata
from tfx.types import channel_utils, standard_artifacts

from components.servability import component as module
from components.servability.component import Servability
from components.servability.rules import refused
from pipeline.config import Config
from tests.models import export, unloadable

CONFIG = Config.model_validate({"name": "tiny", "data": {"image": "i/{case}.nii", "mask": "m/{case}.nii"}})


def run(folder: Path, *, blessed: bool = True) -> tuple[Any, dict[str, Any]]:
    """Runs the executor on the model in a folder; returns the blessing and its JSON."""
    model, gate, blessing = (
        standard_artifacts.Model(), standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
    )  # fmt: skip
    model.uri, blessing.uri = str(folder), str(folder / "blessing")
    (folder / "blessing").mkdir()
    gate.set_int_custom_property("blessed", int(blessed))
    stage = Servability(
        model=channel_utils.as_channel([model]),
        model_blessing=channel_utils.as_channel([gate]),
        bounds=CONFIG.subset("servability"),
        code_version="1",
    )
    executor = stage.executor_spec.executor_class()
    inputs = {"model": [model], "model_blessing": [gate]}
    executor.Do(inputs, {"blessing": [blessing]}, dict(stage.exec_properties))
    return blessing, json.loads((folder / "blessing" / "servability.json").read_text())


def markers(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "blessing").iterdir() if path.suffix == "")


def test_a_model_that_the_gate_refused_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda *_: pytest.fail("looked at"))
    blessing, verdict = run(tmp_path, blessed=False)
    assert verdict["skipped"] and not verdict["blessed"] and verdict["failures"] == []
    assert not model_utils.is_infra_validated(blessing)
    assert markers(tmp_path) == ["INFRA_NOT_BLESSED"]


def test_the_verdict_becomes_the_property_that_tfxs_pusher_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = unloadable(tmp_path / "Format-Serving", model_name="other")
    asked = []

    def examine(model: str, text: str, bounds: dict[str, Any]) -> dict[str, Any]:
        asked.append((model, text, bounds))
        return refused("alive", "crashed")

    monkeypatch.setattr(module, "examine", examine)
    blessing, verdict = run(tmp_path)
    assert not model_utils.is_infra_validated(blessing)
    assert verdict == refused("alive", "crashed")
    assert markers(tmp_path) == ["INFRA_NOT_BLESSED"]
    assert asked == [(f"{tmp_path}/Format-Serving", made.to_json(), CONFIG.servability.model_dump())]


def test_a_model_without_a_contract_is_refused(tmp_path: Path) -> None:
    blessing, verdict = run(tmp_path)
    assert not model_utils.is_infra_validated(blessing)
    assert [rule["rule"] for rule in verdict["failures"]] == ["contract"]


def test_tfxs_own_runner_runs_it_and_knows_the_blessing(tmp_path: Path) -> None:
    export(tmp_path / "model" / "Format-Serving")
    model = tfx.dsl.Importer(source_uri=str(tmp_path / "model"), artifact_type=standard_artifacts.Model)
    gate = tfx.dsl.Importer(
        source_uri=str(tmp_path), artifact_type=standard_artifacts.ModelBlessing, custom_properties={"blessed": 1}
    ).with_id("Gate")
    stage = Servability(
        model=model.with_id("Model").outputs["result"],
        model_blessing=gate.outputs["result"],
        bounds=CONFIG.subset("servability"),
        code_version="1",
    )
    connection = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="tiny",
            pipeline_root=str(tmp_path / "root"),
            components=[model, gate, stage],
            metadata_connection_config=connection,
        )
    )
    with metadata.Metadata(connection) as handle:
        (found,) = handle.store.get_artifacts_by_type("InfraBlessing")
    assert found.custom_properties["blessed"].int_value == 1
    assert (Path(found.uri) / "INFRA_BLESSED").is_file()
    verdict = json.loads((Path(found.uri) / "servability.json").read_text())
    assert verdict["blessed"] and verdict["measures"]["slices"] == 28
