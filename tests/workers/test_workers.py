"""The stages on several workers that have no checkout: what comes out is what comes out in this process."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tfx.v1 as tfx  # before TFDV, for which it fills a gap
from tensorflow_data_validation import StatsOptions, load_stats_binary
from tfx.components.statistics_gen.executor import Executor as StatisticsExecutor
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from components.imaging.phantom import write_cohort
from pipeline.config import BeamConfig
from schema import features as f
from tests.components.evaluator import test_executor as gate
from tests.components.evaluator.runs import evaluate
from tests.components.nifti_example_gen.cohorts import execute
from tests.components.nifti_example_gen.test_executor import all_files
from tests.workers.engine import Engine, engine

ROOT = Path(__file__).parents[2]
models = gate.models


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("workers") / "engine") as started:
        yield started


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "data"
    write_cohort(folder, patients=6, seed=5, size="tiny", defects=["mask-other-shape"], workers=1)
    return folder


def remote(running: Engine) -> BeamConfig:
    """The configuration of a user who has a job service: nothing of how the package gets to the workers."""
    return BeamConfig(runner="PortableRunner", args=running.args)


def statistics(examples: Path, folder: Path, beam: BeamConfig) -> dict[str, dict[str, str]]:
    """Runs StatisticsGen as the pipeline has it; the statistics by split."""
    artifact = tfx.types.standard_artifacts.Examples()
    artifact.uri = str(examples)
    artifact.split_names = artifact_utils.encode_split_names(list(f.SPLITS))
    examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
    found = tfx.types.standard_artifacts.ExampleStatistics()
    found.uri = str(folder)
    options = StatsOptions(feature_allowlist=list(f.STATISTICS_FEATURES), num_values_histogram_buckets=3)
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=beam.pipeline_args(), tmp_dir=str(folder.parent), unique_id="1"
    )
    properties = {"stats_options_json": options.to_json(), "exclude_splits": "[]"}
    StatisticsExecutor(context).Do({"examples": [artifact]}, {"statistics": [found]}, properties)
    return {split: by_name(load_stats_binary(str(folder / f"Split-{split}" / "FeatureStats.pb"))) for split in f.SPLITS}


def by_name(statistics: Any) -> dict[str, str]:
    """Statistics of each feature to 10 digits: sums, and the features' order, hang on who was first."""
    (dataset,) = statistics.datasets
    return {
        feature.path.step[0]: re.sub(r"-?\d+\.\d+(e[-+]\d+)?", lambda number: f"{float(number[0]):.10g}", str(feature))
        for feature in dataset.features
    }


def test_ingestion_and_statistics(running: Engine, cohort: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    wanted = execute(cohort, here)
    before = set(running.workers())
    assert execute(cohort, there, beam=remote(running)) == wanted
    assert [item["code"] for item in wanted["quarantined"]] == ["mask-shape"]
    assert all_files(there) == all_files(here)

    workers = {pid: told for pid, told in running.workers().items() if pid not in before}
    opened = [{path for path in told["opened"] if "/images/" in path} for told in workers.values()]
    assert len(workers) == 2 and all(opened), "every worker has read scans"
    read = Counter(path for paths in opened for path in paths)
    assert set(read) == {str(path) for path in (cohort / "images").iterdir()}
    assert set(read.values()) == {1}, "and none a scan of the other's"

    assert statistics(there, tmp_path / "remote", remote(running)) == statistics(here, tmp_path / "local", BeamConfig())


def test_the_gate(running: Engine, models: gate.Models, tmp_path: Path) -> None:
    results = [
        evaluate(
            tmp_path / name, gate.LISTED, gate.shuffled(), models.candidate, models.served,
            beam=beam, slices={"small": 0.1},
        )
        for name, beam in (("here", BeamConfig()), ("there", remote(running)))
    ]  # fmt: skip
    here, there = results
    assert there.verdict == here.verdict
    assert there.blessed == here.blessed


def test_the_workers_had_nothing_but_the_package_that_was_staged(running: Engine) -> None:
    """Runs last: it looks at the workers of the tests before."""
    workers = running.workers()
    assert workers and os.getpid() not in workers
    for pid, told in workers.items():
        assert not told["known_before"]
        assert told["package"] == str(running.folder / f"{pid}/installed/components/__init__.py")
        assert "workflow.tar.gz" in told["staged"]
    installed = running.folder / f"{next(iter(workers))}/installed"
    packages = ("pipeline", "components", "schema", "serving")
    listed = subprocess.run(["git", "ls-files", *packages], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = [name for name in listed.splitlines() if not (installed / name).is_file()]
    assert listed and not missing
