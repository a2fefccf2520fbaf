"""The compiled pipeline: that kfp takes it, what it tells the backend, and that nothing in it goes stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components as kfp_components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.imaging.errors import UsageError
from pipeline.config import load_config, shipped_configs
from pipeline.kubeflow.compile import STARTING_POINT, STATES, compile_pipeline, pipeline_documents
from tests.command import ich
from tests.pipeline.test_pipeline import STAGES, TUNED

IMAGE = "kubeflow.image=ich:1"
DATA, OUTPUT = "s3://bucket/scans", "s3://bucket/output/"


def documents(*settings: str, name: str = "demo") -> list[dict[str, Any]]:
    return pipeline_documents(load_config(name, [IMAGE, *settings]), DATA, OUTPUT)


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    (found,) = documents()
    return found


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["root"]["dag"]["tasks"]
    return found


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    executors = spec["deploymentSpec"]["executors"]
    return {name: executors[spec["components"][name]["executorLabel"]]["container"] for name in tasks(spec)}


@pytest.mark.parametrize(("name", "settings"), [*((name, []) for name in shipped_configs()), ("demo", TUNED)])
def test_kfp_takes_every_shipped_config(name: str, settings: list[str], tmp_path: Path) -> None:
    package = tmp_path / "folder" / "pipeline.yaml"
    more = ["kubeflow.volumes={claim: /mnt}", *settings]
    compile_pipeline(load_config(name, [IMAGE, *more]), DATA, OUTPUT, package)
    text = package.read_text()
    loaded = kfp_components.load_component_from_text(text)
    assert loaded.pipeline_spec.pipeline_info.name == name.replace("_", "-")
    assert loaded.platform_spec.platforms["kubernetes"].deployment_spec.executors
    found, _ = yaml.safe_load_all(text)
    json_format.ParseDict(found, pipeline_spec_pb2.PipelineSpec())  # no key that is not known
    assert found["schemaVersion"] == "2.1.0"
    assert sorted(tasks(found)) == sorted([*STAGES, STARTING_POINT, *(["Tuner"] if settings else [])])
    assert ("Tuner" in tasks(found)["Trainer"]["dependentTasks"]) == bool(settings)
    assert "DataGate" in tasks(found)["Transform"]["dependentTasks"]
    assert "DataReporter" in tasks(found)["DataGate"]["dependentTasks"]


def test_nothing_that_the_open_source_backend_refuses(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    assert all(set(executor) == {"container"} for executor in executors.values())  # neither resolver nor importer
    assert not any("lifecycle" in container for container in containers(spec).values())
    for name, task in tasks(spec).items():
        for value in task.get("inputs", {}).get("parameters", {}).values():
            if "taskOutputParameter" in value:
                assert value["taskOutputParameter"]["producerTask"] in task["dependentTasks"], name


def test_every_container_runs_our_entry_point(spec: dict[str, Any]) -> None:
    for container in containers(spec).values():
        assert container["image"] == "ich:1"
        assert container["command"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        assert container["args"].count("{{$}}") == 1


def test_what_a_stage_looks_at_is_in_its_parameters(spec: dict[str, Any]) -> None:
    data, serving, statistics = "data_state", "serving_state", "statistics_state"
    wanted = {
        "CuratedSchema": set(), STARTING_POINT: set(),
        "NiftiExampleGen": {data}, "StatisticsGen": {data}, "Transform": {data}, "Trainer": {data},
        "ServedModel": {serving},
        "DataValidator": {data, serving, statistics}, "DataReporter": {data, serving, statistics},
        "DataGate": {data, serving, statistics},
        "Evaluator": {data, serving}, "Servability": {data, serving},
        "RunReporter": {data, serving, statistics}, "Pusher": {data, serving, statistics},
    }  # fmt: skip
    for name, task in tasks(spec).items():
        parameters = task.get("inputs", {}).get("parameters", {})
        assert {key for key in parameters if key in STATES} == wanted[name], name
        declared = spec["components"][name].get("inputDefinitions", {})
        assert set(parameters) == set(declared.get("parameters", {})), name
        arguments = containers(spec)[name]["args"]
        assert json.loads(arguments[arguments.index("--json_serialized_inputs_spec_args") + 1]) == declared, name


def test_only_what_looks_is_never_cached(spec: dict[str, Any]) -> None:
    uncached = {name for name, task in tasks(spec).items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == {STARTING_POINT}


def test_places_are_those_given(spec: dict[str, Any]) -> None:
    found = {key: value["runtimeValue"]["constant"] for key, value in tasks(spec)[STARTING_POINT]["inputs"]["parameters"].items()}  # noqa: E501 # fmt: skip
    assert (found["folder"], found["serving"]) == (DATA, "s3://bucket/output/serving/ich")
    assert found["statistics"] == "s3://bucket/output/statistics"
    trainer = tasks(spec)["Trainer"]["inputs"]["parameters"]["custom_config"]["runtimeValue"]["constant"]
    assert json.loads(trainer)["work_dir"] == "s3://bucket/output/training"


def test_resources_by_stage() -> None:
    spec, platform = documents(
        "kubeflow.resources={default: {cpu: 2, memory_gib: 4}, Trainer: {cpu: 8.5, memory_gib: 32, gpus: 1, "
        "node_selector: {pool: gpu}, tolerate: [nvidia.com/gpu]}}"
    )
    found = containers(spec)
    assert found["Evaluator"]["resources"] == {
        "cpuLimit": 2.0, "resourceCpuLimit": "2", "memoryLimit": 4.295, "resourceMemoryLimit": "4096Mi",
    }  # fmt: skip
    assert found["Trainer"]["resources"]["resourceCpuLimit"] == "8.5"
    assert found["Trainer"]["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert found["Trainer"]["resources"]["accelerator"]["resourceCount"] == "1"
    (nodes,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
    assert nodes[0] == spec["components"]["Trainer"]["executorLabel"]
    assert nodes[1] == {
        "nodeSelector": {"labels": {"pool": "gpu"}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    }


def test_volumes_secrets_and_environment() -> None:
    spec, platform = documents(
        "kubeflow.volumes={scans: /mnt/scans}", "kubeflow.secrets={s3: {access: AWS_ACCESS_KEY_ID}}",
        "kubeflow.env={AWS_REGION: eu}", "kubeflow.pull_policy=Always",
    )  # fmt: skip
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {spec["components"][name]["executorLabel"] for name in tasks(spec)}
    for executor in executors.values():
        known = json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert known.pvc_mount[0].mount_path == "/mnt/scans"
        assert known.secret_as_env[0].key_to_env[0].env_var == "AWS_ACCESS_KEY_ID"
        assert known.image_pull_policy == "Always"
    assert all(container["env"] == [{"name": "AWS_REGION", "value": "eu"}] for container in containers(spec).values())


def test_a_failed_stage_is_tried_again() -> None:
    (spec,) = documents("kubeflow.retries=3")
    assert {task["retryPolicy"]["maxRetryCount"] for task in tasks(spec).values()} == {3}
    (spec,) = documents("kubeflow.retries=0")
    assert not any("retryPolicy" in task for task in tasks(spec).values())


def test_other_data_settings_other_code_and_nothing_else_change_it(spec: dict[str, Any]) -> None:
    assert documents() == [spec]
    assert documents("training.epochs=99") != [spec]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["kubeflow.image=null"], ["kubeflow.image", "Dockerfile"]),
        (["kubeflow.resources={trainer: {cpu: 1}}"], ["kubeflow.resources", "trainer", "Trainer"]),
        (["kubeflow.volumes={a: mnt}"], ["kubeflow.volumes", "mnt"]),
        (["kubeflow.resources={Trainer: {cpu: -1}}"], ["kubeflow.resources.Trainer.cpu", "-1"]),
        (["kubeflow.retries=21"], ["kubeflow.retries", "21"]),
    ],
)
def test_what_cannot_be_used_is_refused(settings: list[str], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        documents(*settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"):
        compile_pipeline(load_config("demo", [IMAGE]), DATA, OUTPUT, tmp_path / "file" / "pipeline.yaml")


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\ndata: {image: 'i/{case}.nii.gz', mask: 'm/{case}.nii.gz', root: /mnt/scans}\n"
        "output: {root: 's3://bucket/output'}\nkubeflow: {image: 'ich:1'}\n"
    )
    done = ich("kubeflow", "compile", "-c", config, "-o", tmp_path / "pipeline.yaml")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'pipeline.yaml'}\n"), done.stderr
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    parameters = tasks(spec)[STARTING_POINT]["inputs"]["parameters"]
    assert parameters["folder"]["runtimeValue"]["constant"] == "/mnt/scans"
    refused = ich("kubeflow", "compile", "-c", config, "-d", "scans", "-o", tmp_path / "pipeline.yaml")
    assert refused.returncode == 2 and "--data scans" in refused.stderr
