"""Runs a compiled pipeline as Kubeflow's backend does, without a cluster: tasks in order, a container's command each.

What is done here is what its driver and launcher do: resolve inputs, look into the cache, fill in the placeholder,
fetch artifacts into the pod's folders, run the command, put artifacts into the bucket, and pass on what was told.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT, Forkserver

PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"
IMPORTS = ("tfx.v1", "pipeline.pipeline", "pipeline.kubeflow.compile", "components.trainer.run_fn",
           "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor")  # fmt: skip


class TaskFailedError(Exception):
    """A container ended with another exit code than 0."""

    def __init__(self, task: str, code: int, log: str) -> None:
        super().__init__(f"{task}: exit code {code}\n{log[-6000:]}")
        self.task, self.code, self.log = task, code, log


@dataclass
class Run:
    """What became of a run.

    Attributes:
        tasks: What each task left: `artifacts` and `parameters` by name.
        cached: Tasks whose result was taken from the cache.
        tries: How often each container was started.
    """

    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)


class Cluster:
    """A bucket, a cache and pods.

    Args:
        folder: Where they are kept.
        processes: Starts the containers.
    """

    def __init__(self, folder: Path, processes: Forkserver) -> None:
        self.bucket, self.pods = folder / "bucket", folder / "pods"
        self._processes = processes
        self._cache: dict[str, dict[str, Any]] = {}
        self._runs = 0

    def run(self, package: Path) -> Run:
        """Runs a compiled pipeline to its end.

        Raises:
            TaskFailedError: A task failed in all its tries.
        """
        spec = next(yaml.safe_load_all(package.read_text()))
        self._runs += 1
        run = Run()
        for name in _in_order(spec["root"]["dag"]["tasks"]):
            self._task(spec, name, run)
        return run

    def path(self, uri: str) -> Path:
        """Where the bucket keeps what a URI names."""
        assert uri.startswith("minio://"), uri
        return self.bucket / uri.removeprefix("minio://")

    def _task(self, spec: dict[str, Any], name: str, run: Run) -> None:
        task = spec["root"]["dag"]["tasks"][name]
        component = spec["components"][task["componentRef"]["name"]]
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        pod = self.pods / f"{self._runs}-{name}"
        told = pod / "tmp" / "kfp_outputs" / "output_metadata.json"
        declared = component.get("outputDefinitions", {})
        place = f"{PIPELINE_ROOT}/{spec['pipelineInfo']['name']}/run-{self._runs}/{name}"
        invocation = {
            "inputs": {
                "parameterValues": {
                    key: _parameter(value, run) for key, value in task.get("inputs", {}).get("parameters", {}).items()
                },
                "artifacts": {
                    key: {"artifacts": [_artifact(value["taskOutputArtifact"], run)]}
                    for key, value in task.get("inputs", {}).get("artifacts", {}).items()
                },
            },
            "outputs": {
                "parameters": {key: {"outputFile": str(pod / "tmp" / key)} for key in declared.get("parameters", {})},
                "artifacts": {
                    key: {"artifacts": [{"uri": f"{place}/{key}", "type": value["artifactType"], "metadata": {}}]}
                    for key, value in declared.get("artifacts", {}).items()
                },
                "outputFile": str(told),
            },
        }
        key = _cache_key(invocation, declared, container)
        if task.get("cachingOptions", {}).get("enableCache") and key in self._cache:
            run.tasks[name] = self._cache[key]
            run.cached.append(name)
            return
        for left in range(task.get("retryPolicy", {}).get("maxRetryCount", 0), -1, -1):
            run.tries[name] = run.tries.get(name, 0) + 1
            shutil.rmtree(pod, ignore_errors=True)
            self._fetch(invocation, pod)
            told.parent.mkdir(parents=True)
            log = self.pods / f"{self._runs}-{name}.log"
            code = self._start(container, invocation, pod, log)
            if code == 0:
                break
            if left == 0:
                raise TaskFailedError(name, code, log.read_text(errors="replace"))
        run.tasks[name] = self._collect(invocation, json.loads(told.read_text()), pod, declared)
        self._cache[key] = run.tasks[name]
        shutil.rmtree(pod)  # nothing passes from pod to pod but what the launcher carries

    def _start(self, container: dict[str, Any], invocation: dict[str, Any], pod: Path, log: Path) -> int:
        python, flag, module = container["command"]
        assert (python, flag) == ("python", "-m")
        environment = {
            **{item["name"]: item["value"] for item in container.get("env", ())},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(pod), "PYTHONPATH": str(ROOT), "ICH_LAUNCHER_ROOT": f"{pod}/",
        }  # fmt: skip
        arguments = [part.replace("{{$}}", json.dumps(invocation)) for part in container["args"]]
        return self._processes.run(module, arguments, environment, pod, log)

    def _local(self, uri: str, pod: Path) -> Path:
        return pod / "minio" / uri.removeprefix("minio://")

    def _fetch(self, invocation: dict[str, Any], pod: Path) -> None:
        pod.mkdir(parents=True)
        for artifact in _all(invocation["inputs"]):
            _copy(self.path(artifact["uri"]), self._local(artifact["uri"], pod))
        for artifact in _all(invocation["outputs"]):
            self._local(artifact["uri"], pod).parent.mkdir(parents=True, exist_ok=True)

    def _collect(self, invocation: dict[str, Any], told: dict[str, Any], pod: Path, declared: dict[str, Any]) -> dict[str, Any]:  # noqa: E501 # fmt: skip
        artifacts = {}
        for key, listed in invocation["outputs"]["artifacts"].items():
            (artifact,) = listed["artifacts"]
            (said,) = told.get("artifacts", {}).get(key, {"artifacts": [{}]})["artifacts"]
            assert said.get("uri", artifact["uri"]) == artifact["uri"], f"{key}: the launcher cannot find {said['uri']}"
            _copy(self._local(artifact["uri"], pod), self.path(artifact["uri"]))
            title = yaml.safe_load(artifact["type"]["instanceSchema"])["title"]
            artifacts[key] = {
                "name": hashlib.sha256(artifact["uri"].encode()).hexdigest()[:8], "uri": artifact["uri"],
                "type": {"schemaTitle": title}, "metadata": said.get("metadata", {}),
            }  # fmt: skip
        values = told.get("parameterValues", {})
        assert set(declared.get("parameters", {})) <= set(values)
        return {"artifacts": artifacts, "parameters": values}


def _copy(source: Path, target: Path) -> None:
    """To or from a bucket, which has no folders: an empty one is lost."""
    for file in [source] if source.is_file() else source.rglob("*"):
        if file.is_file():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(source))


def _in_order(tasks: dict[str, Any]) -> Iterator[str]:
    done: set[str] = set()
    while len(done) < len(tasks):
        ready = [
            name for name, task in sorted(tasks.items())
            if name not in done and set(task.get("dependentTasks", ())) <= done
        ]  # fmt: skip
        assert ready, f"no task can start after {sorted(done)}"
        for name in ready:
            done.add(name)
            yield name


def _parameter(value: dict[str, Any], run: Run) -> Any:
    if "taskOutputParameter" in value:
        wanted = value["taskOutputParameter"]
        return run.tasks[wanted["producerTask"]]["parameters"][wanted["outputParameterKey"]]
    return value["runtimeValue"]["constant"]


def _artifact(wanted: dict[str, Any], run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.tasks[wanted["producerTask"]]["artifacts"][wanted["outputArtifactKey"]]
    return found


def _all(side: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for listed in side["artifacts"].values():
        yield from listed["artifacts"]


def _cache_key(invocation: dict[str, Any], declared: dict[str, Any], container: dict[str, Any]) -> str:
    """The least that a backend may go by: parameters, names of inputs, command and image, but no artifact's content."""
    parts = [
        invocation["inputs"]["parameterValues"], sorted(invocation["inputs"]["artifacts"]), declared,
        container["command"], container["args"], container["image"],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
