"""Runs and schedules on Kubeflow Pipelines 2.

What is sent again is not there twice: the pipeline is kept under the configuration's name, its versions under the hash
of what was compiled, and a schedule under its own name.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api as kfp

from components.imaging.errors import IchError, UsageError
from pipeline.config import Config
from pipeline.kubeflow.connection import ApiError, Connection
from pipeline.schedule import Times

CREATED, REPLACED, UNCHANGED = "created", "replaced", "unchanged"
NEWEST_RUNS = 50
"""Among them a run is looked for that was started a moment ago."""


@dataclass(frozen=True)
class Started:
    """A run that was started.

    Attributes:
        run: Its id.
        name: Its name.
        url: Its page.
        version: Of the pipeline, the hash of what was compiled.
    """

    run: str
    name: str
    url: str
    version: str


@dataclass(frozen=True)
class Scheduled:
    """A schedule that is in place.

    Attributes:
        id: Of the recurring run.
        how: `CREATED`, `REPLACED` or `UNCHANGED`.
        version: Of the pipeline, the hash of what was compiled.
        next_due: When it is due next.
    """

    id: str
    how: str
    version: str
    next_due: datetime.datetime


class Client:
    """What `ich kubeflow` does on a cluster."""

    def __init__(self, config: Config, *, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Greets the API.

        Args:
            config: The configuration.
            now: The clock, in UTC.

        Raises:
            UsageError: It lacks what is needed to get there, or a namespace.
            ApiError: No Kubeflow Pipelines 2 API answers.
        """
        self._config, self._own = config, config.kubeflow
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._api = Connection(config.kubeflow)
        if self._api.greet().multi_user and not self._own.namespace:
            raise UsageError(
                f"{self._api.host}: users have namespaces of their own there, and none is named; give yours in "
                "kubeflow.namespace"
            )

    @property
    def experiment_name(self) -> str:
        """What the runs are listed under."""
        return self._own.experiment or self._config.name

    def submit(self, package: Path) -> Started:
        """Starts a run of a compiled pipeline.

        Raises:
            ApiError: It was not started, or nobody knows.
        """
        experiment, version = self._experiment(), self._version(package)
        name = f"{self._config.name}-{self._now():%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        run = self._api.create(
            f"start the run {name}",
            lambda: _named(self._newest_runs(experiment.experiment_id, NEWEST_RUNS), name),
            self._api.runs.run_service_create_run,
            kfp.V2beta1Run(
                experiment_id=experiment.experiment_id,
                display_name=name,
                pipeline_version_reference=_reference(version),
                runtime_config=self._runtime(),
                service_account=self._own.service_account,
            ),
        )
        return Started(run.run_id, name, self._page(run.run_id), version.display_name)

    def schedule(self, package: Path, name: str, times: Times, *, catch_up: bool = True) -> Scheduled:
        """Runs a compiled pipeline by the clock; a schedule of that name is replaced unless it is this very one.

        The new one is there before the old one goes. A crash between the two leaves both, and the next call one.

        Args:
            package: The compiled pipeline.
            name: Of the schedule.
            times: When it is due.
            catch_up: Whether times that were missed are made up for, one run for each.

        Raises:
            UsageError: It would never be due.
            ApiError: A call failed.
            IchError: Afterwards there is not just one of that name.
        """
        due = times.next_after(self._now())
        if due is None:
            raise UsageError(f"--cron {times.expression!r}: is due on no day of the next five years")
        experiment, version = self._experiment(), self._version(package)
        wanted = kfp.V2beta1RecurringRun(
            experiment_id=experiment.experiment_id,
            display_name=name,
            pipeline_version_reference=_reference(version),
            runtime_config=self._runtime(),
            service_account=self._own.service_account,
            max_concurrency="1",  # two runs at once would be at the same serving folder
            no_catchup=not catch_up,
            mode=kfp.RecurringRunMode.ENABLE,
            trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=times.six_fields())),
        )
        wanted.description = f"ich kubeflow schedule, settings {_digest(wanted)}"
        before = self._recurring(experiment.experiment_id, name)
        kept = _same(before, wanted)
        how = UNCHANGED if kept else REPLACED if before else CREATED
        if kept is None:
            kept = self._api.create(
                f"create the schedule {name}",
                lambda: _same(self._recurring(experiment.experiment_id, name), wanted),
                self._api.recurring_runs.recurring_run_service_create_recurring_run,
                wanted,
            )
        for one in before:
            if one.recurring_run_id != kept.recurring_run_id:
                self._delete(one)
        left = self._recurring(experiment.experiment_id, name)
        if [one.recurring_run_id for one in left] != [kept.recurring_run_id]:
            raise IchError(
                f"{self._api.host}: {len(left)} schedules are named {name} now, wanted one; somebody else is at it as "
                "well, so run the command again"
            )
        return Scheduled(kept.recurring_run_id, how, version.display_name, due)

    def unschedule(self, name: str) -> int:
        """Takes all schedules of a name away; runs that are under way go on.

        Returns:
            How many there were.

        Raises:
            ApiError: A call failed.
        """
        experiment = self._find_experiment()
        found = self._recurring(experiment.experiment_id, name) if experiment else []
        for one in found:
            self._delete(one)
        return len(found)

    def listing(self, most_runs: int) -> dict[str, Any]:
        """Schedules and runs of the experiment, newest first, ready for JSON.

        Args:
            most_runs: Runs to list.

        Raises:
            ApiError: A call failed.
        """
        experiment = self._find_experiment()
        schedules = self._recurring(experiment.experiment_id) if experiment else []
        runs = self._newest_runs(experiment.experiment_id, most_runs) if experiment else []
        return {
            "host": self._api.host,
            "namespace": self._own.namespace,
            "experiment": self.experiment_name,
            "schedules": [self._about_schedule(one) for one in reversed(schedules)],
            "runs": [self._about_run(one) for one in runs],
        }

    def _about_schedule(self, one: Any) -> dict[str, Any]:
        trigger = one.trigger or kfp.V2beta1Trigger()
        cron = trigger.cron_schedule.cron if trigger.cron_schedule else None
        every = trigger.periodic_schedule.interval_second if trigger.periodic_schedule else None
        enabled = one.status == kfp.V2beta1RecurringRunStatus.ENABLED
        due = _next_due(cron, self._now()) if cron and enabled else None
        return {
            "id": one.recurring_run_id,
            "name": one.display_name,
            "enabled": enabled,
            "cron": cron,
            "every_seconds": int(every) if every else None,
            "catch_up": not one.no_catchup,
            "next_due": _text(due),
            "created": _text(one.created_at),
            "version": getattr(one.pipeline_version_reference, "pipeline_version_id", None),
            "error": getattr(one.error, "message", None),
        }

    def _about_run(self, one: Any) -> dict[str, Any]:
        return {
            "id": one.run_id,
            "name": one.display_name,
            "state": (one.state or "unknown").lower(),
            "created": _text(one.created_at),
            "finished": _text(one.finished_at),
            "schedule": one.recurring_run_id or None,
            "error": getattr(one.error, "message", None),
            "url": self._page(one.run_id),
        }

    def _find_experiment(self) -> Any:
        found = self._api.all(
            f"look for the experiment {self.experiment_name}",
            self._api.experiments.experiment_service_list_experiments,
            "experiments",
            filter=_by_name(self.experiment_name),
            namespace=self._own.namespace,
        )
        return _named(found, self.experiment_name)

    def _experiment(self) -> Any:
        found = self._find_experiment()
        if found is None:
            made = kfp.V2beta1Experiment(display_name=self.experiment_name, namespace=self._own.namespace)
            found = self._api.create(
                f"create the experiment {self.experiment_name}",
                self._find_experiment,
                self._api.experiments.experiment_service_create_experiment,
                made,
            )
        if found.storage_state == kfp.V2beta1ExperimentStorageState.ARCHIVED:
            raise IchError(
                f"{self._api.host}: the experiment {self.experiment_name} is archived; restore it on its page, or name "
                "another one in kubeflow.experiment"
            )
        return found

    def _version(self, package: Path) -> Any:
        """The version of the pipeline that holds this package, uploaded unless it is there."""
        name = self._config.name.replace("_", "-")
        pipelines = self._api.pipelines

        def find_pipeline() -> Any:
            listed = self._api.all(
                f"look for the pipeline {name}",
                pipelines.pipeline_service_list_pipelines,
                "pipelines",
                filter=_by_name(name),
                namespace=self._own.namespace,
            )
            return _named(listed, name)

        pipeline = find_pipeline() or self._api.create(
            f"create the pipeline {name}",
            find_pipeline,
            pipelines.pipeline_service_create_pipeline,
            kfp.V2beta1Pipeline(display_name=name, namespace=self._own.namespace),
        )
        version = hashlib.sha256(package.read_bytes()).hexdigest()[:16]

        def find_version() -> Any:
            listed = self._api.all(
                f"look for version {version} of the pipeline {name}",
                pipelines.pipeline_service_list_pipeline_versions,
                "pipeline_versions",
                pipeline_id=pipeline.pipeline_id,
                filter=_by_name(version),
            )
            return _named(listed, version)

        return find_version() or self._api.create(
            f"upload version {version} of the pipeline {name}",
            find_version,
            self._api.uploads.upload_pipeline_version,
            str(package),
            name=version,
            pipelineid=pipeline.pipeline_id,
        )

    def _runtime(self) -> Any:
        return kfp.V2beta1RuntimeConfig(parameters={}, pipeline_root=self._own.pipeline_root)

    def _newest_runs(self, experiment: str, most: int) -> list[Any]:
        page = self._api.call(
            "list the runs",
            self._api.runs.run_service_list_runs,
            experiment_id=experiment,
            page_size=most,
            sort_by="created_at desc",
        )
        return list(page.runs or [])

    def _recurring(self, experiment: str, name: str | None = None) -> list[Any]:
        """Schedules, the newest last."""
        listed = self._api.all(
            "list the schedules",
            self._api.recurring_runs.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            experiment_id=experiment,
            sort_by="created_at asc",
        )
        return [one for one in listed if name is None or one.display_name == name]

    def _delete(self, one: Any) -> None:
        try:
            self._api.call(
                f"delete the schedule {one.display_name} ({one.recurring_run_id})",
                self._api.recurring_runs.recurring_run_service_delete_recurring_run,
                one.recurring_run_id,
                # Else Kubernetes would take the run that is under way with it.
                propagation_policy=kfp.V2beta1DeletePropagationPolicy.ORPHAN,
            )
        except ApiError as error:
            if error.status != 404:  # gone already is as good
                raise

    def _page(self, run: str) -> str:
        return f"{self._api.host}/#/runs/details/{run}"


def _by_name(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _named(found: Any, name: str) -> Any:
    return next((one for one in found if one.display_name == name), None)


def _reference(version: Any) -> Any:
    return kfp.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def _digest(wanted: Any) -> str:
    """Short hash of what makes a schedule: the server answers with defaults filled in, so it cannot be compared."""
    return hashlib.sha256(json.dumps(wanted.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _same(found: list[Any], wanted: Any) -> Any:
    """The newest that was made from the same settings and is enabled."""
    enabled = [one for one in found if one.status == kfp.V2beta1RecurringRunStatus.ENABLED]
    fitting = [one for one in enabled if one.description == wanted.description]
    return fitting[-1] if fitting else None


def _next_due(cron: str, now: datetime.datetime) -> datetime.datetime | None:
    """When six fields are due next; None also for what cron does not know and Kubeflow does."""
    seconds, *fields = cron.split() or [""]
    if seconds != "0":
        return None
    try:
        return Times.parse(" ".join(fields)).next_after(now)
    except UsageError:
        return None


def _text(moment: datetime.datetime | None) -> str | None:
    """As ISO 8601; the API writes the epoch for what has not happened yet."""
    return None if moment is None or moment.year <= 1970 else moment.isoformat()
