"""Which model in service becomes the gate's baseline, and what is said where none does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx

from components.imaging.errors import IchError
from components.served_model.component import ServedModel
from components.storage.files import copy_tree
from pipeline.config import Config
from serving.versions import read_contract
from tests.buckets import Bucket
from tests.models import contract, export, unloadable

GRID = json.dumps({"grid": {"size": 32, "spacing_mm": 6.0, "context_slices": 0}})


def look(folder: Path | str, into: Path, grid: str = GRID) -> dict[str, Any]:
    """Runs the component; returns `baseline.json`."""
    artifact = tfx.types.standard_artifacts.Model()
    artifact.uri = str(into)
    ServedModel.test_call(model=artifact, folder=str(folder), grid=grid, state="", code_version="1")
    note: dict[str, Any] = json.loads((into / "baseline.json").read_text())
    return note


@pytest.mark.parametrize("made", [False, True])
def test_nothing_in_service(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "serving"
    if made:
        folder.mkdir()
    assert look(folder, tmp_path / "out") == {
        "version": None,
        "used": False,
        "reason": "no model is in service yet",
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["baseline.json"]


def test_the_newest_by_number_is_copied_whole(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    for version in ("9", "20"):  # as text, 9 would be the last
        unloadable(folder / version, data_fingerprint=version)
    export(folder / "100", data_fingerprint="100")
    files = {path.relative_to(folder / "100") for path in (folder / "100").rglob("*")}
    note = look(folder, tmp_path / "out")
    assert note == {"version": "100", "used": True, "reason": "compared on the same scans"}
    copy = tmp_path / "out" / "Format-Serving"
    assert read_contract(copy).data_fingerprint == "100"
    assert {path.relative_to(copy) for path in copy.rglob("*")} == files
    assert Path("variables/variables.index") in files
    # A later push must not reach what was compared with.
    (folder / "100" / "saved_model.pb").write_bytes(b"changed")
    assert (copy / "saved_model.pb").read_bytes() != b"changed"


def test_the_newest_in_a_bucket_is_copied_too(tmp_path: Path, bucket: Bucket) -> None:
    unloadable(tmp_path / "ich" / "9")
    export(tmp_path / "ich" / "20", data_fingerprint="20")
    unloadable(tmp_path / "ich" / "100")
    (tmp_path / "ich" / "100" / "saved_model.pb").unlink()
    copy_tree(str(tmp_path / "ich"), bucket.uri("ich"))
    assert look(bucket.uri("ich"), tmp_path / "out") == {
        "version": "20", "used": True, "reason": "compared on the same scans"
    }  # fmt: skip
    assert read_contract(tmp_path / "out" / "Format-Serving").data_fingerprint == "20"
    other = json.dumps({"grid": {"size": 64, "spacing_mm": 6.0, "context_slices": 0}})
    assert "has the grid" in look(bucket.uri("ich"), tmp_path / "other", other)["reason"]
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["baseline.json"]


def test_a_bucket_that_cannot_be_read_is_no_reason_to_go_without_a_baseline(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.raises(IchError, match=r"127\.0\.0\.1:9"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        look(bucket.uri("ich"), tmp_path / "out")


def test_what_is_no_complete_version_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    unloadable(folder / "5")
    unloadable(folder / "7")
    (folder / "7" / "saved_model.pb").unlink()  # half copied
    unloadable(folder / ".8.part")
    unloadable(folder / "latest")
    (folder / "9").write_text("a file")
    assert look(folder, tmp_path / "out")["version"] == "5"


@pytest.mark.parametrize(
    "change",
    [{"grid_size": 64}, {"grid_spacing_mm": 5.0}, {"context_slices": 1}],
)
def test_another_grid_is_not_compared_and_the_reason_names_both(tmp_path: Path, change: dict[str, Any]) -> None:
    unloadable(tmp_path / "serving" / "3", **change)
    note = look(tmp_path / "serving", tmp_path / "out")
    assert (note["version"], note["used"]) == ("3", False)
    served = contract(**change)
    assert str((served.grid_size, served.grid_spacing_mm, served.context_slices)) in note["reason"]
    assert "(32, 6.0, 0)" in note["reason"]
    assert not (tmp_path / "out" / "Format-Serving").exists()


def test_other_windows_or_post_processing_are_compared(tmp_path: Path) -> None:
    export(tmp_path / "serving" / "3", threshold=0.3, min_component_ml=1.0, windows=[], normalisation="brain")
    assert look(tmp_path / "serving", tmp_path / "out")["used"] is True


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_model_without_a_readable_contract_is_not_compared(tmp_path: Path, text: str | None) -> None:
    unloadable(tmp_path / "serving" / "3")
    path = tmp_path / "serving" / "3" / "assets.extra" / "contract.json"
    path.unlink() if text is None else path.write_text(text)
    note = look(tmp_path / "serving", tmp_path / "out")
    assert (note["version"], note["used"]) == ("3", False)
    assert "contract" in note["reason"]
    assert not (tmp_path / "out" / "Format-Serving").exists()


def test_the_grid_comes_from_the_configuration(tmp_path: Path) -> None:
    data = {"image": "{case}.nii", "mask": "m/{case}.nii"}
    config = Config.model_validate({"name": "a", "data": data, "grid": {"size": 32, "spacing_mm": 6}})
    export(tmp_path / "serving" / "3")
    assert look(tmp_path / "serving", tmp_path / "out", config.subset("grid"))["used"] is True


def test_the_stage_is_no_resolver_and_gives_a_model() -> None:
    node = ServedModel(folder="f", grid=GRID, state="1,2", code_version="1")
    assert node.outputs["model"].type is tfx.types.standard_artifacts.Model
    assert not isinstance(node, tfx.dsl.Resolver)


@pytest.mark.parametrize(
    "broken", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_model_that_cannot_be_loaded_is_not_compared(tmp_path: Path, broken: str) -> None:
    export(tmp_path / "serving" / "3")
    file = tmp_path / "serving" / "3" / broken
    if broken == "saved_model.pb":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        file.unlink()
    note = look(tmp_path / "serving", tmp_path / "out")
    assert (note["version"], note["used"]) == ("3", False)
    assert note["reason"].startswith("the model in service cannot be loaded (")
    assert not (tmp_path / "out" / "Format-Serving").exists()
