"""The compiled pipeline, run container by container: it ends where a local run ends, and sees what came since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.phantom import write_cohort
from pipeline.config import Config, load_config
from pipeline.kubeflow.compile import compile_pipeline
from serving.versions import versions
from tests.command import ich
from tests.pipeline.kubeflow.cluster import IMPORTS, Cluster, Run, TaskFailedError
from tests.processes import Forkserver

CONFIG = """
name: clustered
data:
  image: span-{SPAN}/images/{case}.nii.gz
  mask: span-{SPAN}/masks/{case}.nii.gz
  spans: 2
grid: {size: 64, spacing_mm: 3.6}
splits: {train: 70, val: 15, test: 15}
network: {base_filters: 8, depth: 2}
training: {epochs: 4, steps_per_epoch: 60, batch_size: 8, learning_rate: 1.0e-2}  # with less it outlines nothing
postprocess: {threshold: 0.3, tune: false}
gate: {min_mean_dice: 0.0, max_dice_drop: 1.0}
validation: {drift: note}
kubeflow:
  image: ich:1
  retries: 1
  env: {ICH_TOLD: by-config}
"""


class Place:
    """A volume with data and output, and a cluster that mounts it."""

    def __init__(self, folder: Path, processes: Forkserver) -> None:
        self.folder = folder
        self.data, self.output, self.package = folder / "data", folder / "output", folder / "pipeline.yaml"
        self.cluster = Cluster(folder / "cluster", processes)
        (folder / "clustered.yaml").write_text(CONFIG)

    @property
    def config(self) -> Config:
        return load_config(self.folder / "clustered.yaml")

    def run(self) -> Run:
        return self.cluster.run(self.package)

    @property
    def served(self) -> list[Path]:
        return versions(self.output / "serving" / "ich")


@pytest.fixture(scope="module")
def processes() -> Iterator[Forkserver]:
    with Forkserver(*IMPORTS) as started:
        yield started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, processes: Forkserver) -> Place:
    """Compiled once; the second delivery is not there yet."""
    made = Place(tmp_path_factory.mktemp("volume"), processes)
    write_cohort(made.data / "span-1", patients=14, seed=3, size="tiny", workers=2)
    write_cohort(made.folder / "later", patients=6, seed=4, size="tiny", workers=2)
    for number, path in enumerate(sorted((made.folder / "later").rglob("*.nii.gz"))):
        path.rename(path.with_name(f"later-{path.name}"))
        assert number < 12
    compile_pipeline(made.config, str(made.data), str(made.output), made.package)
    return made


@pytest.fixture(scope="module")
def first(place: Place) -> Run:
    return place.run()


def verdict(place: Place, run: Run) -> dict[str, Any]:
    folder = place.cluster.path(run.tasks["Evaluator"]["artifacts"]["evaluation"]["uri"])
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return found


def files(model: Path) -> set[Path]:
    return {path.relative_to(model) for path in model.rglob("*") if path.is_file()}


def span(run: Run) -> int:
    """The newest span, as the examples tell it to what comes after."""
    metadata = run.tasks["NiftiExampleGen"]["artifacts"]["examples"]["metadata"]
    return int(metadata["custom:span"])


def contract(model: Path) -> dict[str, Any]:
    """What the model says of itself, save how long its training took."""
    found: dict[str, Any] = json.loads((model / "assets.extra" / "contract.json").read_bytes())
    del found["metrics"]["minutes"]
    return found


def weights(model: Path) -> dict[str, np.ndarray[Any, Any]]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def test_a_run_ends_with_the_model_of_a_local_run(place: Place, first: Run) -> None:
    (model,) = place.served
    local = place.folder / "local"
    process = ich("run", "-c", place.folder / "clustered.yaml", "-d", place.data, "-o", local)
    assert process.returncode == 0, process.stdout + process.stderr
    (other,) = versions(local / "serving" / "ich")
    ours, theirs = weights(model), weights(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert contract(model) == contract(other)
    (summary,) = (local / "runs").glob("*.json")
    told = json.loads(summary.read_text())["verdict"]
    assert verdict(place, first)["overall"] == told["overall"]
    assert verdict(place, first)["by_case"] == told["by_case"]
    assert files(model) == files(other)


def test_artifacts_are_told_by_uris_of_the_bucket(place: Place, first: Run) -> None:
    text = json.dumps(first.tasks)
    assert str(place.cluster.pods) not in text
    assert span(first) == 1
    blessing = first.tasks["Evaluator"]["artifacts"]["blessing"]["metadata"]
    assert blessing["blessed"] == 1
    assert blessing["current_model"] == first.tasks["Trainer"]["artifacts"]["model"]["uri"]


def test_nothing_new_is_reused_save_what_looks_at_the_model_in_service(place: Place, first: Run) -> None:
    before = place.served
    run = place.run()
    # The first run's model is in service since, and the gate has to look at it: nothing is trained for that.
    assert {"NiftiExampleGen", "StatisticsGen", "Transform", "Trainer"} <= set(run.cached)
    assert "StartingPoint" not in run.cached
    assert verdict(place, run)["baseline"]["version"] == before[-1].name
    assert place.served == before  # the same export is not pushed again
    again = place.run()
    assert set(run.tasks) - set(again.cached) == {"StartingPoint"}


def test_scans_that_came_since_are_seen_and_the_gate_compares_with_the_first_model(place: Place, first: Run) -> None:
    (model,) = place.served
    shutil.copytree(place.folder / "later", place.data / "span-2")
    run = place.run()
    assert set(run.cached) == {"CuratedSchema", "ServedModel"}  # the same model is in service as the last time
    assert span(run) == 2
    baseline = verdict(place, run)["baseline"]
    assert (baseline["version"], baseline["used"]) == (model.name, True)
    assert len(place.served) == 2 and place.served[0] == model
    findings = place.cluster.path(run.tasks["DataValidator"]["artifacts"]["report"]["uri"]) / "comparison.json"
    assert json.loads(findings.read_text())["references"]  # the data before was found again
    assert contract(place.served[-1])["data_fingerprint"] != contract(model)["data_fingerprint"]


def test_what_the_user_must_mend_is_said_without_a_traceback(tmp_path: Path, processes: Forkserver) -> None:
    place = Place(tmp_path, processes)
    place.data.mkdir()
    compile_pipeline(place.config, str(place.data), str(place.output), place.package)
    with pytest.raises(TaskFailedError) as caught:
        place.run()
    assert (caught.value.task, caught.value.code) == ("StartingPoint", 2)
    assert str(place.data) in caught.value.log and "error: " in caught.value.log
    assert "Traceback" not in caught.value.log
