"""What makes the stage run again: its component's parameters, and the fingerprint that its driver adds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tfx.components.example_gen import utils
from tfx.orchestration import data_types
from tfx.types import standard_component_specs as specs

from components.imaging.errors import UsageError
from components.nifti_example_gen.driver import Driver
from components.nifti_example_gen.settings import read_settings
from tests.buckets import Bucket
from tests.components.nifti_example_gen.cohorts import LAYOUT, component

MANIFEST = {"manifest": "list.csv"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three cases, by patterns and by manifest; the driver reads no pixel."""
    lines = ["case_id,patient_id,image,mask,split"]
    for case, split in (("a", "train"), ("b", "val"), ("c", "test")):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{case}.nii.gz").write_bytes(b"scan")
        lines.append(f"{case},{case},images/{case}.nii.gz,masks/{case}.nii.gz,{split}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def fingerprint(root: Path | str, data: dict[str, Any]) -> str:
    stage = component(root, data=data)
    pipeline_info = data_types.PipelineInfo("", "")
    resolved = Driver(None).resolve_exec_properties(
        dict(stage.exec_properties), pipeline_info, data_types.ComponentInfo("", "", pipeline_info)
    )
    assert resolved[utils.SPAN_PROPERTY_NAME] == 0
    return str(resolved[utils.FINGERPRINT_PROPERTY_NAME])


def test_errors_name_the_uri_and_not_the_copy(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICH_CACHE", str(tmp_path / "cache"))
    bucket.put("scans/images/a.nii.gz")
    with pytest.raises(UsageError, match=rf"^{bucket.uri('scans')}: no complete case found") as caught:
        fingerprint(bucket.uri("scans"), LAYOUT)
    assert str(tmp_path) not in str(caught.value) and bucket.uri("scans/images/a.nii.gz") in str(caught.value)


def age(path: Path, seconds: int = 100) -> None:
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


@pytest.mark.parametrize("data", [LAYOUT, MANIFEST], ids=["patterns", "manifest"])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_changed_volume_changes_the_fingerprint(root: Path, data: dict[str, Any], kind: str) -> None:
    before = fingerprint(root, data)
    assert fingerprint(root, data) == before
    (root / kind / "b.nii.gz").write_bytes(b"another scan")
    after = fingerprint(root, data)
    assert after != before
    age(root / kind / "b.nii.gz")
    assert fingerprint(root, data) != after


def test_a_manifests_own_change_and_a_missing_volume_count_too(root: Path) -> None:
    before = fingerprint(root, MANIFEST)
    (root / "images" / "b.nii.gz").unlink()
    without = fingerprint(root, MANIFEST)
    assert without != before
    (root / "list.csv").write_text((root / "list.csv").read_text().replace(",val", ",train"))
    assert fingerprint(root, MANIFEST) != without


def test_volumes_that_a_manifest_does_not_name_do_not_count(root: Path) -> None:
    before = fingerprint(root, MANIFEST)
    (root / "images" / "d.nii.gz").write_bytes(b"scan")
    assert fingerprint(root, MANIFEST) == before


def test_component_watches_the_layouts_files(root: Path) -> None:
    patterns = json.loads(component(root).exec_properties[specs.INPUT_CONFIG_KEY])["splits"]
    assert patterns == [
        {"name": "images", "pattern": "images/*.nii.gz"},
        {"name": "masks", "pattern": "masks/*.nii.gz"},
    ]
    (listed,) = json.loads(component(root, data=MANIFEST).exec_properties[specs.INPUT_CONFIG_KEY])["splits"]
    assert listed["pattern"] == "list.csv"


def test_component_carries_its_settings_and_its_code_version(root: Path) -> None:
    """All of it lies in the parameters, of which the cache's key is made."""
    stage = component(root, grid={"size": 128, "spacing_mm": 1.8})
    settings = read_settings(stage.exec_properties)
    assert settings["grid"] == {"size": 128, "spacing_mm": 1.8, "context_slices": 0}
    assert settings["data"]["image"] == "images/{case}.nii.gz"
    properties = [dict(item.exec_properties) for item in (stage, component(root, code_version="2"), component(root))]
    assert properties[0] != properties[2]
    assert properties[1] != properties[2]
    assert properties[2] == dict(component(root).exec_properties)
    output = json.loads(stage.exec_properties[specs.OUTPUT_CONFIG_KEY])
    assert [(split["name"], split["hash_buckets"]) for split in output["split_config"]["splits"]] == [
        ("train", 50), ("val", 25), ("test", 25)]  # fmt: skip
