"""What puts a model on TensorFlow Serving: read by its own messages, by Kubernetes' schemas, and flag by flag."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from components.imaging.errors import UsageError
from serving.batching import MAX_REQUEST, batching_parameters
from serving.manifests.models_config import labels_of, models_config, read_labels
from serving.manifests.render import CONFIGS, MANIFESTS, MEMORY_MIB, model_folder, render, write_manifests
from serving.signatures import BATCH
from tests.command import ich
from tests.models import contract
from tests.serving.manifests.messages import BatchingParameters, MonitoringConfig

FLAGS = {
    "port", "grpc_socket_path", "rest_api_port", "rest_api_num_threads", "rest_api_timeout_in_ms",
    "rest_api_enable_cors_support", "enable_batching", "allow_version_labels_for_unavailable_models",
    "batching_parameters_file", "enable_per_model_batching_parameters", "model_config_file",
    "model_config_file_poll_wait_seconds", "model_name", "model_base_path", "num_load_threads", "num_unload_threads",
    "max_num_load_retries", "load_retry_interval_micros", "file_system_poll_wait_seconds", "flush_filesystem_caches",
    "tensorflow_session_parallelism", "tensorflow_session_config_file", "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism", "use_alts_credentials", "ssl_config_file", "platform_config_file",
    "per_process_gpu_memory_fraction", "saved_model_tags", "grpc_channel_arguments", "grpc_max_threads",
    "enable_model_warmup", "num_request_iterations_for_warmup", "version", "monitoring_config_file",
    "remove_unused_fields_from_bundle_metagraph", "enable_signature_method_name_check", "enable_profiler",
    "thread_pool_factory_config_file",
}  # fmt: skip
"""Those of tensorflow_model_server, without the experimental ones."""


def served(root: Path, *numbers: int, name: str = "ich") -> Path:
    """A folder of versions, of which nothing is read but their names."""
    folder = root / "serving" / name
    for number in numbers:
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "saved_model.pb").touch()
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return render(served(tmp_path, 100, 300, 200))


def model_config(text: str) -> Any:
    """The only model of a configuration, as the server parses it."""
    (found,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return found


@pytest.mark.parametrize(
    ("numbers", "stable", "canary"),
    [((5,), 5, 5), ((5, 7), 5, 7), ((7, 10, 9), 9, 10), ((1700000000, 1800000000), 1700000000, 1800000000)],
)
def test_labels_are_those_of_the_newest_versions(numbers: tuple[int, ...], stable: int, canary: int) -> None:
    labels = labels_of(numbers)
    assert labels == {"stable": stable, "canary": canary}
    found = model_config(models_config("other", labels))
    assert (found.name, found.base_path, found.model_platform) == ("other", "/models/other", "tensorflow")
    assert dict(found.version_labels) == labels
    # What has a label is loaded, and stays so until the labels have moved to what is pushed next.
    assert found.model_version_policy.latest.num_versions == 3
    assert read_labels(models_config("other", labels)) == labels
    assert read_labels("model_config_list {}") == {}


def test_a_model_of_slices_is_batched_and_one_of_scans_is_not(files: dict[str, str]) -> None:
    threads = text_format.Parse(files["batching.config"], BatchingParameters())
    # Beside these two the server ignores everything here.
    assert {field.name for field, _ in threads.ListFields()} == {"num_batch_threads", "thread_pool_name"}
    own = text_format.Parse(batching_parameters(contract()) or "", BatchingParameters())
    assert own.enable_large_batch_splitting.value
    assert own.max_execution_batch_size.value == BATCH <= own.max_batch_size.value == MAX_REQUEST
    assert own.batch_timeout_micros.value < 100_000 and own.max_enqueued_batches.value > 0
    assert not own.allowed_batch_sizes  # they would be padded, and computed in vain
    assert batching_parameters(contract(input="scan")) is None
    for flags in all_flags(files):
        assert flags["enable_batching"] == flags["enable_per_model_batching_parameters"] == "true"


def test_metrics_are_where_kubernetes_is_told(files: dict[str, str]) -> None:
    found = text_format.Parse(files["monitoring.config"], MonitoringConfig()).prometheus_config
    assert found.enable
    notes = yaml.safe_load(files["kubernetes/deployment.yaml"])["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/path"] == found.path and notes["prometheus.io/port"] == "8501"


def parsed(files: dict[str, str]) -> dict[str, Any]:
    return {name: yaml.safe_load(files[name]) for name in MANIFESTS}


def containers(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What runs the server, by manifest, with its pod."""
    found = parsed(files)
    pods = {
        "kubernetes": found["kubernetes/deployment.yaml"]["spec"]["template"]["spec"],
        "kserve": found["kserve.yaml"]["spec"]["predictor"],
    }
    return {name: {**pod["containers"][0], "pod": pod} for name, pod in pods.items()}


def all_flags(files: dict[str, str]) -> list[dict[str, str]]:
    """The server's flags in each of the manifests."""
    commands = [parsed(files)["compose.yaml"]["services"]["ich"]["command"]]
    commands += [container["args"] for container in containers(files).values()]
    made = []
    for command in commands:
        assert all(flag.startswith("--") and "=" in flag for flag in command)
        made.append(dict(flag[2:].split("=", 1) for flag in command))
        assert len(made[-1]) == len(command)
    return made


def test_every_flag_is_one_of_the_servers_and_every_file_is_there(files: dict[str, str]) -> None:
    for flags in all_flags(files):
        assert set(flags) <= FLAGS
        assert (flags["port"], flags["rest_api_port"]) == ("8500", "8501")
        assert flags["allow_version_labels_for_unavailable_models"] == "true"  # else it does not start with labels
        assert {value for value in flags.values() if value.startswith("/")} == {
            "/models/ich/models.config", *(f"/config/{name}" for name in CONFIGS)
        }  # fmt: skip


def validate(resource: dict[str, Any]) -> None:
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def test_kubernetes_takes_the_manifests(files: dict[str, str]) -> None:
    found = parsed(files)
    kinds = {}
    for name in MANIFESTS:
        if name.startswith("kubernetes/"):
            validate(found[name])
            kinds[found[name]["kind"]] = found[name]
    assert set(kinds) == {"ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"}
    broken = copy.deepcopy(kinds["Deployment"])
    broken["spec"]["template"]["spec"]["containers"][0]["resorces"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)  # so strict is the schema
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"].items() <= labels.items()
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert {port["targetPort"] for port in kinds["Service"]["spec"]["ports"]} == {8500, 8501}
    assert kinds["ConfigMap"]["data"] == {name: files[name] for name in CONFIGS}


def test_the_pods_find_models_and_configuration_and_may_do_little_else(files: dict[str, str]) -> None:
    found = parsed(files)
    claim = found["kubernetes/volume.yaml"]["metadata"]["name"]
    config = found["kubernetes/config.yaml"]["metadata"]["name"]
    for container in containers(files).values():
        pod = container["pod"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]["claimName"] == claim
        assert volumes[mounts["/config"]["name"]]["configMap"]["name"] == config
        assert mounts["/models"]["readOnly"] and mounts["/config"]["readOnly"]
        assert "subPath" not in mounts["/config"]  # it would never change
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"] == f"{MEMORY_MIB}Mi"
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/ich/metadata"
        assert container["image"].partition(":")[2] not in ("", "latest")
        ports = {port["containerPort"] for port in container["ports"]}
        probed = {container[probe].get("httpGet", container[probe].get("tcpSocket"))["port"]
                  for probe in ("startupProbe", "readinessProbe", "livenessProbe")}  # fmt: skip
        assert probed <= ports


def test_kserves_predictor_is_a_pod_as_kubernetes_knows_it(files: dict[str, str]) -> None:
    found = parsed(files)["kserve.yaml"]
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(found["spec"]) == {"predictor"}
    predictor = found["spec"]["predictor"]
    own = {"minReplicas", "maxReplicas", "timeout"}
    assert all(isinstance(predictor[name], int) for name in own)
    assert predictor["minReplicas"] <= predictor["maxReplicas"]
    pod = {key: value for key, value in predictor.items() if key not in own}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})
    (container,) = pod["containers"]
    assert container["name"] == "kserve-container" and len(container["ports"]) == 1  # KServe's rules


def test_compose_serves_the_output_folder_read_only(files: dict[str, str], tmp_path: Path) -> None:
    (service,) = parsed(files)["compose.yaml"]["services"].values()
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert Path(mounts["/models"]["source"]) == tmp_path / "serving"
    assert mounts["/config"]["source"] == "."
    assert all(mount["read_only"] and mount["type"] == "bind" for mount in mounts.values())
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert service["entrypoint"] == ["tensorflow_model_server"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service["user"].startswith("0")
    assert service["mem_limit"] == f"{MEMORY_MIB}m" and service["cpus"] > 0
    kind, shell, option, command = service["healthcheck"]["test"]
    assert (kind, shell, option) == ("CMD", "bash", "-c")
    assert "GET /v1/models/ich/metadata HTTP/1.0\\r\\n\\r\\n" in command and "$" not in command
    assert service["image"] == containers(files)["kubernetes"]["image"]


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ('{"servability": {"peak_mib": 700.5}}', 3072), ('{"servability": {"peak_mib": 3163.4}}', 5120), ("{}", 3072),
        ('{"servability": {}}', 3072), ("{", 3072), ("[]", 3072),
    ],
)  # fmt: skip
def test_a_large_model_gets_the_memory_that_it_was_seen_to_need(tmp_path: Path, card: str, wanted: int) -> None:
    path = served(tmp_path, 5) / "5" / "assets.extra" / "model_card.json"
    path.parent.mkdir()
    path.write_text(card)
    files = render(tmp_path / "serving" / "ich")
    assert parsed(files)["compose.yaml"]["services"]["ich"]["mem_limit"] == f"{wanted}m"
    for container in containers(files).values():
        assert container["resources"]["limits"]["memory"] == f"{wanted}Mi"


@pytest.mark.parametrize("name", ["it's $HOME", 'a "b" #c', "ü: x"])
def test_a_folder_of_any_name_is_mounted(tmp_path: Path, name: str) -> None:
    text = render(served(tmp_path / name, 5))["compose.yaml"]
    (source,) = [mount["source"] for mount in yaml.safe_load(text)["services"]["ich"]["volumes"]
                 if mount["target"] == "/models"]  # fmt: skip
    assert source.replace("$$", "$") == str(tmp_path / name / "serving")
    assert source.count("$") == 2 * name.count("$")


def test_the_command_writes_them_all(tmp_path: Path) -> None:
    served(tmp_path / "output", 5, 6)
    done = ich("manifests", "-o", tmp_path / "made", "--output", tmp_path / "output")
    assert done.returncode == 0, done.stderr
    written = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert written == {*CONFIGS, *MANIFESTS}
    missing = tmp_path / "output" / "serving" / "ich" / "models.config"
    assert done.stdout.split() == [*(str(tmp_path / "made" / name) for name in (*CONFIGS, *MANIFESTS)), str(missing)]
    assert dict(model_config(missing.read_text()).version_labels) == {"stable": 5, "canary": 6}
    # What a push has written is not touched.
    missing.write_text("as pushed")
    again = ich("manifests", "-o", tmp_path / "made", "--output", tmp_path / "output")
    assert str(missing) not in again.stdout and missing.read_text() == "as pushed"
    assert {name: (tmp_path / "made" / name).read_text() for name in written} == render(
        tmp_path / "output" / "serving" / "ich"
    )


def test_without_a_pushed_model_it_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none, wanted a model in service; run `ich run`"):
        model_folder(tmp_path)
    served(tmp_path, 5)
    served(tmp_path, 5, name="other")
    with pytest.raises(UsageError, match="holds the models ich, other; give one of them with --model-name"):
        model_folder(tmp_path)
    assert model_folder(tmp_path, "other").name == "other"
    with pytest.raises(UsageError, match="found ich, other, wanted a model third in service"):
        model_folder(tmp_path, "third")
    with pytest.raises(UsageError, match="found no version"):
        render(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"):
        write_manifests(tmp_path / "serving" / "ich", tmp_path / "file")
