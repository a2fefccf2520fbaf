"""Versions that come, go and break while requests are answered."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from components.imaging.errors import UsageError
from serving.manifests.models_config import models_config
from serving.server import models as models_module
from serving.server.loaded import Loaded
from serving.server.messages import get_model_metadata_pb2, get_model_status_pb2, predict_pb2, tf
from serving.server.models import Models, State, warm_up
from serving.server.predict import answer
from serving.server.refusal import Code, Refusal
from serving.warmup import WARMUP_FILE
from tests.models import contract, unloadable, write_contract
from tests.serving.server.conftest import NETWORKS
from tests.serving.server.running import PATIENCE, Client, eventually, hu, request, running

Push = Callable[[str, int], Path]
MOST = 1 << 30


def states(client: Client, version: int | None = None) -> dict[int, str]:
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "ich"
    if version is not None:
        asked.model_spec.version.value = version
    found = client.model.GetModelStatus(asked, timeout=60).model_version_status
    return {entry.version: State.Name(entry.state) for entry in found}


def probability(response: predict_pb2.PredictResponse) -> np.ndarray:
    return tf.make_ndarray(response.outputs["probability"])


def test_versions_come_and_go_while_requests_run(push: Push) -> None:
    """No request fails, and each answer is wholly of the version that it names."""
    names = {1: "plain", 2: "low", 3: "high", 4: "plain", 5: "low"}
    values = hu(4)
    wanted = {version: NETWORKS[name].numpy(values) for version, name in names.items()}
    folder = push(names[1], 1).parent
    seen: list[int] = []
    failures: list[str] = []
    stop = threading.Event()

    with running(folder, queue=100) as client:

        def ask() -> None:
            while not stop.is_set():
                try:
                    found = client.predict(request({"hu": values}))
                    version = found.model_spec.version.value
                    np.testing.assert_allclose(probability(found), wanted[version], atol=1e-6)
                    seen.append(version)
                except (grpc.RpcError, AssertionError, KeyError) as error:
                    failures.append(repr(error))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            for version in list(names)[1:]:
                push(names[version], version)
                eventually(lambda version=version: bool(failures) or seen[-1:] == [version])  # type: ignore[misc]
            eventually(lambda: states(client) == {5: "AVAILABLE", 4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
        finally:
            stop.set()
            for asker in askers:
                asker.join()
    assert failures == []
    assert set(seen) == set(names)


def test_a_version_that_was_asked_for_by_number_answers_on(push: Push) -> None:
    folder = push("plain", 1).parent
    with running(folder) as client:
        push("low", 2)
        eventually(lambda: states(client).get(2) == "AVAILABLE")
        for version, name in ((1, "plain"), (2, "low")):
            wanted = NETWORKS[name].numpy(hu(2))
            found = client.predict(request({"hu": hu(2)}, version=version))
            assert found.model_spec.version.value == version
            np.testing.assert_allclose(probability(found), wanted, atol=1e-6)
            body = {"signature_name": "predict_slices", "inputs": hu(2).tolist()}
            reply = client.http(f"/v1/models/ich/versions/{version}:predict", body)
            np.testing.assert_allclose(reply.json["outputs"], wanted, atol=1e-6)
        assert states(client, 1) == {1: "AVAILABLE"}
        loaded = 'ich_server_version_loaded{model="ich",version="%d"}'
        assert [client.metric(loaded % version) for version in (1, 2, 3)] == [1, 1, 0]


def by_label(client: Client, label: str) -> int:
    asked = request({"hu": hu(1)})
    asked.model_spec.version_label = label
    return int(client.predict(asked).model_spec.version.value)


def test_labels_without_a_configuration_are_those_of_the_newest_versions(push: Push) -> None:
    folder = push("plain", 1).parent
    with running(folder) as client:
        assert [by_label(client, label) for label in ("stable", "canary")] == [1, 1]
        push("low", 2)
        eventually(lambda: by_label(client, "canary") == 2)
        assert by_label(client, "stable") == 1
        body = {"signature_name": "predict_slices", "inputs": hu(2).tolist()}
        reply = client.http("/v1/models/ich/labels/stable:predict", body)
        np.testing.assert_allclose(reply.json["outputs"], NETWORKS["plain"].numpy(hu(2)), atol=1e-6)
        found = client.http("/v1/models/ich/labels/canary").json["model_version_status"]
        assert [entry["version"] for entry in found] == ["2"]


def test_labels_are_those_of_the_configuration_beside_the_versions(push: Push) -> None:
    folder = push("plain", 1).parent
    push("low", 2)
    (folder / "models.config").write_text(models_config("ich", {"stable": 2, "canary": 1}))
    with running(folder) as client:
        assert [by_label(client, label) for label in ("stable", "canary")] == [2, 1]
        (folder / "models.config").write_text(models_config("ich", {"stable": 2, "canary": 3}))
        eventually(lambda: refusal_of(client, "canary") == grpc.StatusCode.NOT_FOUND)
        push("high", 3)
        eventually(lambda: refusal_of(client, "canary") is None)
        assert by_label(client, "canary") == 3


def refusal_of(client: Client, label: str) -> grpc.StatusCode | None:
    try:
        by_label(client, label)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_a_version_answers_only_once_it_is_warm(push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = push("plain", 1).parent
    with running(folder) as client:
        warm = threading.Event()

        def held(path: Path, loaded: Loaded) -> None:
            assert warm.wait(PATIENCE)
            warm_up(path, loaded)

        monkeypatch.setattr(models_module, "warm_up", held)
        push("low", 2)
        try:
            eventually(lambda: states(client).get(2) == "LOADING")
            assert client.predict(request({"hu": hu(1)})).model_spec.version.value == 1
            assert client.http("/v1/models/ich/versions/2/metadata").status == 404
        finally:
            warm.set()
        eventually(lambda: client.predict(request({"hu": hu(1)})).model_spec.version.value == 2)


def test_a_broken_version_is_refused_and_the_old_one_goes_on(
    push: Push, exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = push("plain", 1).parent
    with running(folder) as client:
        unloadable(folder / "2")
        eventually(lambda: states(client).get(2) == "END")
        assert client.predict(request({"hu": hu(1)})).model_spec.version.value == 1
        tree = client.http("/v1/models/ich/versions/2").json["model_version_status"]
        assert tree[0]["state"] == "END"
        assert tree[0]["status"]["error_code"] == "UNKNOWN"
        assert "cannot be loaded" in tree[0]["status"]["error_message"]
        with pytest.raises(grpc.RpcError) as caught:
            client.predict(request({"hu": hu(1)}, version=2))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        # It is not tried again and again, but it is once its files are others.
        push("low", 3)
        eventually(lambda: states(client).get(3) == "AVAILABLE")
        assert client.metric("ich_server_load_failures_total") == 1
        shutil.copytree(exported["high"], folder / "2", dirs_exist_ok=True)
        shutil.rmtree(folder / "3")
        eventually(lambda: states(client).get(2) == "AVAILABLE")
        assert states(client)[3] == "END"


def test_a_version_that_is_still_being_copied_is_left_alone(push: Push, exported: dict[str, Path]) -> None:
    models = Models(push("plain", 1).parent)
    assert models.root is not None
    part = models.root / "2"
    shutil.copytree(exported["low"], part, ignore=shutil.ignore_patterns("saved_model.pb"))
    models.scan()
    assert [entry.number for entry in models.status("ich", None)] == [1]
    shutil.copy(exported["low"] / "saved_model.pb", part)
    models.scan()
    assert models.numbers() == [1, 2]


def test_an_old_version_stays_until_its_last_request_is_answered(push: Push) -> None:
    models = Models(push("plain", 1).parent, keep_versions=1)
    first, give_back = models.lease("ich", 1)
    second, give_back_too = models.lease("ich", None)
    push("low", 2)
    models.scan()
    assert models.numbers() == [2]
    assert [entry.state for entry in models.status("ich", None)] == [State.AVAILABLE, State.UNLOADING]
    with pytest.raises(Refusal, match="no version 1 of model ich answers") as caught:
        models.lease("ich", 1)
    assert caught.value.code is Code.NOT_FOUND
    found = answer(first, request({"hu": hu(1)}), MOST)
    np.testing.assert_allclose(probability(found), NETWORKS["plain"].numpy(hu(1)), atol=1e-6)
    give_back()
    assert models.status("ich", 1)[0].state == State.UNLOADING
    give_back_too()
    assert second is first
    assert models.status("ich", 1)[0].state == State.END


def test_a_version_on_its_way_out_comes_back_where_it_is_wanted_again(push: Push) -> None:
    models = Models(push("plain", 1).parent, keep_versions=1)
    before, give_back = models.lease("ich", 1)
    newer = push("low", 2)
    models.scan()
    shutil.rmtree(newer)
    models.scan()
    give_back()
    after, _ = models.lease("ich", None)
    assert after is before


def test_removed_versions_are_unloaded_but_not_when_the_whole_folder_is_away(push: Push, tmp_path: Path) -> None:
    root = push("plain", 1).parent
    push("low", 2)
    models = Models(root)
    root.rename(tmp_path / "away")  # a network drive that is down
    models.scan()
    assert models.numbers() == [1, 2]
    (tmp_path / "away").rename(root)
    shutil.rmtree(root / "2")
    models.scan()
    assert models.numbers() == [1]
    shutil.rmtree(root / "1")
    models.scan()
    assert models.numbers() == []
    with pytest.raises(Refusal, match="no version of model ich answers"):
        models.lease("ich", None)


def test_versions_may_be_links_and_need_fit_into_64_bits(exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "ich").mkdir()
    for name, version in (("plain", 4), ("low", 5), ("high", 1 << 63)):
        (tmp_path / "ich" / str(version)).symlink_to(exported[name])
    assert Models(tmp_path / "ich").numbers() == [4, 5]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_latest_are_loaded(push: Push, keep: int) -> None:
    for version in (1, 9, 10):
        folder = push("plain", version).parent
    assert Models(folder, keep_versions=keep).numbers() == [1, 9, 10][-keep:]


def test_what_cannot_be_served_is_skipped_at_the_start(push: Push, caplog: pytest.LogCaptureFixture) -> None:
    folder = push("plain", 1).parent
    unloadable(folder / "2")
    failures = []
    with caplog.at_level(logging.INFO, "serving.server"):
        assert Models(folder, failed=lambda: failures.append(1)).numbers() == [1]
    assert len(failures) == 1
    assert "version 2 is not taken into service: the model cannot be loaded" in caplog.text


def test_a_version_of_another_model_is_refused(push: Push) -> None:
    models = Models(push("plain", 1).parent)
    write_contract(push("low", 2), contract(model_name="other"))
    models.scan()
    assert models.numbers() == [1]
    assert "names another model than ich" in models.status("ich", 2)[0].error


@pytest.mark.parametrize("content", [b"text, and longer than a record's head", b"", None])
def test_warm_up(push: Push, content: bytes | None) -> None:
    """A version whose requests cannot be read is refused; one without any is warmed up all the same."""
    models = Models(push("plain", 1).parent)
    path = push("low", 2) / WARMUP_FILE
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    models.scan()
    assert models.numbers() == ([1] if content else [1, 2])
    if content:
        assert WARMUP_FILE in models.status("ich", 2)[0].error


def test_a_version_that_cannot_compute_its_warm_up_is_refused(push: Push, exported: dict[str, Path]) -> None:
    models = Models(push("plain", 1).parent)
    shutil.copy(exported["brain"] / WARMUP_FILE, push("low", 2) / WARMUP_FILE)
    models.scan()
    assert models.numbers() == [1]
    assert "unknown" in models.status("ich", 2)[0].error


@pytest.mark.parametrize("made", ["nothing", "broken", "empty"])
def test_no_model_to_serve(tmp_path: Path, made: str) -> None:
    if made == "broken":
        unloadable(tmp_path / "ich" / "3")
    elif made == "empty":
        (tmp_path / "ich").mkdir()
    with pytest.raises(UsageError) as caught:
        Models(tmp_path / "ich")
    assert str(tmp_path / "ich") in str(caught.value)
    assert ("cannot be loaded" if made == "broken" else "no model there") in str(caught.value)


def test_one_savedmodel_has_its_folders_number_or_1(push: Push, exported: dict[str, Path]) -> None:
    folder = push("plain", 12)
    alone = Models(folder)
    push("low", 13)
    alone.scan()
    assert alone.numbers() == [12]
    assert Models(exported["plain"]).numbers() == [1]


# --- what the interfaces say of it


def test_status_over_rest_is_that_of_tensorflow_serving(client: Client) -> None:
    wanted = {
        "model_version_status": [
            {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in ("/v1/models/ich", "/v1/models/ich/versions/7", "/v1/models/ich/versions/007"):
        assert client.http(path).json == wanted
    for path in ("/v1/models/x", "/v1/models/ich/versions/8", "/v1/models/ich/versions/8/metadata"):
        assert client.http(path).status == 404


def test_metadata(client: Client) -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest()
    asked.model_spec.name = "ich"
    asked.metadata_field.append("signature_def")
    found = client.prediction.GetModelMetadata(asked, timeout=60)
    assert (found.model_spec.name, found.model_spec.version.value) == ("ich", 7)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert found.metadata["signature_def"].Unpack(signatures)
    info = signatures.signature_def["predict_slices"].inputs["hu"]
    assert [dim.size for dim in info.tensor_shape.dim] == [-1, 1, 32, 32]
    tree = client.http("/v1/models/ich/metadata").json
    assert tree["model_spec"] == {"name": "ich", "signature_name": "", "version": "7"}
    said = tree["metadata"]["signature_def"]["signature_def"]["predict_slices"]
    assert said["method_name"] == "tensorflow/serving/predict"
    assert said["inputs"]["hu"]["dtype"] == "DT_INT16"
    assert [dim["size"] for dim in said["inputs"]["hu"]["tensor_shape"]["dim"]] == ["-1", "1", "32", "32"]


@pytest.mark.parametrize("fields", [[], ["other"], ["signature_def", "other"]])
def test_other_metadata(client: Client, fields: list[str]) -> None:
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    asked.model_spec.name = "ich"
    with pytest.raises(grpc.RpcError, match="signature_def") as caught:
        client.prediction.GetModelMetadata(asked, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "version", "code"), [("", None, "INVALID_ARGUMENT"), ("x", None, "NOT_FOUND"), ("ich", 8, "NOT_FOUND")]
)
def test_unknown_over_grpc(client: Client, name: str, version: int | None, code: str) -> None:
    status = get_model_status_pb2.GetModelStatusRequest()
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    for asked, call in ((status, client.model.GetModelStatus), (metadata, client.prediction.GetModelMetadata)):
        asked.model_spec.name = name
        if version is not None:
            asked.model_spec.version.value = version
        with pytest.raises(grpc.RpcError) as caught:
            call(asked, timeout=60)
        assert caught.value.code().name == code
