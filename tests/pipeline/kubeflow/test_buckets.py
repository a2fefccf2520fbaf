"""The compiled pipeline with scans, models, statistics and checkpoints in a bucket, and no shared volume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.imaging.phantom import write_cohort
from pipeline.config import load_config
from pipeline.kubeflow.compile import compile_pipeline
from serving.manifests.models_config import read_labels
from tests.buckets import AnyBucket, Server, google_bucket
from tests.pipeline.kubeflow.cluster import IMPORTS, Cluster, Run
from tests.pipeline.kubeflow.test_cluster import CONFIG
from tests.processes import Forkserver


class Place:
    """A bucket with data and output, and a cluster whose containers know no more than its address."""

    def __init__(self, folder: Path, bucket: AnyBucket, processes: Forkserver) -> None:
        self.folder, self.bucket = folder, bucket
        self.cluster = Cluster(folder / "cluster", processes)
        config = yaml.safe_load(CONFIG)
        config["kubeflow"]["env"] |= bucket.environment
        (folder / "clustered.yaml").write_text(yaml.safe_dump(config))
        compile_pipeline(
            load_config(folder / "clustered.yaml"), bucket.uri("data"), bucket.uri("output"), folder / "pipeline.yaml"
        )

    def deliver(self, span: int, patients: int, seed: int, prefix: str = "") -> None:
        """Puts a cohort there, the very one of the test with a volume."""
        cohort = self.folder / f"cohort-{span}"
        write_cohort(cohort, patients=patients, seed=seed, size="tiny", workers=2)
        for path in sorted(cohort.rglob("*.nii.gz")):
            name = f"{path.parent.name}/{prefix}{path.name}"
            self.bucket.put(f"data/span-{span}/{name}", path.read_bytes())

    def run(self) -> Run:
        return self.cluster.run(self.folder / "pipeline.yaml")

    def artifact(self, run: Run, task: str, name: str) -> Path:
        return self.cluster.path(run.tasks[task]["artifacts"][name]["uri"])

    def below(self, folder: str) -> set[str]:
        return {key.removeprefix(folder) for key in self.bucket.names() if key.startswith(folder)}

    @property
    def served(self) -> list[str]:
        found = {
            name.partition("/")[0] for name in self.below("output/serving/ich/") if name.endswith("/saved_model.pb")
        }
        return sorted(found, key=int)


@pytest.fixture(scope="module", params=["s3", "gs"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3: Server, google: str
) -> Iterator[Place]:
    bucket = s3.bucket() if request.param == "s3" else google_bucket(google)
    with Forkserver(*IMPORTS) as processes:
        yield Place(tmp_path_factory.mktemp("bucket"), bucket, processes)


@pytest.fixture(scope="module")
def first(place: Place) -> Run:
    place.deliver(1, patients=14, seed=3)
    place.bucket.put("data/span-1/images/lonely.nii.gz", b"a scan without a mask")
    return place.run()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_leaves_everything_in_the_bucket(place: Place, first: Run) -> None:
    assert read(place.artifact(first, "Evaluator", "evaluation") / "verdict.json")["failures"] == []
    (version,) = place.served
    names = place.below(f"output/serving/ich/{version}/")
    assert {"variables/variables.index", "assets.extra/contract.json", "assets.extra/model_card.md"} < names
    labels = read_labels(place.bucket.get("output/serving/ich/models.config").decode())
    assert labels == {"stable": int(version), "canary": int(version)}
    assert {name.partition("/")[2] for name in place.below("output/statistics/")} == {
        "cases.json", "record.json", "test.pb", "train.pb", "val.pb"
    }  # fmt: skip
    kept = {name.split("/")[1] for name in place.below("output/training/")}
    assert kept == {"state.npz", "tensorboard"}
    assert list(place.artifact(first, "Trainer", "model_run").glob("events.*"))
    assert place.below("") == {name for name in place.below("") if name.startswith(("data/", "output/"))}
    assert place.artifact(first, "Pusher", "pushed_model").joinpath("saved_model.pb").is_file()


def test_scans_are_named_by_their_uris_and_the_report_does_without_their_pictures(place: Place, first: Run) -> None:
    listing = read(place.artifact(first, "NiftiExampleGen", "examples") / "cases.json")
    (lonely,) = listing["quarantined"]
    assert lonely["image"] == place.bucket.uri("data/span-1/images/lonely.nii.gz")
    assert lonely["reason"].startswith(lonely["image"])
    assert str(place.cluster.pods) not in json.dumps(listing)
    assert "lonely" in (place.artifact(first, "DataReporter", "report") / "data_report.html").read_text()


def test_a_delivery_is_seen_and_compared_with_the_model_in_the_bucket(place: Place, first: Run) -> None:
    (before,) = place.served
    place.deliver(2, patients=6, seed=4, prefix="later-")
    run = place.run()
    assert set(run.cached) == {"CuratedSchema"}
    baseline = read(place.artifact(run, "Evaluator", "evaluation") / "verdict.json")["baseline"]
    assert (baseline["version"], baseline["used"]) == (before, True)
    assert read(place.artifact(run, "DataValidator", "report") / "comparison.json")["references"]
    assert place.served[0] == before and len(place.served) == 2
    labels = read_labels(place.bucket.get("output/serving/ich/models.config").decode())
    assert labels == {"stable": int(before), "canary": int(place.served[1])}
