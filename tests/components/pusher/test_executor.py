"""Putting a model in service: layout, versions, and what a watcher of the folder gets to see."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfx import types
from tfx.types import standard_artifacts

from components.pusher import executor as module
from components.pusher import place
from components.pusher.component import Pusher
from components.storage.filesystem import _Upload
from components.storage.served import served_contract, served_versions
from components.types import DataReport
from serving.manifests.models_config import read_labels
from serving.versions import CARD_FILES, read_contract, versions
from tests.buckets import Bucket
from tests.components.pusher.test_card import SERVED
from tests.components.run_report.runs import cohort, measured_cases, verdict
from tests.models import unloadable

NOW = 1_700_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the pusher sees; change the only element."""
    now = [float(NOW) + 0.9]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


def candidate(folder: Path, **contract: Any) -> Any:
    """A Model artifact."""
    artifact = standard_artifacts.Model()
    artifact.uri = str(folder)
    unloadable(folder / "Format-Serving", **contract)
    (folder / "Format-Serving" / "variables").mkdir()
    (folder / "Format-Serving" / "variables" / "variables.index").write_bytes(repr(contract).encode())
    return artifact


def push(
    model: Any, base: Path | str, into: Path, *, blessed: bool = True, servable: bool = True, findings: str = "[]"
) -> Any:
    """Runs the executor with the component's own properties; returns the PushedModel artifact."""
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = f"{into}-blessing"
    Path(blessing.uri).mkdir(parents=True)
    (Path(blessing.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(blessed))
    served = standard_artifacts.InfraBlessing()
    served.uri = f"{into}-servability"
    Path(served.uri).mkdir()
    (Path(served.uri) / "servability.json").write_text(json.dumps({"measures": SERVED}))
    served.set_int_custom_property("blessed", int(servable))
    report = DataReport()
    report.uri = f"{into}-report"
    Path(report.uri).mkdir()
    (Path(report.uri) / "findings.json").write_text(findings)
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(into)
    evaluation, examples = standard_artifacts.ModelEvaluation(), standard_artifacts.Examples()
    found, measures = cohort(4)
    for artifact, name, content in (
        (evaluation, "verdict.json", verdict(measures, measured_cases(found))), (examples, "cases.json", found),
    ):  # fmt: skip
        artifact.uri = f"{into}-{name}"
        Path(artifact.uri).mkdir()
        (Path(artifact.uri) / name).write_text(json.dumps(content))
    inputs = {
        "model": [model], "model_blessing": [blessing], "infra_blessing": [served], "data_report": [report],
        "evaluation": [evaluation], "examples": [examples],
    }  # fmt: skip
    component = Pusher(
        **{name: types.channel_utils.as_channel(artifacts) for name, artifacts in inputs.items()},
        folder=str(base),
        config=json.dumps({"training": {"seed": 7}}),
        code_version="1",
    )
    executor = component.executor_spec.executor_class()
    executor.Do(inputs, {"pushed_model": [pushed]}, dict(component.exec_properties))
    return pushed


def files(folder: Path, *, cards: bool = True, below: str = "") -> dict[str, bytes]:
    """Contents by path, with or without the models' cards; only of what lies below a folder in it, if named."""
    found = {name: text for name, text in _files(folder).items() if name.startswith(below)}
    return found if cards else {name: text for name, text in found.items() if not name.endswith(CARD_FILES)}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copying_with(copy: Callable[..., Any], patch: pytest.MonkeyPatch) -> None:
    """Makes `shutil.copytree` copy each file with `copy`."""
    symlinks, ignore, _, dangling, exist_ok = shutil.copytree.__defaults__ or ()
    patch.setattr(shutil.copytree, "__defaults__", (symlinks, ignore, copy, dangling, exist_ok))


def test_the_layout_that_tf_serving_watches(tmp_path: Path) -> None:
    model = candidate(tmp_path / "model")
    base = tmp_path / "serving" / "ich"  # not there yet
    pushed = push(model, base, tmp_path / "pushed")
    assert sorted(path.name for path in base.iterdir()) == [str(NOW), "models.config"]
    assert files(base / str(NOW), cards=False) == files(tmp_path / "model" / "Format-Serving")
    assert set(files(base / str(NOW))) == {
        "saved_model.pb", "variables/variables.index", "assets.extra/contract.json", "assets.extra/model_card.md",
        "assets.extra/model_card.json",
    }  # fmt: skip
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_destination") == str(base / str(NOW))
    assert pushed.get_string_custom_property("pushed_version") == str(NOW)
    assert files(tmp_path / "pushed") == files(base / str(NOW))


def test_a_model_that_is_not_blessed_stays_out(tmp_path: Path) -> None:
    pushed = push(candidate(tmp_path / "model"), tmp_path / "serving", tmp_path / "pushed", blessed=False)
    assert not (tmp_path / "serving").exists()
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("pushed_version") == ""


@pytest.mark.parametrize("base", ["serving", "ram://unservable/ich"])
def test_a_model_that_cannot_be_served_stays_out(tmp_path: Path, base: str) -> None:
    import tensorflow as tf

    base = base if "://" in base else str(tmp_path / base)
    pushed = push(candidate(tmp_path / "model"), base, tmp_path / "pushed", servable=False)
    assert not tf.io.gfile.exists(base)
    assert pushed.get_int_custom_property("pushed") == 0


@pytest.mark.parametrize(("severities", "pushes"), [((), 1), (("note",), 1), (("note", "hold"), 0), (("stop",), 0)])
def test_a_finding_against_the_data_holds_a_blessed_model(
    tmp_path: Path, severities: tuple[str, ...], pushes: int
) -> None:
    findings = json.dumps([{"severity": severity} for severity in severities])
    pushed = push(candidate(tmp_path / "model"), tmp_path / "serving", tmp_path / "pushed", findings=findings)
    assert pushed.get_int_custom_property("pushed") == pushes
    assert len(versions(tmp_path / "serving")) == pushes


def test_the_same_export_is_not_pushed_twice(tmp_path: Path, clock: list[float]) -> None:
    push(candidate(tmp_path / "one"), tmp_path / "serving", tmp_path / "p1")
    clock[0] += 100
    again = push(candidate(tmp_path / "two"), tmp_path / "serving", tmp_path / "p2")
    assert [path.name for path in versions(tmp_path / "serving")] == [str(NOW)]
    assert again.get_int_custom_property("pushed") == 1
    assert again.get_string_custom_property("pushed_version") == str(NOW)


def test_another_model_becomes_a_newer_version(tmp_path: Path, clock: list[float]) -> None:
    push(candidate(tmp_path / "one"), tmp_path / "serving", tmp_path / "p1")
    clock[0] += 100
    push(candidate(tmp_path / "two", config_fingerprint="other"), tmp_path / "serving", tmp_path / "p2")
    old, new = versions(tmp_path / "serving")
    assert (int(old.name), int(new.name)) == (NOW, NOW + 100)
    assert read_contract(new).config_fingerprint == "other"
    assert read_contract(old).config_fingerprint != "other"


def test_labels_move_with_each_push(tmp_path: Path, clock: list[float]) -> None:
    base = tmp_path / "serving" / "ich"
    for number, labels in enumerate(
        ({"stable": 0, "canary": 0}, {"stable": 0, "canary": 9}, {"stable": 9, "canary": 18})
    ):
        push(candidate(tmp_path / str(number), data_fingerprint=str(number)), base, tmp_path / f"p{number}")
        text = (base / "models.config").read_text()
        assert read_labels(text) == {label: NOW + later for label, later in labels.items()}
        assert 'base_path: "/models/ich"' in text
        clock[0] += 9


def test_going_back_to_an_older_model_is_a_new_version(tmp_path: Path, clock: list[float]) -> None:
    for number, name in enumerate(("first", "second", "first")):
        clock[0] += 10
        push(candidate(tmp_path / str(number), data_fingerprint=name), tmp_path / "serving", tmp_path / f"p{number}")
    assert [read_contract(path).data_fingerprint for path in versions(tmp_path / "serving")] == [
        "first", "second", "first"
    ]  # fmt: skip


@pytest.mark.parametrize("moved", [0, -3600, -NOW])
def test_versions_increase_when_the_clock_stands_or_goes_back(tmp_path: Path, clock: list[float], moved: int) -> None:
    for number in range(3):
        model = candidate(tmp_path / str(number), data_fingerprint=str(number))
        push(model, tmp_path / "serving", tmp_path / f"p{number}")
        clock[0] += moved
    found = versions(tmp_path / "serving")
    assert [int(path.name) for path in found] == [NOW, NOW + 1, NOW + 2]
    assert [read_contract(path).data_fingerprint for path in found] == ["0", "1", "2"]


def test_a_version_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files are copied the watcher finds no new folder with a number for a name."""
    base = tmp_path / "serving"
    seen: list[list[str]] = []

    def copy(source: str, target: str, **options: Any) -> Any:
        seen.append([path.name for path in base.iterdir() if path.name.isdecimal()])
        return shutil.copy2(source, target, **options)

    copying_with(copy, monkeypatch)
    push(candidate(tmp_path / "model"), base, tmp_path / "pushed")
    assert seen[:3] == [[], [], []]  # the version's three files
    assert seen[3:] == [[str(NOW)]] * 5  # the copy for the artifact, with the card, comes after


def test_the_card_is_there_as_soon_as_the_version_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, at_rename = Path.rename, []

    def note(path: Path, target: Path) -> Path:
        at_rename.append(sorted(files(path)))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note)
    push(candidate(tmp_path / "model"), tmp_path / "serving", tmp_path / "pushed")
    assert len(at_rename) == 1 and set(CARD_FILES) <= set(at_rename[0])


def test_the_card_tells_of_this_push(tmp_path: Path) -> None:
    push(candidate(tmp_path / "model"), tmp_path / "serving", tmp_path / "pushed")
    version = tmp_path / "serving" / str(NOW)
    card = json.loads((version / CARD_FILES[1]).read_text())
    assert (card["version"], card["pushed"]) == (str(NOW), "2023-11-14 22:13 UTC")
    assert card["recipe"] == {"training": {"seed": 7}}
    assert card["config_fingerprint"] == read_contract(version).config_fingerprint
    assert card["measures"]["dice"]["n"] == 4
    assert card["servability"] == SERVED
    assert f"# ich, version {NOW}" in (version / CARD_FILES[0]).read_text()


def test_a_card_that_cannot_be_made_leaves_the_old_model_in_service(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "serving"
    push(candidate(tmp_path / "one"), base, tmp_path / "p1")
    before = files(base)
    clock[0] += 100

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        push(candidate(tmp_path / "two", config_fingerprint="other"), base, tmp_path / "p2")
    assert files(base) == before
    assert sorted(path.name for path in base.iterdir()) == [str(NOW), "models.config"]


def test_a_remote_folder_receives_the_card_too(tmp_path: Path) -> None:
    import tensorflow as tf

    base = "ram://serving/ich"
    refused = push(candidate(tmp_path / "one"), base, tmp_path / "p1", blessed=False)
    assert refused.get_int_custom_property("pushed") == 0 and not tf.io.gfile.exists(base)
    pushed = push(candidate(tmp_path / "two"), base, tmp_path / "p2")
    version = pushed.get_string_custom_property("pushed_version")
    with tf.io.gfile.GFile(f"{base}/{version}/{CARD_FILES[1]}") as file:
        assert json.loads(file.read())["version"] == version
    assert tf.io.gfile.exists(f"{base}/{version}/saved_model.pb")
    with tf.io.gfile.GFile(f"{base}/models.config") as file:
        assert read_labels(file.read()) == {"stable": int(version), "canary": int(version)}


def test_a_bucket_receives_what_a_folder_does(tmp_path: Path, bucket: Bucket, clock: list[float]) -> None:
    base = bucket.uri("serving/ich")
    model = candidate(tmp_path / "one")
    pushed = push(model, base, tmp_path / "p1")
    push(model, tmp_path / "serving" / "ich", tmp_path / "p2")
    assert {key: bucket.get(key) for key in bucket.names()} == files(tmp_path, below="serving")
    assert pushed.get_string_custom_property("pushed_destination") == f"{base}/{NOW}"
    assert pushed.get_string_custom_property("pushed_version") == str(NOW)
    assert files(tmp_path / "p1") == files(tmp_path / "serving" / "ich" / str(NOW))
    before = bucket.names()
    clock[0] += 100
    again = push(candidate(tmp_path / "again"), base, tmp_path / "p3")  # the same export
    assert bucket.names() == before and again.get_string_custom_property("pushed_version") == str(NOW)
    assert files(tmp_path / "p3") == files(tmp_path / "p1")


def test_in_a_bucket_the_model_file_comes_last_and_labels_after_it(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = _Upload._send

    def note(upload: _Upload) -> None:
        send(upload)
        sent.append(str(upload._uri).rpartition("/ich/")[2])

    monkeypatch.setattr(_Upload, "_send", note)
    push(candidate(tmp_path / "one"), bucket.uri("ich"), tmp_path / "p1")
    assert sent[-2:] == [f"{NOW}/saved_model.pb", "models.config"]
    assert sorted(sent[:-2]) == sorted(
        f"{NOW}/{name}" for name in (*CARD_FILES, "assets.extra/contract.json", "variables/variables.index")
    )


@pytest.mark.parametrize("after", [0, 2, 4])
def test_an_upload_that_is_killed_is_no_version_and_the_next_goes_behind_it(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, clock: list[float], after: int
) -> None:
    base = bucket.uri("ich")
    push(candidate(tmp_path / "one"), base, tmp_path / "p1")
    new = candidate(tmp_path / "two", config_fingerprint="other")
    clock[0] += 100
    sent: list[Any] = []
    send = _Upload._send

    def die(upload: _Upload) -> None:
        if len(sent) == after:
            raise KeyboardInterrupt
        sent.append(upload)
        send(upload)

    with monkeypatch.context() as patch:
        patch.setattr(_Upload, "_send", die)
        with pytest.raises(KeyboardInterrupt):
            push(new, base, tmp_path / "p2")
    assert served_versions(base) == [f"{base}/{NOW}"]
    push(new, base, tmp_path / "p3")  # within the same second
    wanted = NOW + 100 + (after > 0)
    assert served_versions(base) == [f"{base}/{NOW}", f"{base}/{wanted}"]
    assert served_contract(f"{base}/{wanted}").config_fingerprint == "other"
    assert read_labels(bucket.get("ich/models.config").decode()) == {"stable": NOW, "canary": wanted}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_copy_that_fails_midway_leaves_the_old_model_and_nothing_else(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    base = tmp_path / "serving"
    push(candidate(tmp_path / "one"), base, tmp_path / "p1")
    before = files(base)
    new = candidate(tmp_path / "two", config_fingerprint="other")
    clock[0] += 100
    copied: list[str] = []

    def copy(source: str, target: str, **options: Any) -> Any:
        if len(copied) == after:
            raise OSError(errno.ENOSPC, "No space left on device", target)
        copied.append(source)
        return shutil.copy2(source, target, **options)

    with monkeypatch.context() as patch:
        copying_with(copy, patch)
        with pytest.raises(OSError, match="No space left"):
            push(new, base, tmp_path / "p2")
    assert files(base) == before
    assert [path.name for path in versions(base)] == [str(NOW)]
    assert sorted(path.name for path in base.iterdir()) == [str(NOW), "models.config"]

    clock[0] += 100
    push(new, base, tmp_path / "p3")
    assert [path.name for path in versions(base)] == [str(NOW), str(NOW + 200)]


def test_leftovers_of_a_killed_push_are_cleaned(tmp_path: Path) -> None:
    base = tmp_path / "serving"
    unloadable(base / ".1600000000.part")
    unloadable(base / f".{NOW}.part", data_fingerprint="half")
    (base / f".{NOW}.part" / "stray").touch()
    (base / ".models.config.x7z.part").touch()
    (base / ".keep").touch()  # not ours
    (base / ".models.config.x1.part").touch()  # of one that was killed as it moved the labels
    push(candidate(tmp_path / "model"), base, tmp_path / "pushed")
    assert sorted(path.name for path in base.iterdir()) == [".keep", str(NOW), "models.config"]
    assert files(base / str(NOW), cards=False) == files(tmp_path / "model" / "Format-Serving")


def test_a_broken_model_in_service_does_not_stop_a_push(tmp_path: Path) -> None:
    base = tmp_path / "serving"
    unloadable(base / "5")
    (base / "5" / "assets.extra" / "contract.json").write_text("{")
    push(candidate(tmp_path / "model"), base, tmp_path / "pushed")
    assert [path.name for path in versions(base)] == ["5", str(NOW)]


def test_a_numbered_folder_without_a_model_is_neither_touched_nor_ahead(tmp_path: Path) -> None:
    base = tmp_path / "serving"
    (base / str(NOW + 50)).mkdir(parents=True)
    (base / str(NOW + 50) / "notes").touch()
    push(candidate(tmp_path / "model"), base, tmp_path / "pushed")
    assert [path.name for path in versions(base)] == [str(NOW + 51)]
    assert [path.name for path in (base / str(NOW + 50)).iterdir()] == ["notes"]


def test_the_code_version_is_part_of_the_cache_key() -> None:
    channels = {
        "model": types.channel_utils.as_channel([standard_artifacts.Model()]),
        "model_blessing": types.channel_utils.as_channel([standard_artifacts.ModelBlessing()]),
        "infra_blessing": types.channel_utils.as_channel([standard_artifacts.InfraBlessing()]),
        "data_report": types.channel_utils.as_channel([DataReport()]),
        "evaluation": types.channel_utils.as_channel([standard_artifacts.ModelEvaluation()]),
        "examples": types.channel_utils.as_channel([standard_artifacts.Examples()]),
    }
    one, two = (Pusher(**channels, folder="f", config="{}", code_version=version) for version in ("1", "2"))
    assert one.exec_properties != two.exec_properties
    assert json.loads(one.exec_properties["push_destination"])["filesystem"] == {"base_directory": "f"}
