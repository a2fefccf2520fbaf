"""Runs the pipeline in this process: one line a stage, everything else in a log, one readable verdict."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import json
import logging
import os
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.imaging.errors import IchError, UsageError, root_cause
from components.nifti_example_gen.layout import Cohort, fingerprint
from components.servability.rules import FILE_NAME as SERVABILITY
from components.servability.rules import in_short
from components.tuner.summary import search_summary
from pipeline.config import Config
from pipeline.console import captured, say
from pipeline.last_run import Began, LastRun, begin, current_key, read_last_run, write_last_run
from pipeline.lock import locked
from pipeline.obstacles import obstacle, wait_for_metadata
from serving.versions import versions

PUSHED, FAILED, REFUSED, INTERRUPTED = 0, 1, 3, 130

_RUN = "%Y%m%dT%H%M%S"


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        exit_code: 0 pushed or nothing to do, 3 trained but refused by the gate, not servable, or held by the data.
        verdict: The gate's verdict, as `verdict.json` holds it.
        model: The version in service.
        stages: Wall seconds and peak memory by stage.
        findings: What was found against the data, as `findings.json` holds it.
        servability: Whether the model can be served, as `servability.json` holds it.
        unchanged: The earlier run whose outcome this is, where there was nothing new to do.
        log: What third parties printed.
    """

    exit_code: int
    verdict: dict[str, Any]
    model: Path | None
    log: Path
    stages: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    servability: dict[str, Any] = field(default_factory=dict)
    unchanged: LastRun | None = None

    @property
    def held(self) -> list[dict[str, Any]]:
        """The findings that forbid a push."""
        return [finding for finding in self.findings if finding["severity"] != "note"]

    @property
    def unservable(self) -> list[dict[str, Any]]:
        """The rules of servability that the model broke."""
        found: list[dict[str, Any]] = self.servability.get("failures", [])
        return found


@dataclass(frozen=True)
class Folders:
    """The folders of an output root."""

    root: Path

    @property
    def artifacts(self) -> Path:
        """TFX's pipeline root."""
        return self.root / "artifacts"

    @property
    def metadata(self) -> Path:
        """TFX's metadata store."""
        return self.root / "metadata.sqlite"

    @property
    def work(self) -> Path:
        """Checkpoints and TensorBoard logs."""
        return self.root / "training"

    @property
    def logs(self) -> Path:
        """One log a run."""
        return self.root / "logs"

    @property
    def statistics(self) -> Path:
        """Statistics of the data of earlier runs."""
        return self.root / "statistics"

    @property
    def reports(self) -> Path:
        """One folder a run with the page on it and that on its data."""
        return self.root / "reports"

    @property
    def runs(self) -> Path:
        """One JSON summary a run."""
        return self.root / "runs"

    def serving(self, model_name: str) -> Path:
        """What TF Serving watches for this model."""
        return self.root / "serving" / model_name


def run_pipeline(
    config: Config,
    data: Path,
    output: Path,
    *,
    verbose: bool = False,
    force: bool = False,
    if_new_data: bool = False,
) -> Outcome:
    """Runs every stage whose result is not there yet; nothing at all where nothing changed since the last run.

    Args:
        config: The configuration.
        data: The data folder.
        output: The output folder; made if need be.
        verbose: Show what third parties print.
        force: Run although nothing changed.
        if_new_data: Another configuration or program alone is no reason to run.

    Raises:
        UsageError: The data folder or the output folder cannot be used, or another run is under way there.
        IchError: A stage failed; the message says which and why, the log has the rest.
    """
    folders = Folders(output.resolve())
    _writable(folders.root)
    run = _next_run(folders)
    try:
        with locked(folders.root, run):
            return _run(config, data, folders, run, verbose=verbose, force=force, if_new_data=if_new_data)
    except OSError as error:  # between the stages: of the run's own records
        raise obstacle(error, folders.root) or error from None


def _run(
    config: Config,
    data: Path,
    folders: Folders,
    run: str,
    *,
    verbose: bool,
    force: bool,
    if_new_data: bool,
) -> Outcome:
    served = versions(folders.serving(config.output.model_name))
    cohort = _preflight(config, data)
    files = fingerprint(cohort, data)
    key = current_key(config, files)
    last = read_last_run(folders.root)
    if last is not None and last.version == _newest(served) and not force:
        same = last.key == key or (if_new_data and last.data == files)
        earlier = _earlier_outcome(folders, last, served, wholly=last.key == key) if same else None
        if earlier is not None:
            return earlier
    log = folders.logs / f"{run}.log"
    stages: list[dict[str, Any]] = []
    with captured(log, verbose=verbose):
        try:
            with _timed(stages, "start", log):
                _write_summary(folders, run, config, data, stages)
                nodes = list(_prepare(config, data.resolve(), folders, key))
                gc.freeze()  # what the imports made stays: half a second saved each time that Python looks for garbage
            outputs: dict[str, dict[str, Path]] = {}
            for name, launch in nodes:
                with _timed(stages, name, log) as stage:
                    _write_summary(folders, run, config, data, stages)  # of a run that is killed, as far as it came
                    stage["cached"], outputs[name] = launch()
                    stage["outputs"] = {key: _relative(path, folders.root) for key, path in outputs[name].items()}
                    if name in _REPORTS:
                        stage["note"] = _publish_report(name, outputs[name]["report"], folders.reports / run)
                    else:
                        stage["note"] = _note(name, outputs[name])
                if not stage["cached"]:
                    _give_memory_back()
            verdict = _read(outputs["Evaluator"]["evaluation"] / "verdict.json")
            findings = _read(outputs["DataValidator"]["report"] / "findings.json")
            servability = _read(outputs["Servability"]["blessing"] / SERVABILITY)
        except BaseException as error:
            with contextlib.suppress(OSError):  # what ended the run may be that nothing can be written
                _write_summary(folders, run, config, data, stages, error=error)
                if isinstance(error, Exception):  # whoever interrupts does not want to wait
                    _complete_report(folders.reports / run, stages, error=str(error) or type(error).__name__)
            raise
        served = versions(folders.serving(config.output.model_name))
        outcome = Outcome(PUSHED, verdict, served[-1] if served else None, log, stages, findings, servability)
        if outcome.held or outcome.unservable or not verdict["blessed"]:
            outcome.exit_code = REFUSED
        version = outcome.model.name if outcome.model and outcome.exit_code == PUSHED else None
        _complete_report(folders.reports / run, stages, version=version, servability=servability)
    _write_summary(folders, run, config, data, stages, outcome=outcome)
    last = LastRun(
        key, run, outcome.exit_code, _newest(served), bool(outcome.held), bool(outcome.unservable), files,
        _state(served),
    )  # fmt: skip
    write_last_run(folders.root, last)
    return outcome


def _writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{root}: cannot write there ({error.strerror}); choose another --output") from None


def _earlier_outcome(folders: Folders, last: LastRun, served: list[Path], *, wholly: bool) -> Outcome | None:
    """The outcome of a run that would only be repeated; None where its summary is gone."""
    try:
        summary = _read(folders.runs / f"{last.run}.json")
        verdict, findings, servability = summary["verdict"], summary["findings"], summary["servability"]
    except (OSError, ValueError, KeyError):
        return None
    say(last.text(wholly=wholly))
    log = folders.logs / f"{last.run}.log"
    return Outcome(PUSHED, verdict, served[-1] if served else None, log, [], findings, servability, last)


def _newest(served: list[Path]) -> str | None:
    return served[-1].name if served else None


def _state(served: list[Path]) -> str:
    return ",".join(path.name for path in served)


def _next_run(folders: Folders) -> str:
    """The name of a run: the time, but behind all others, also where the clock was set back or runs are short."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    for path in (*folders.runs.glob("*.json"), *folders.logs.glob("*.log")):
        with contextlib.suppress(ValueError):
            now = max(now, datetime.datetime.strptime(path.stem, _RUN) + datetime.timedelta(seconds=1))
    return now.strftime(_RUN)


def _preflight(config: Config, data: Path) -> Cohort:
    """Finds within a second what would else fail after TFX has started."""
    from components.nifti_example_gen.layout import find_cases, layouts
    from components.nifti_example_gen.spans import placeholders, span_name
    from components.nifti_example_gen.splits import deal

    section = config.data.model_dump()
    cohort = find_cases(data, section)
    dealt = deal(cohort.cases, config.splits.model_dump())
    counts = ", ".join(f"{name} {len(cases)}" for name, cases in dealt.items())
    for source in section["sources"]:
        members = (sum(case.source == source for case in cases) for cases in dealt.values())
        counts += f"; {source} {'/'.join(map(str, members))}"
    pattern = layouts(section)[0].pattern
    names = [span_name(span, pattern) for span in cohort.spans]
    spans = f", span{'s' if len(names) > 1 else ''} {', '.join(names)}" if placeholders(pattern) else ""
    again = f", {len(cohort.superseded)} older ones that came again left out" if cohort.superseded else ""
    say(f"{config.name}: {len(cohort.cases)} scans ({counts}){spans}, {len(cohort.quarantined)} incomplete{again}")
    return cohort


def _prepare(config: Config, data: Path, folders: Folders, key: str) -> Iterator[tuple[str, Any]]:
    """Compiles the pipeline; yields each stage's name and what runs it, in order."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    warnings.filterwarnings("ignore")
    from absl import flags
    from absl import logging as absl_logging
    from ml_metadata.proto import metadata_store_pb2
    from tfx.dsl.compiler import compiler, constants
    from tfx.orchestration import metadata
    from tfx.orchestration.local import runner_utils
    from tfx.orchestration.portable import launcher, runtime_parameter_utils
    from tfx.orchestration.portable.mlmd import execution_lib

    from components.starting_point.state import State, serving_state, statistics_state
    from pipeline.pipeline import Places, create_pipeline

    absl_logging.set_verbosity(absl_logging.INFO)
    logging.getLogger().setLevel(logging.INFO)
    # Without it, readers batch up to 1000 examples, images and all. It is a flag of absl's: among Beam's arguments,
    # where one looks for it, it is discarded.
    flags.FLAGS(["ich", "--tfxio_use_byte_size_batching"])
    serving = folders.serving(config.output.model_name)
    now = Began(key, serving_state(str(serving)), statistics_state(str(folders.statistics)))
    began = begin(folders.root, now)
    pipeline = create_pipeline(
        config,
        Places(
            data=str(data),
            artifacts=str(folders.artifacts),
            serving=str(serving),
            statistics=str(folders.statistics),
            work=str(folders.work),
            metadata=folders.metadata,
        ),
        State(statistics=began.statistics, serving=began.serving),
    )
    ir = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now(datetime.UTC).isoformat()}
    )
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = getattr(
        deployment.metadata_connection_config, deployment.metadata_connection_config.WhichOneof("connection_config")
    )

    class Store(metadata.Metadata):
        """Waits for another program that has locked the database, at the start of a stage as at its end."""

        def __enter__(self) -> Any:
            if not self._users:
                wait_for_metadata(folders.metadata)
            return super().__enter__()

    for node in ir.nodes:
        stage = node.pipeline_node
        name = stage.node_info.id

        def launch(stage: Any = stage, name: str = name) -> tuple[bool, dict[str, Path]]:
            """Runs one stage; returns whether its earlier result was reused, and its output folders."""
            info = launcher.Launcher(
                pipeline_node=stage,
                mlmd_connection=Store(connection),
                pipeline_info=ir.pipeline_info,
                pipeline_runtime_spec=ir.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(deployment, name),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
            ).launch()
            with Store(connection) as handle:
                (execution,) = handle.store.get_executions_by_id([info.execution_id])
                if not execution_lib.is_execution_successful(execution):
                    raise IchError(f"stage {name} did not run: its inputs could not be resolved")
                artifacts = execution_lib.get_output_artifacts(handle, info.execution_id)
                cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
            return cached, {key: Path(found[0].uri) for key, found in artifacts.items() if found}

        yield name, launch


@contextlib.contextmanager
def _timed(stages: list[dict[str, Any]], name: str, log: Path) -> Iterator[dict[str, Any]]:
    """Times a stage and says one line about it; turns what it raises into one readable block."""
    stage: dict[str, Any] = {"name": name}
    stages.append(stage)
    began = time.monotonic()
    try:
        yield stage
    except IchError as error:
        stage["state"] = "failed"
        raise root_cause(error) from None
    except KeyboardInterrupt:
        stage["state"] = "interrupted"
        raise
    except Exception as error:
        stage["state"] = "failed"
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        cause = root_cause(error)
        if isinstance(cause, IchError):
            raise cause from None
        if hindered := obstacle(error, log.parents[1]):
            raise hindered from None
        text = " ".join(str(cause).split())[:500]
        raise IchError(f"stage {name} failed: {type(cause).__name__}: {text}\nthe whole story is in {log}") from None
    else:
        stage["state"] = "done"
    finally:
        stage["seconds"] = round(time.monotonic() - began, 2)
        stage["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        cached = " (unchanged)" if stage.get("cached") else ""
        note = f"  {stage['note']}" if stage.get("note") else ""
        if stage.get("state") == "done":
            say(f"  {name:<18}{stage['seconds']:8.1f} s{cached}{note}")
        else:
            say(f"  {name:<18}{stage['seconds']:8.1f} s  {stage.get('state', 'failed')}")


def _relative(path: Path, root: Path) -> str:
    """A folder as a summary has it, which stays true when the output folder is moved."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _give_memory_back() -> None:
    """Hands what a stage left behind to the system: else each stage's peak stands on the last one's ruins."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc has it; elsewhere nothing is lost but memory
        ctypes.CDLL(None).malloc_trim(0)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _note(name: str, outputs: dict[str, Path]) -> str:
    """What a user wants to know of a stage besides its time."""
    if name == "NiftiExampleGen":
        summary = _read(outputs["examples"] / "cases.json")
        slices = sum(counts["slices"] for counts in summary["splits"].values())
        bad = summary["quarantined"]
        text = f"{len(summary['cases'])} scans, {slices} slices"
        return text + (f", {len(bad)} quarantined: {_short(bad)}" if bad else "")
    if name == "DataValidator":
        counts = Counter(finding["severity"] for finding in _read(outputs["report"] / "findings.json"))
        text = ", ".join(f"{counts[severity]} {severity}" for severity in ("stop", "hold", "note") if counts[severity])
        return f"findings: {text}" if text else "nothing found against the data"
    if name == "Tuner":
        return search_summary(_read(outputs["tuner_results"] / "trials.json"))
    if name == "ServedModel":
        note = _read(outputs["model"] / "baseline.json")
        return f"version {note['version']}: {note['reason']}" if note["version"] else note["reason"]
    if name == "Evaluator":
        overall = _read(outputs["evaluation"] / "verdict.json")["overall"]
        return f"test Dice {overall['patient_dice']:.3f} ± {overall['patient_dice_sd']:.3f}"
    if name == "Servability":
        return in_short(_read(outputs["blessing"] / SERVABILITY))
    return ""


_REPORTS = {"DataReporter": ("data_report", "data", "data"), "RunReporter": ("run_report", "index", "report")}
"""Of each stage that makes a page: what its files are called, and the page and its JSON where they are looked for."""


def _publish_report(stage: str, made: Path, folder: Path) -> str:
    """Copies a page to where it is looked for; returns what to say of it."""
    from components.imaging.nifti import write_bytes

    name, page, content = _REPORTS[stage]
    for source, target in ((f"{name}.html", f"{page}.html"), (f"{name}.json", f"{content}.json")):
        write_bytes(folder / target, (made / source).read_bytes())
    return f"{_read(folder / f'{content}.json')['verdict']['status']}: {folder / f'{page}.html'}"


def _complete_report(folder: Path, stages: list[dict[str, Any]], **ended: Any) -> None:
    """Adds to the page on a run how it ended, with times and memory; where it fails, the page stays as it was.

    Args:
        folder: Where the page is looked for.
        stages: Wall seconds and peak memory by stage.
        **ended: As of `components.run_report.content.complete`.
    """
    _, page, content = _REPORTS["RunReporter"]
    if not (folder / f"{content}.json").is_file():
        return
    try:
        from components.imaging.nifti import write_bytes
        from components.run_report.content import complete
        from components.run_report.page import render

        found = complete(_read(folder / f"{content}.json"), stages, **ended)
        text = render(found)
        write_bytes(folder / f"{content}.json", json.dumps(found, indent=1, allow_nan=False).encode())
        write_bytes(folder / f"{page}.html", text.encode())
    except Exception:  # the run has ended as it has; its log tells
        traceback.print_exc()


def _short(quarantined: list[dict[str, str]]) -> str:
    shown = ", ".join(f"{item['case_id']} ({item['code']})" for item in quarantined[:4])
    return shown + (f" and {len(quarantined) - 4} more" if len(quarantined) > 4 else "")


def _write_summary(
    folders: Folders,
    run: str,
    config: Config,
    data: Path,
    stages: list[dict[str, Any]],
    *,
    outcome: Outcome | None = None,
    error: BaseException | None = None,
) -> None:
    from components.imaging.nifti import write_bytes

    summary = {
        "run": run,
        "config": config.model_dump(mode="json"),
        "data": str(data),
        "stages": stages,
        "exit_code": outcome.exit_code if outcome else _exit_code(error),
        "error": str(error) or type(error).__name__ if error else None,
        "verdict": outcome.verdict if outcome else None,
        "findings": outcome.findings if outcome else None,
        "servability": outcome.servability if outcome else None,
        "model": str(outcome.model) if outcome and outcome.model else None,
    }
    write_bytes(folders.runs / f"{run}.json", json.dumps(summary, indent=1).encode())


def _exit_code(error: BaseException | None) -> int | None:
    """What the command ends with, as `pipeline.cli` has it; None while it has not ended."""
    if error is None:
        return None
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, IchError) else FAILED
