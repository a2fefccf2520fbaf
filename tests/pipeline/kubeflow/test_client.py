"""Runs and schedules on a fake cluster: what is made, what is not made twice, and what a failure leaves behind."""

from __future__ import annotations

import datetime
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
import pytest

from components.imaging.errors import IchError, UsageError
from pipeline.config import Config
from pipeline.kubeflow.client import CREATED, REPLACED, UNCHANGED, Client, Scheduled
from pipeline.kubeflow.connection import ApiError
from pipeline.schedule import Times
from tests.pipeline.kubeflow.fake_api import START, FakeApi, Fault

Configure = Callable[..., Config]
MONDAYS, DAILY = Times.parse("0 3 * * 1"), Times.parse("@daily")


def client(config: Config) -> Client:
    return Client(config, now=lambda: START)


def schedule(config: Config, package: Path, times: Times = MONDAYS, name: str = "demo", **options: Any) -> Scheduled:
    return client(config).schedule(package, name, times, **options)


# --- submit


def test_a_run_is_started(api: FakeApi, config: Configure, packages: list[Path], host: str) -> None:
    own = config("kubeflow.pipeline_root=s3://bucket/root", "kubeflow.service_account=trainer")
    started = client(own).submit(packages[0])
    [run], [experiment], [pipeline], [version] = (
        list(kind.values()) for kind in (api.runs, api.experiments, api.pipelines, api.versions)
    )
    assert started.run == run.run_id and started.url == f"{host}/#/runs/details/{run.run_id}"
    assert started.name == run.display_name and started.name.startswith("demo-20260105T120000-")
    assert run.experiment_id == experiment.experiment_id and experiment.display_name == "demo"
    assert run.pipeline_version_reference.pipeline_id == pipeline.pipeline_id
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert started.version == version.display_name == hashlib.sha256(packages[0].read_bytes()).hexdigest()[:16]
    assert run.runtime_config.pipeline_root == "s3://bucket/root"  # what is compiled does not hold it
    assert run.service_account == "trainer"


def test_the_same_content_is_uploaded_once(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    for package in (packages[0], packages[0], packages[1], packages[0]):
        client(config()).submit(package)
    assert api.made() == {"experiments": 1, "pipelines": 1, "versions": 2, "recurring_runs": 0, "runs": 4}
    used = [run.pipeline_version_reference.pipeline_version_id for run in api.runs.values()]
    assert used[0] == used[1] == used[3] != used[2]


def test_names_and_namespace_are_the_configs(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    api.multi_user = True
    own = config("name=my_hospital", "kubeflow.namespace=team", "kubeflow.experiment=Head CT")
    client(own).submit(packages[0])
    [experiment], [pipeline] = api.experiments.values(), api.pipelines.values()
    assert (experiment.display_name, experiment.namespace) == ("Head CT", "team")
    assert (pipeline.display_name, pipeline.namespace) == ("my-hospital", "team")  # as the pipeline itself is named


def test_without_a_namespace_where_users_have_their_own(api: FakeApi, config: Configure) -> None:
    api.multi_user = True
    with pytest.raises(UsageError, match=r"users have namespaces of their own .* kubeflow\.namespace"):
        client(config())


def test_an_archived_experiment_takes_nothing(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    client(config()).submit(packages[0])
    [experiment] = api.experiments.values()
    experiment.storage_state = kfp.V2beta1ExperimentStorageState.ARCHIVED
    with pytest.raises(IchError, match="experiment demo is archived; restore it"):
        client(config()).submit(packages[0])
    assert len(api.runs) == 1


# --- schedule


def test_a_schedule_is_made(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    done = schedule(config("kubeflow.pipeline_root=gs://bucket"), packages[0], catch_up=False)
    [made], [version] = api.recurring_runs.values(), api.versions.values()
    assert (done.how, done.id) == (CREATED, made.recurring_run_id)
    assert done.next_due == datetime.datetime(2026, 1, 12, 3, tzinfo=datetime.UTC)
    assert made.display_name == "demo" and made.status == "ENABLED"
    assert made.trigger.cron_schedule.cron == "0 0 3 * * 1"
    assert made.max_concurrency == "1" and made.no_catchup is True
    assert made.runtime_config.pipeline_root == "gs://bucket"
    assert made.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id


def test_the_same_again_changes_nothing(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    first = schedule(config(), packages[0])
    written = [one for one in api.asked if one.method != "GET"]
    again = schedule(config(), packages[0])
    assert (again.how, again.id) == (UNCHANGED, first.id)
    assert [one for one in api.asked if one.method != "GET"] == written


@pytest.mark.parametrize(
    ("settings", "package", "times", "options"),
    [
        ([], 0, DAILY, {}),
        ([], 1, MONDAYS, {}),
        ([], 0, MONDAYS, {"catch_up": False}),
        (["kubeflow.pipeline_root=s3://other"], 0, MONDAYS, {}),
        (["kubeflow.service_account=other"], 0, MONDAYS, {}),
    ],
)
def test_another_of_the_same_name_replaces(
    api: FakeApi,
    config: Configure,
    packages: list[Path],
    settings: list[str],
    package: int,
    times: Times,
    options: dict[str, Any],
) -> None:
    first = schedule(config(), packages[0])
    other = schedule(config(), packages[0], name="other")
    under_way = api.go_off(first.id)
    done = schedule(config(*settings), packages[package], times, **options)
    assert done.how == REPLACED
    assert set(api.recurring_runs) == {done.id, other.id} and done.id != first.id
    assert under_way in api.runs, "a run that is under way must not go with its schedule"
    posted = max(i for i, one in enumerate(api.asked) if one.method == "POST")
    deleted = min(i for i, one in enumerate(api.asked) if one.method == "DELETE")
    assert posted < deleted, "never without a schedule"


def test_a_disabled_schedule_is_replaced(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    """Enabled again it would make up for everything that it missed."""
    first = schedule(config(), packages[0])
    api.recurring_runs[first.id].status = "DISABLED"
    done = schedule(config(), packages[0])
    assert done.how == REPLACED
    assert {key: one.status for key, one in api.recurring_runs.items()} == {done.id: "ENABLED"}


@pytest.mark.parametrize("tick", [0, 1])
def test_after_a_crash_between_the_two_one_is_left(
    api: FakeApi, config: Configure, packages: list[Path], tick: int
) -> None:
    api.tick = tick  # within one second the server's times do not tell which is newer
    first = schedule(config(), packages[0])
    api.faults.append(Fault("DELETE", "recurringruns", times=99))
    with pytest.raises(ApiError, match=rf"cannot delete the schedule demo \({first.id}\): 503"):
        schedule(config(), packages[0], DAILY)
    assert len(api.recurring_runs) == 2
    api.faults.clear()
    done = schedule(config(), packages[0], DAILY)
    assert done.how == UNCHANGED and set(api.recurring_runs) == {done.id} and done.id != first.id
    assert api.recurring_runs[done.id].trigger.cron_schedule.cron == "0 0 0 * * *"


def test_many_schedules_of_one_name_become_one(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    """More than fit on one page of the list, beside others that stay."""
    first = schedule(config(), packages[0])
    other = schedule(config(), packages[0], name="zz")
    for number in range(5):
        copy = kfp.V2beta1RecurringRun(**{**api.recurring_runs[first.id].to_dict(), "description": "by hand"})
        copy.recurring_run_id = f"copy{number}"
        api.recurring_runs[copy.recurring_run_id] = copy
    done = schedule(config(), packages[0])
    assert (done.how, done.id) == (UNCHANGED, first.id)
    assert set(api.recurring_runs) == {first.id, other.id}


def test_two_at_the_same_time_are_noticed(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    schedule(config(), packages[0], name="other")  # experiment and pipeline are there
    both = threading.Barrier(2)
    create = api._create_recurring

    def together(asked: Any) -> Any:
        api._lock.release()
        both.wait(10)
        api._lock.acquire()
        return create(asked)

    api._create_recurring = together  # type: ignore[method-assign]
    outcomes: list[Any] = []

    def one(times: Times) -> None:
        try:
            outcomes.append(schedule(config(), packages[0], times).how)
        except IchError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=one, args=(times,)) for times in (MONDAYS, DAILY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("2 schedules are named demo now, wanted one" in outcome for outcome in outcomes), outcomes
    api._create_recurring = create  # type: ignore[method-assign]
    done = schedule(config(), packages[0], DAILY)
    assert [one.recurring_run_id for one in api.recurring_runs.values() if one.display_name == "demo"] == [done.id]


def test_a_day_that_never_comes_is_refused(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"'0 3 30 2 \*': is due on no day of the next five years"):
        schedule(config(), packages[0], Times.parse("0 3 30 2 *"))
    assert not api.recurring_runs


# --- unschedule


def test_all_of_a_name_are_taken_away(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    first = schedule(config(), packages[0])
    other = schedule(config(), packages[0], name="other")
    copy = kfp.V2beta1RecurringRun(**api.recurring_runs[first.id].to_dict())
    copy.recurring_run_id = "copy"
    api.recurring_runs["copy"] = copy
    under_way = api.go_off(first.id)
    assert client(config()).unschedule("demo") == 2
    assert set(api.recurring_runs) == {other.id}
    assert under_way in api.runs
    assert client(config()).unschedule("demo") == 0


def test_nothing_is_made_to_take_nothing_away(api: FakeApi, config: Configure) -> None:
    assert client(config()).unschedule("demo") == 0
    assert client(config()).listing(10)["schedules"] == []
    assert api.made().total() == 0


def test_a_schedule_that_is_gone_meanwhile_is_as_good(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    schedule(config(), packages[0])
    # Deleted, but the answer is lost: the second attempt finds nothing.
    api.faults.append(Fault("DELETE", "recurringruns", times=1, when="after"))
    assert client(config()).unschedule("demo") == 1
    assert not api.recurring_runs and api.count("DELETE", "recurringruns") == 2


# --- list


def test_schedules_and_runs_are_listed(api: FakeApi, config: Configure, packages: list[Path], host: str) -> None:
    nightly = schedule(config(), packages[0], DAILY, name="nightly", catch_up=False)
    weekly = schedule(config(), packages[0])
    api.recurring_runs[nightly.id].status = "DISABLED"
    api.recurring_runs[weekly.id].trigger.cron_schedule.cron = "0 0 3 ? * MON"  # by hand, in Kubeflow's own words
    half = schedule(config(), packages[0], Times.parse("*/30 8-9 13 * 5"), name="half")
    first = client(config()).submit(packages[0])
    api.runs[first.run].state = "SUCCEEDED"
    api.runs[first.run].finished_at = START + datetime.timedelta(hours=1)
    second = api.go_off(weekly.id)
    api.runs[second].error = kfp.GoogleRpcStatus(code=3, message="no such bucket")
    found = client(config()).listing(10)
    assert (found["host"], found["experiment"], found["namespace"]) == (host, "demo", None)
    shown = [(one["name"], one["enabled"], one["catch_up"], one["next_due"]) for one in found["schedules"]]
    assert shown == [
        ("half", True, True, "2026-01-09T08:00:00+00:00"),  # the next Friday: the 13th comes later
        ("demo", True, True, None),
        ("nightly", False, False, None),
    ]
    assert found["schedules"][0]["cron"] == "0 0,30 8,9 13 * 5" and found["schedules"][0]["id"] == half.id
    assert [(one["id"], one["state"], one["schedule"]) for one in found["runs"]] == [
        (second, "running", weekly.id),
        (first.run, "succeeded", None),
    ]
    assert found["runs"][0]["error"] == "no such bucket"
    assert found["runs"][0]["finished"] is None
    assert found["runs"][1]["finished"] == "2026-01-05T13:00:00+00:00"
    assert [one["id"] for one in client(config()).listing(1)["runs"]] == [second]


# --- answers that are lost


@pytest.mark.parametrize("path", ["experiments", "pipelines/upload_version", "pipelines", "recurringruns", "runs"])
@pytest.mark.parametrize("way", ["503", "504", "broken"])
def test_what_was_made_without_an_answer_is_found_again(
    api: FakeApi, config: Configure, packages: list[Path], path: str, way: str
) -> None:
    broken = way == "broken"
    api.faults.append(Fault("POST", path, times=1, when="after", status=503 if broken else int(way), breaks=broken))
    client(config()).submit(packages[0])
    schedule(config(), packages[0])
    assert api.made() == {"experiments": 1, "pipelines": 1, "versions": 1, "recurring_runs": 1, "runs": 1}
    assert not [fault for fault in api.faults if fault.times], "the fault was not met"


@pytest.mark.parametrize("path", ["experiments", "pipelines", "recurringruns", "runs"])
def test_what_was_not_made_is_made_at_another_attempt(
    api: FakeApi, config: Configure, packages: list[Path], path: str
) -> None:
    api.faults.append(Fault("POST", path, times=2))
    client(config()).submit(packages[0])
    schedule(config(), packages[0])
    assert api.made() == {"experiments": 1, "pipelines": 1, "versions": 1, "recurring_runs": 1, "runs": 1}


def test_a_replaced_schedule_is_not_taken_for_the_new_one(
    api: FakeApi, config: Configure, packages: list[Path]
) -> None:
    first = schedule(config(), packages[0])
    api.faults.append(Fault("POST", "recurringruns", times=99))
    with pytest.raises(ApiError, match="cannot create the schedule demo: 503"):
        schedule(config(), packages[0], DAILY)
    assert set(api.recurring_runs) == {first.id}, "without a new one the old one stays"


def test_a_run_is_not_started_again_where_it_may_still_start(
    api: FakeApi, config: Configure, packages: list[Path]
) -> None:
    client(config()).submit(packages[0])
    before = api.count("POST", "runs")
    api.faults.append(Fault("POST", "runs", times=9, breaks=True))
    with pytest.raises(ApiError, match=r"start the run demo-.*may have been done or not; see `ich kubeflow list`"):
        client(config()).submit(packages[0])
    assert api.count("POST", "runs") == before + 1


def test_somebody_else_makes_the_experiment_first(api: FakeApi, config: Configure, packages: list[Path]) -> None:
    """Two clients at once: the later one is told that the name is taken, and takes what is there."""
    find, ready = api._list, threading.Event()

    def late(asked: Any, among: dict[str, Any], name: str) -> Any:
        found = find(asked, among, name)
        if name == "experiments" and not ready.is_set():
            ready.set()
            made = kfp.V2beta1Experiment(experiment_id="theirs", display_name="demo", created_at=START)
            api.experiments["theirs"] = made
        return found

    api._list = late  # type: ignore[method-assign]
    client(config()).submit(packages[0])
    [run] = api.runs.values()
    assert run.experiment_id == "theirs" and api.count("POST", "experiments") == 1
