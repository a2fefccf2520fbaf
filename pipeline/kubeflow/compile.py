"""The pipeline as a file that Kubeflow Pipelines 2 runs: what TFX compiles, and what its open-source backend wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes
from pipeline.config import DEFAULT_STAGE, Config, KubeflowConfig, StageConfig

LOOKS = {
    "NiftiExampleGen": ("data_state",),
    "DataValidator": ("statistics_state", "serving_state"),
    "ServedModel": ("serving_state",),
}
"""What the stages that look into folders find there, by the output of `StartingPoint` that names it."""

STARTING_POINT = "StartingPoint"
ENTRYPOINT = ("python", "-m", "pipeline.kubeflow.entrypoint")
STATES = ("data_state", "statistics_state", "serving_state")


def compile_pipeline(config: Config, data: str, output: str, out: Path) -> None:
    """Writes the pipeline as YAML, specification 2.1, with the Kubernetes part as a second document where there is one.

    Args:
        config: The configuration.
        data: Where the stages find the scans: a folder of a volume, or a URI.
        output: Where models, statistics and checkpoints go, likewise.
        out: The file.

    Raises:
        UsageError: The section kubeflow cannot be used, or the file not written.
    """
    documents = pipeline_documents(config, data, output)
    try:
        write_bytes(out, yaml.safe_dump_all(documents, sort_keys=True).encode())
    except OSError as error:
        raise UsageError(f"{out}: cannot write there ({error.strerror}); give another --out") from None


def pipeline_documents(config: Config, data: str, output: str) -> list[dict[str, Any]]:
    """The documents that `compile_pipeline` writes.

    Raises:
        UsageError: The section kubeflow cannot be used.
    """
    import tfx.v1 as tfx

    from pipeline.pipeline import Places, create_pipeline

    settings = config.kubeflow
    if settings.image is None:
        raise UsageError("kubeflow.image: found nothing, wanted the image made from the Dockerfile, such as ich:1")
    output = output.rstrip("/")
    pipeline = create_pipeline(
        config,
        Places(
            data=data,
            artifacts="",  # given with each run: the specification has no place for it
            serving=f"{output}/serving/{config.output.model_name}",
            statistics=f"{output}/statistics",
            work=f"{output}/training",
        ),
        None,
    )
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=settings.image, default_commands=list(ENTRYPOINT), use_pipeline_spec_2_1=True
        )
    )
    spec = runner.run(pipeline, write_out=False)["pipelineSpec"]
    tasks, executors = spec["root"]["dag"]["tasks"], spec["deploymentSpec"]["executors"]
    if unknown := sorted(set(settings.resources) - set(tasks) - {DEFAULT_STAGE}):
        raise UsageError(
            f"kubeflow.resources: found {', '.join(unknown)}, wanted {DEFAULT_STAGE} or stages: {', '.join(tasks)}"
        )
    _bind_states(spec)
    platform = {}
    for name, task in tasks.items():
        if settings.retries:
            task["retryPolicy"] = {
                "maxRetryCount": settings.retries, "backoffDuration": "60s", "backoffFactor": 2.0,
                "backoffMaxDuration": "3600s",
            }  # fmt: skip
        label = spec["components"][name]["executorLabel"]
        stage = settings.resources.get(name) or settings.resources.get(DEFAULT_STAGE) or StageConfig()
        container = executors[label]["container"]
        container.pop("lifecycle", None)  # a driver that is never asked here: the entrypoint runs ours
        if resources := _resources(stage):
            container["resources"] = resources
        if settings.env:
            container["env"] = [{"name": key, "value": value} for key, value in sorted(settings.env.items())]
        if wanted := _platform(settings, stage):
            platform[label] = wanted
    documents = [spec]
    if platform:
        documents.append({"platforms": {"kubernetes": {"deploymentSpec": {"executors": platform}}}})
    return documents


def _bind_states(spec: dict[str, Any]) -> None:
    """Gives each stage, as a parameter, the names of what it and the stages before it look at.

    Two things go by parameters: the backend's cache, and with it whether scans that came since are seen at all.
    """
    tasks, components = spec["root"]["dag"]["tasks"], spec["components"]
    tasks[STARTING_POINT].pop("cachingOptions", None)
    definitions = components[STARTING_POINT]["outputDefinitions"]
    definitions["parameters"] = {state: {"parameterType": "STRING"} for state in STATES}
    for name, task in tasks.items():
        for state in sorted(_states(name, tasks)):
            inputs = components[name].setdefault("inputDefinitions", {}).setdefault("parameters", {})
            inputs[state] = {"parameterType": "STRING"}
            task.setdefault("inputs", {}).setdefault("parameters", {})[state] = {
                "taskOutputParameter": {"producerTask": STARTING_POINT, "outputParameterKey": state}
            }
            task["dependentTasks"] = sorted({*task.get("dependentTasks", ()), STARTING_POINT})
        _declare_inputs(spec, name)


def _states(name: str, tasks: Mapping[str, Any]) -> set[str]:
    """What a stage looks at, itself or through the artifacts that it is given."""
    found = set(LOOKS.get(name, ()))
    for artifact in tasks[name].get("inputs", {}).get("artifacts", {}).values():
        found |= _states(artifact["taskOutputArtifact"]["producerTask"], tasks)
    return found


def _declare_inputs(spec: dict[str, Any], name: str) -> None:
    """Renews the argument by which the container knows the types of its parameters."""
    component = spec["components"][name]
    arguments = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["args"]
    place = arguments.index("--json_serialized_inputs_spec_args") + 1
    arguments[place] = json.dumps(component.get("inputDefinitions", {}), sort_keys=True)


def _resources(stage: StageConfig) -> dict[str, Any]:
    """The part of a container's specification; both the old and the new way to say it, as kfp itself does."""
    found: dict[str, Any] = {}
    if stage.cpu is not None:
        found |= {"cpuLimit": stage.cpu, "resourceCpuLimit": f"{stage.cpu:g}"}
    if stage.memory_gib is not None:
        gigabytes = stage.memory_gib * 2**30 / 1e9
        found |= {"memoryLimit": round(gigabytes, 3), "resourceMemoryLimit": f"{round(stage.memory_gib * 1024)}Mi"}
    if stage.gpus:
        count = str(stage.gpus)
        found["accelerator"] = {
            "type": stage.gpu_type, "count": count, "resourceType": stage.gpu_type, "resourceCount": count,
        }  # fmt: skip
    return found


def _platform(settings: KubeflowConfig, stage: StageConfig) -> dict[str, Any]:
    """What only Kubernetes knows of: volumes, secrets, nodes."""
    found: dict[str, Any] = {}
    if settings.pull_policy:
        found["imagePullPolicy"] = settings.pull_policy
    if settings.volumes:
        found["pvcMount"] = [
            {"constant": claim, "mountPath": path, "pvcNameParameter": _constant(claim)}
            for claim, path in sorted(settings.volumes.items())
        ]
    if settings.secrets:
        found["secretAsEnv"] = [
            {
                "secretName": secret,
                "secretNameParameter": _constant(secret),
                "keyToEnv": [{"secretKey": key, "envVar": variable} for key, variable in sorted(keys.items())],
                "optional": False,
            }
            for secret, keys in sorted(settings.secrets.items())
        ]
    if stage.node_selector:
        found["nodeSelector"] = {"labels": dict(sorted(stage.node_selector.items()))}
    if stage.tolerate:
        found["tolerations"] = [{"key": key, "operator": "Exists"} for key in stage.tolerate]
    return found


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}
