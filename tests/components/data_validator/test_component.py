"""The whole way from examples through TFDV's statistics to findings, memory and a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx
from tensorflow.core.example.example_pb2 import Example
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import import_utils

from components.curated_schema.component import CuratedSchema
from components.data_gate.component import DataGate
from components.data_validator.component import DataValidator
from components.data_validator.store import entries
from components.imaging.errors import DataError
from components.types import DataReport
from pipeline.config import ValidationConfig
from pipeline.pipeline import SCHEMA
from schema import features as f
from tests.cases import Sample, cuboid
from tests.components.data_validator.data import listing, patients, statistics

SPLITS = ("train", "val", "test")
COUNT = 30
Edit = Callable[[Example], None]


def sound() -> list[Example]:
    """The slices of one case with blood and one without."""
    blood = [cuboid((1, 3), (30, 36), (30, 36))]
    records = [*Sample("a", blood, blood).examples(), *Sample("b").examples()]
    return [Example.FromString(record) for record in records]


def floats(name: str, value: float) -> Edit:
    """Sets a float feature."""

    def edit(example: Example) -> None:
        example.features.feature[name].float_list.value[:] = [value]

    return edit


def text(name: str, value: bytes) -> Edit:
    """Sets a bytes feature."""

    def edit(example: Example) -> None:
        example.features.feature[name].bytes_list.value[:] = [value]

    return edit


def without(name: str) -> Edit:
    """Drops a feature."""

    def edit(example: Example) -> None:
        del example.features.feature[name]

    return edit


def twice(name: str) -> Edit:
    """Gives a float feature two values."""

    def edit(example: Example) -> None:
        example.features.feature[name].float_list.value.append(1.0)

    return edit


def validate(
    folder: Path, splits: Mapping[str, list[Example]], *, fingerprint: str = "now", **validation: Any
) -> tuple[list[dict[str, Any]], DataError | None]:
    """Runs the stage and the gate; returns what `findings.json` says and what was raised."""
    folder.mkdir(exist_ok=True)
    run = f"{fingerprint}-{len(list(folder.iterdir()))}"

    def artifact(kind: Any, name: str) -> Any:
        made = kind()
        made.uri = str(folder / run / name)
        Path(made.uri).mkdir(parents=True)
        return made

    stats, schema = artifact(standard_artifacts.ExampleStatistics, "stats"), artifact(standard_artifacts.Schema, "s")
    examples, report = artifact(standard_artifacts.Examples, "examples"), artifact(DataReport, "report")
    stats.split_names = artifact_utils.encode_split_names(list(splits))
    for name, members in splits.items():
        path = Path(stats.uri) / f"Split-{name}" / "FeatureStats.pb"
        path.parent.mkdir()
        path.write_bytes(statistics(members).SerializeToString())
    (Path(examples.uri) / "cases.json").write_text(json.dumps(listing(fingerprint, dict.fromkeys(splits, COUNT))))
    CuratedSchema.test_call(schema=schema, text=SCHEMA.read_text())
    store = str(folder / "statistics")
    DataValidator.test_call(
        statistics=stats,
        schema=schema,
        examples=examples,
        report=report,
        validation=json.dumps({"validation": ValidationConfig(**validation).model_dump()}),
        max_quarantined="0.5",
        store=store,
        serving=str(folder / "serving"),
        state="",
        code_version="1",
    )
    known, raised = entries(store), None
    passed = artifact(DataReport, "passed")
    try:
        DataGate.test_call(
            findings=report, statistics=stats, examples=examples, passed=passed, store=store, code_version="1"
        )
    except DataError as error:
        raised = error
        assert entries(store) == known
    assert (Path(passed.uri) / "findings.json").exists() == (raised is None)
    found: list[dict[str, Any]] = json.loads((Path(report.uri) / "findings.json").read_text())
    comparison = json.loads((Path(report.uri) / "comparison.json").read_text())
    remembered = {path.name for path in folder.glob("statistics/*")}
    assert {item["fingerprint"] for item in comparison["references"]} <= remembered
    assert (Path(report.uri) / "previous.json").exists() == bool(comparison["references"])
    return found, raised


def test_sound_data_passes_without_a_finding_and_is_remembered(tmp_path: Path) -> None:
    assert validate(tmp_path, {name: sound() for name in SPLITS}) == ([], None)
    (known,) = entries(str(tmp_path / "statistics"))
    assert (known.fingerprint, known.patients["train"]) == ("now", COUNT)


def test_drift_from_the_run_before_holds_and_stays_known(tmp_path: Path) -> None:
    plain = {name: patients(COUNT, seed) for seed, name in enumerate(SPLITS)}
    shifted = {name: patients(COUNT, 9 + seed, brain_hu_mean=15) for seed, name in enumerate(SPLITS)}
    assert validate(tmp_path, plain, fingerprint="one") == ([], None)
    findings, raised = validate(tmp_path, shifted, fingerprint="two")
    assert raised is None
    assert [(item["kind"], item["severity"], item["feature"]) for item in findings] == [
        ("drift", "hold", f.BRAIN_HU_MEAN)
    ]
    assert [known.fingerprint for known in entries(str(tmp_path / "statistics"))] == ["one", "two"]
    findings, raised = validate(tmp_path, shifted, fingerprint="three", drift="stop")
    assert (findings, raised) == ([], None)


def test_data_that_stops_a_run_is_not_remembered(tmp_path: Path) -> None:
    bad = sound()
    floats(f.PIXEL_SPACING_MM, 45.0)(bad[0])
    assert validate(tmp_path, dict.fromkeys(SPLITS, bad))[1] is not None
    assert entries(str(tmp_path / "statistics")) == []
    assert validate(tmp_path, dict.fromkeys(SPLITS, bad), anomalies="hold")[1] is None
    assert len(entries(str(tmp_path / "statistics"))) == 1


@pytest.mark.parametrize(
    ("edit", "feature", "described"),
    [
        (floats(f.PIXEL_SPACING_MM, 45.0), f.PIXEL_SPACING_MM, "45"),
        (floats(f.SLICE_SPACING_MM, 0.0), f.SLICE_SPACING_MM, "0"),
        (floats(f.BRAIN_HU_MEAN, 1060.0), f.BRAIN_HU_MEAN, "1060"),
        (floats(f.HEAD_HU_P50, -2000.0), f.HEAD_HU_P50, "-2000"),
        (text(f.SIZE_BIN, b"huge"), f.SIZE_BIN, "huge"),
        (without(f.LESION_VOLUME_ML), f.LESION_VOLUME_ML, "fraction"),
        (twice(f.HEAD_AREA_CM2), f.HEAD_AREA_CM2, ""),
    ],
)
def test_one_bad_slice_stops_the_run_and_is_named(tmp_path: Path, edit: Edit, feature: str, described: str) -> None:
    bad = sound()
    edit(bad[3])
    findings, raised = validate(tmp_path, {"train": sound(), "val": bad, "test": sound()})
    # The gravest first; one slice among few is skewed, too, which is but noted.
    grave = [item for item in findings if item["severity"] != "note"]
    assert grave == findings[: len(grave)]
    assert {(item["split"], item["feature"], item["severity"]) for item in grave} == {("val", feature, "stop")}
    assert described in findings[0]["description"]
    assert raised is not None
    assert f"val: {feature}: " in str(raised)
    assert "schema.pbtxt" in str(raised)


def test_a_scalar_that_is_nowhere_stops_the_run(tmp_path: Path) -> None:
    bad = sound()
    for example in bad:
        without(f.BRAIN_HU_SD)(example)
    findings, raised = validate(tmp_path, {"train": bad, "val": sound(), "test": sound()})
    assert [(item["split"], item["feature"]) for item in findings] == [("train", f.BRAIN_HU_SD)]
    assert raised is not None


def test_findings_of_all_splits_are_reported_together(tmp_path: Path) -> None:
    one, other = sound(), sound()
    floats(f.PIXEL_SPACING_MM, 45.0)(one[0])
    text(f.SIZE_BIN, b"huge")(other[0])
    _, raised = validate(tmp_path, {"train": one, "val": sound(), "test": other})
    assert raised is not None
    assert "train: pixel_spacing_mm: " in str(raised)
    assert "test: size_bin: " in str(raised)


def test_the_component_can_be_part_of_a_pipeline() -> None:
    def channel(kind: Any) -> Any:
        return tfx.dsl.Channel(type=kind)

    node = DataValidator(
        statistics=channel(standard_artifacts.ExampleStatistics),
        schema=channel(standard_artifacts.Schema),
        examples=channel(standard_artifacts.Examples),
        validation="{}", max_quarantined="1", store="s", serving="m", state="", code_version="1",
    )  # fmt: skip
    assert node.outputs["report"].type is DataReport
    assert CuratedSchema(text="").outputs["schema"].type is standard_artifacts.Schema


def test_kubeflow_finds_the_artifact_type_by_its_name() -> None:
    assert import_utils.import_class_by_path(DataReport.TYPE_NAME) is DataReport
    for name in ("NoReport", "nothing"):
        with pytest.raises(ImportError):
            import_utils.import_class_by_path(f"components.{name}")
