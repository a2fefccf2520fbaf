"""Output folders as many runs leave them, with TFX's records, without running anything."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as pb

from components.pusher.place import write_labels
from serving.versions import versions
from tests.models import unloadable

PUSHED, REFUSED, HELD, FAILED, KILLED = "pushed", "refused", "held", "failed", "killed"
ENDS = (PUSHED, REFUSED, HELD, FAILED, KILLED)
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
KINDS = (
    "Examples", "ExampleStatistics", "TransformGraph", "TransformCache", "Model", "ModelRun", "ModelEvaluation",
    "ModelBlessing", "PushedModel",
)  # fmt: skip
BYTES = 8192
"""Of each artifact: two blocks, so that sums are exact."""


@dataclass
class History:
    """Runs of one output folder, an hour apart, and its own account of what came from what.

    Attributes:
        output: The output folder.
        uses: Folders of artifacts that each run made or reused, by its name.
        sources: What each folder was directly made from.
        models: Of each pushed version its model's folder, the oldest first.
        waiting: Folders of blessed models that were not pushed, the latest last.
        evidence: Evaluation and blessing of each model.
        trainings: Folders of checkpoints by run.
        reused: Folders that a run found in the cache.
        pushers: The run that pushed each version.
        last: The run that `last_run.json` names.
        count: Runs so far, forgotten ones too.
        executions: Executions so far.
        types: Ids of the types in TFX's store.
    """

    output: Path
    uses: dict[str, set[Path]] = field(default_factory=dict)
    sources: dict[Path, set[Path]] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    waiting: list[Path] = field(default_factory=list)
    evidence: dict[Path, set[Path]] = field(default_factory=dict)
    trainings: dict[str, Path] = field(default_factory=dict)
    reused: set[Path] = field(default_factory=set)
    pushers: dict[str, str] = field(default_factory=dict)
    last: str | None = None
    count: int = 0
    executions: int = 0
    types: dict[str, int] = field(default_factory=dict)
    _cache: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        """The folder of all artifacts."""
        return self.output / "artifacts"

    def folders(self) -> set[Path]:
        """The folders of artifacts that are on the disk."""
        return {path for path in self.artifacts.glob("*/*/*") if path.name.isdecimal()}

    def run(self, data: str, recipe: str, end: str, *, stage: str = "Trainer", recorded: bool = True) -> str:
        """Does what a run does, and returns its name.

        Args:
            data: Fingerprint of its data.
            recipe: What it trains with; a change of either makes another model.
            end: One of `ENDS`.
            stage: Where it ends if it fails or is killed.
            recorded: Its summary says what the stages left, as that of an older program does not.
        """
        began = BEGAN + datetime.timedelta(hours=self.count)
        self.count += 1
        name = f"{began:%Y%m%dT%H%M%S}"
        self.uses[name] = set()
        run = _Run(self, name, began, end, stage)
        run.go(data, recipe)
        for path in (self.output / "logs" / f"{name}.log", self.output / "reports" / name / "index.html"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * BYTES)
        version = str(newest[-1]) if (newest := versions(self.output / "serving" / "ich")) else None
        stages = [{key: value for key, value in one.items() if recorded or key != "outputs"} for one in run.stages]
        summary = {
            "run": name, "config": {"name": "c"}, "stages": [{"name": "start", "state": "done"}, *stages],
            "exit_code": {PUSHED: 0, REFUSED: 3, HELD: 3, FAILED: 1, KILLED: None}[end], "model": version,
            "verdict": None, "error": None,
        }  # fmt: skip
        (self.output / "runs").mkdir(exist_ok=True)
        (self.output / "runs" / f"{name}.json").write_text(json.dumps(summary))
        if end in (PUSHED, REFUSED, HELD):
            record = {"key": "k", "run": name, "exit_code": summary["exit_code"], "version": version, "held": False}
            (self.output / "last_run.json").write_text(json.dumps(record))
            self.last = name
        return name

    def reachable(self, roots: Iterable[Path]) -> set[Path]:
        """Folders and all that they came from."""
        found: set[Path] = set()
        for path in roots:
            if path not in found:
                found |= {path} | self.reachable(self.sources[path])
        return {sibling for path in found for sibling in self.siblings(path)}

    def siblings(self, path: Path) -> set[Path]:
        """What came out of the same execution."""
        stage, _, number = path.parts[-3:]
        return {other for other in self.sources if (other.parts[-3], other.name) == (stage, number)}

    def needed(self, keep: int) -> set[Path]:
        """Folders of artifacts that a collection has to leave, by this account."""
        labelled = list(self.models)[-2:]
        roots = set().union(*(self.uses[run] for run in self.kept(keep)), *({self.models[one]} for one in labelled))
        beside = {path for model in self.waiting for path in {model} | self.evidence[model]}
        beside |= {path for one in labelled for path in self.evidence[self.models[one]]}
        return self.reachable(roots | set(self.waiting[-1:])) | beside

    def kept(self, keep: int) -> set[str]:
        """Runs that have to stay."""
        pushers = {self.pushers[one] for one in list(self.models)[-2:]}
        return set(list(self.uses)[-keep:]) | ({self.last} if self.last else set()) | pushers

    def forget(self, runs: Iterable[str]) -> None:
        """Takes note that runs have been removed."""
        self.uses = {run: used for run, used in self.uses.items() if run not in set(runs)}

    def live(self) -> set[Path]:
        """Folders that TFX would still reuse."""
        found = store(self.output).get_artifacts()
        return {self.artifacts / "/".join(one.uri.split("/")[-3:]) for one in found if one.state == pb.Artifact.LIVE}


@dataclass
class _Run:
    history: History
    name: str
    began: datetime.datetime
    end: str
    last_stage: str
    stages: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.history.output.mkdir(exist_ok=True)
        self.store = store(self.history.output)
        if not self.history.types:
            self.history.types |= {kind: self.store.put_artifact_type(pb.ArtifactType(name=kind)) for kind in KINDS}
            self.history.types["run"] = self.store.put_context_type(pb.ContextType(name="pipeline_run"))
            self.history.types["execution"] = self.store.put_execution_type(pb.ExecutionType(name="a stage"))
        self.types = self.history.types
        compiled = (self.began + datetime.timedelta(seconds=1.5)).isoformat()
        (number,) = self.store.put_contexts([pb.Context(type_id=self.types["run"], name=compiled)])
        (self.context,) = self.store.get_contexts_by_id([number])

    def go(self, data: str, recipe: str) -> None:
        """All stages, up to where it ends."""
        history = self.history
        examples = self.step("NiftiExampleGen", {"examples": "Examples"}, [], data)
        self.fill(examples, "cases.json", json.dumps({"fingerprint": data}).encode())
        self.step("StatisticsGen", {"statistics": "ExampleStatistics"}, examples)
        if not self.stopped:
            self.remember(data)
        graph = self.step("Transform", {"transform_graph": "TransformGraph", "cache": "TransformCache"}, examples)
        training = history.output / "training" / f"{data}-{recipe}"
        made = self.step("Trainer", {"model": "Model", "model_run": "ModelRun"}, [*examples, *graph[:1]], recipe)
        if self.stages[-1]["name"] == "Trainer" and not self.stages[-1].get("cached"):
            training.mkdir(parents=True, exist_ok=True)
            (training / "state.npz").write_bytes(b"x" * BYTES)
            written = (self.began + datetime.timedelta(minutes=9)).timestamp()
            os.utime(training / "state.npz", (written, written))
            history.trainings = {run: path for run, path in history.trainings.items() if path != training}
            history.trainings[self.name] = training
        if not made:
            return
        model = self.folder(made[0])
        if not (model / "Format-Serving").exists():
            export = f"{recipe} by {made[0]}"
            unloadable(model / "Format-Serving", data_fingerprint=data, config_fingerprint=export)
        served = str(len(history.models))
        baseline = self.step("ServedModel", {"model": "Model"}, [], served)
        blessed = self.end in (PUSHED, HELD)
        judged = self.step(
            "Evaluator", {"evaluation": "ModelEvaluation", "blessing": "ModelBlessing"},
            [*examples, made[0], *baseline], blessed, blessing={"blessed": int(blessed), "current_model_id": made[0]},
        )  # fmt: skip
        if not judged:
            return
        if blessed:
            history.evidence.setdefault(model, set()).update(self.folder(one) for one in judged)
        pushed = self.step("Pusher", {"pushed_model": "PushedModel"}, [made[0], judged[1]], self.end)
        if not pushed or not blessed:
            return
        if self.end == HELD and model not in [*history.waiting, *history.models.values()]:
            history.waiting.append(model)
        if self.end == PUSHED and model not in history.models.values():
            version = str(1_700_000_000 + len(history.models))
            shutil.copytree(model / "Format-Serving", history.output / "serving" / "ich" / version)
            write_labels(str(history.output / "serving" / "ich"))
            history.models[version] = model
            history.pushers[version] = self.name
            history.waiting = [one for one in history.waiting if one != model]

    def step(
        self, stage: str, outputs: dict[str, str], inputs: list[int], parameter: Any = "", **properties: dict[str, int]
    ) -> list[int]:
        """One stage: reuses what the cache has, or makes it; returns the ids of its artifacts."""
        if self.stopped:
            return []
        here: dict[str, Any] = {"name": stage}
        self.stages.append(here)
        if stage == self.last_stage and self.end in (FAILED, KILLED):
            self.stopped = True
            if self.end == KILLED:  # half-made, and TFX does not know of it
                self.made(stage, "model", 10_000 + self.history.count, b"half")
            else:
                here["state"] = "failed"
            return []
        key = (stage, tuple(inputs), parameter)
        found = self.cached(key)
        here |= {"state": "done", "cached": bool(found)}
        self.history.executions += 1
        folders = [self.folder(one) for one in found] or [
            self.made(stage, name, self.history.executions, b"x" * BYTES) for name in outputs
        ]
        made = [
            self.artifact(kind, folder, properties.get(name, {}))
            for (name, kind), folder in zip(outputs.items(), folders, strict=True)
        ]
        written = self.store.get_artifacts_by_id(found) or made
        given = self.store.get_artifacts_by_id(inputs)
        events = [(one, pb.Event(type=pb.Event.INPUT)) for one in given]
        events += [(one, pb.Event(type=pb.Event.OUTPUT)) for one in written]
        execution = pb.Execution(type_id=self.types["execution"], last_known_state=pb.Execution.COMPLETE)
        _, ids, _ = self.store.put_execution(execution, events, [self.context])
        found = self.history._cache[key] = ids[len(given) :]
        for one in found:
            self.history.sources.setdefault(self.folder(one), set()).update(self.folder(source) for source in inputs)
        self.history.uses[self.name] |= {self.folder(one) for one in found}
        paths = (self.folder(one).relative_to(self.history.output) for one in found)
        here["outputs"] = dict(zip(outputs, map(str, paths), strict=True))
        return found

    def cached(self, key: tuple[Any, ...]) -> list[int]:
        """As TFX: what an execution left is reused if the store says of all of it that it is live."""
        ids = self.history._cache.get(key, [])
        if not all(one.state == pb.Artifact.LIVE for one in self.store.get_artifacts_by_id(ids)):
            return []
        for one in ids:
            assert (self.folder(one) / "data").stat().st_size == BYTES, "TFX would reuse what is gone"
            self.history.reused.add(self.folder(one))
        return ids

    def artifact(self, kind: str, folder: Path, properties: dict[str, int]) -> pb.Artifact:
        custom = {key: pb.Value(int_value=value) for key, value in properties.items()}
        return pb.Artifact(
            type_id=self.types[kind], uri=str(folder), state=pb.Artifact.LIVE, custom_properties=custom
        )  # fmt: skip

    def made(self, stage: str, name: str, execution: int, data: bytes) -> Path:
        folder = self.history.artifacts / stage / name / str(execution)
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(data)
        return folder

    def fill(self, ids: list[int], name: str, data: bytes) -> None:
        for one in ids:
            (self.folder(one) / name).write_bytes(data)

    def folder(self, artifact: int) -> Path:
        """Where an artifact lies."""
        (found,) = self.store.get_artifacts_by_id([artifact])
        return Path(found.uri)

    def remember(self, data: str) -> None:
        """As DataGate: keeps the statistics of the data."""
        folder = self.history.output / "statistics" / data
        folder.mkdir(parents=True, exist_ok=True)
        record = {"fingerprint": data, "span": 0, "time": self.began.isoformat(timespec="microseconds"), "patients": {}}
        (folder / "record.json").write_text(json.dumps(record))


def store(output: Path) -> MetadataStore:
    """The metadata store of an output folder."""
    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(output / "metadata.sqlite")
    config.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return MetadataStore(config)
