"""The command `ich`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.imaging.errors import UsageError
from pipeline import __version__
from pipeline.commands.common import FOLDER as _FOLDER
from pipeline.commands.common import (
    complete_config,
    config_option,
    json_file_option,
    json_option,
    output_option,
    print_json,
    write_text,
)
from pipeline.commands.common import reported as _reported
from pipeline.commands.completion import completion
from pipeline.commands.doctor import doctor
from pipeline.commands.init import init
from pipeline.kubeflow.commands import kubeflow

if TYPE_CHECKING:
    from pipeline.config import Config


def _model_option(help: str) -> Callable[[Any], Any]:
    return click.option("-m", "--model", type=_FOLDER, default=Path("output"), show_default=True, help=help)


def _folders(config: Config, data: Path | None, output: Path | None) -> tuple[Path, Path]:
    """Data and output folder, from the command line or else the configuration."""
    from components.storage.uri import meant_as_uri

    data = data or (Path(config.data.root) if config.data.root else None)
    output = output or (Path(config.output.root) if config.output.root else None)
    if data is None:
        raise UsageError("no data folder; give --data, or data.root in the config")
    if output is None:
        raise UsageError("no output folder; give --output, or output.root in the config")
    for option, path in (("--data", data), ("--output", output)):
        if uri := meant_as_uri(path):
            raise UsageError(
                f"{option}: found {uri}, wanted a folder of this machine; buckets are for runs on Kubeflow, see "
                "docs/KUBEFLOW.md"
            )
    return data, output


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ich")
def main() -> None:
    """Train, gate, release and run a model that outlines intracranial hemorrhage on head CT.

    Not a medical device. Exit codes: 0 done, 1 failure, 2 bad usage, configuration or scan, 3 trained but refused
    by the gate or held by what was found against the data.
    """


@main.command(epilog="Example: ich run -c demo -d SCANS -o OUT")
@config_option()
@click.option("-d", "--data", type=_FOLDER, help="Data folder; default: data.root of the config.")
@click.option("-o", "--output", type=_FOLDER, help="Output folder; default: output.root of the config.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override, e.g. training.epochs=20.")
@click.option("--folds", type=int, metavar="K", help="Cross-validate: short for --set training.folds=K.")
@click.option("--force", is_flag=True, help="Run although nothing changed since the last run.")
@click.option("--if-new-data", is_flag=True, help="Run only if files have come or changed: for a schedule.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TFX, Beam and TensorFlow print.")
@json_option("Print the outcome as JSON, last.")
@_reported
def run(
    config_source: str,
    data: Path | None,
    output: Path | None,
    settings: tuple[str, ...],
    folds: int | None,
    force: bool,
    if_new_data: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Run the whole pipeline: scans in, a gated and pushed model out.

    Finished stages are reused, so the same command after a crash goes on where it stopped. Without new data, nor
    another configuration or program, it says so and ends; with --if-new-data, these two alone are no reason to run.
    """
    from pipeline.config import load_config

    if force and if_new_data:
        raise UsageError("--force and --if-new-data: contradict each other; give one of them")
    config = load_config(config_source, settings, training={"folds": folds})
    data, output = _folders(config, data, output)
    from pipeline.local_runner import run_pipeline

    outcome = run_pipeline(config, data, output, verbose=verbose, force=force, if_new_data=if_new_data)
    from pipeline.verdict_text import verdict_lines

    for line in verdict_lines(outcome, output):
        click.echo(line)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "exit_code": outcome.exit_code,
                    "model": str(outcome.model) if outcome.model else None,
                    "unchanged": outcome.unchanged is not None,
                    "verdict": outcome.verdict,
                    "findings": outcome.findings,
                    "servability": outcome.servability,
                    "stages": outcome.stages,
                    "log": str(outcome.log),
                }
            )
        )
    return outcome.exit_code


@main.command(epilog="Example: ich predict 017.nii.gz -o result -m OUT")
@click.argument("inputs", type=_FOLDER, nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--out", "--output", "out", type=_FOLDER, required=True, help="Folder for masks, JSON and pictures."
)
@_model_option("SavedModel, folder of versions, or output folder of a run; the newest version is taken.")
@click.option("--server", metavar="URL", help="Ask a model server instead: grpc://HOST[:8500] or http://HOST[:8501].")
@click.option("--series", metavar="WHICH", help="DICOM series to take: #PLACE, number, UID or part of its description.")
@click.option("--prob", "probability", is_flag=True, help="Also write the probabilities, on the scan's grid.")
@click.option("--dicom-seg", is_flag=True, help="Also write a DICOM segmentation that points at the source slices.")
@click.option("--overwrite", is_flag=True, help="Predict scans anew whose results are there already.")
@click.option("--force", is_flag=True, help="Outline scans that the checks refuse, where they can be read at all.")
@click.option("--keep-ids", is_flag=True, help="Write the DICOM study's identifiers into the JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorFlow prints.")
@json_option("Print each result as one line of JSON.")
@_reported
def predict(
    inputs: tuple[Path, ...],
    out: Path,
    model: Path,
    server: str | None,
    series: str | None,
    probability: bool,
    dicom_seg: bool,
    overwrite: bool,
    force: bool,
    keep_ids: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Outline the blood in head CT scans, each on its own grid.

    INPUT is a NIfTI file, a DICOM file or zip, or a folder: with NIfTI files below it, of those; else of DICOM, each
    study one scan. Of a study, the axial head CT without contrast agent is taken, and said which.

    Results that are there already are kept, so the same command after a crash goes on where it stopped. A scan that
    the checks refuse gets a reason instead of a mask, and the others go on; the exit code is 2 then.
    """
    from pipeline.console import captured, say
    from pipeline.predict import Options, Result, failed, open_engine, predict_all
    from pipeline.progress import progress_bar

    options = Options(
        probability=probability,
        dicom_seg=dicom_seg,
        series=series,
        overwrite=overwrite,
        force=force,
        keep_ids=keep_ids,
    )
    results: list[Result] = []
    with captured(Path(os.devnull), verbose=verbose), progress_bar("scans") as advance, ExitStack() as opened:
        engine = lambda: opened.enter_context(open_engine(model, server))  # noqa: E731 - loaded once it is needed
        for result in predict_all(inputs, out, engine, options, progress=advance):
            results.append(result)
            if as_json:
                say(json.dumps({**result.report, "status": result.status, "files": result.files}))
                continue
            if result.status != "refused" or result.of > 1:  # a single one's reason is the command's error
                say(result.line())
    if error := failed(results):
        raise error


@main.command(epilog="Example: ich view 017.nii.gz result/017_mask.nii.gz")
@click.argument("scan", type=_FOLDER)
@click.argument("masks", type=_FOLDER, nargs=-1, metavar="[MASK]...")
@click.option("--png", "folder", type=_FOLDER, help="Write mosaics of slices to this folder instead: needs no browser.")
@click.option("--series", metavar="WHICH", help="DICOM series to take: #PLACE, number, UID or part of its description.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the page; default: a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@_reported
def view(
    scan: Path, masks: tuple[Path, ...], folder: Path | None, series: str | None, port: int, no_browser: bool
) -> None:
    """Look at a scan and masks on its grid: three planes and 3D, with measured volumes.

    SCAN is a NIfTI file, or a DICOM file, folder or zip. The page is served on this machine, to you alone and without
    a network, until Ctrl-C.
    """
    from serving.viewer.scene import open_scene

    scene = open_scene(scan, masks, series)
    for note in scene.notes:
        click.echo(f"note: {note}", err=True)
    for mask in scene.masks:
        click.echo(f"{mask.name}: {mask.summary()}")
    if folder is not None:
        from serving.viewer.mosaics import write_mosaics

        for path in write_mosaics(scene, folder):
            click.echo(path)
        return
    from serving.viewer.server import serve as serve_page

    serve_page(scene, click.echo, port=port, browser=not no_browser)


@main.command(epilog="Example: ich serve -m OUT")
@_model_option("SavedModel, folder of versions (new ones are taken into service), or output folder of a run.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; nobody is asked who he is.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8500, show_default=True, help="0: a free one.")
@click.option("--rest-port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="0: a free one.")
@click.option(
    "--poll",
    "poll_seconds",
    type=click.FloatRange(min=0.01),
    default=2.0,
    show_default=True,
    help="Seconds between looks for new versions.",
)
@click.option(
    "--keep-versions", type=click.IntRange(min=1), default=2, show_default=True, help="Versions that stay loaded."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Requests computed at a time."
)
@click.option("--queue", type=click.IntRange(min=0), default=16, show_default=True, help="Requests that may wait.")
@click.option(
    "--max-request-mib", type=click.IntRange(1, 2047), default=256, show_default=True, help="Largest request."
)
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that accepted requests have when the server is stopped.",
)
@click.option("--docker", is_flag=True, help="Run TensorFlow Serving itself, in its container.")
@_reported
def serve(docker: bool, **options: Any) -> None:
    """Serve a pushed model over TF Serving's gRPC and REST interfaces, without TF Serving.

    For development and small sites. SIGTERM or Ctrl-C ends it once the requests under way are answered.
    """
    from serving.server.options import Options

    if docker:
        from serving.server.docker import start

        start(Options(**options))
    from pipeline.console import captured
    from serving.server.main import serve as run_server

    run_server(Options(**options), click.echo, partial(captured, Path(os.devnull)))


@main.command(epilog="Example: ich manifests -o k8s --output OUT")
@click.option("-o", "--out", type=_FOLDER, required=True, help="Folder for the files.")
@click.option(
    "--output", type=_FOLDER, default=Path("output"), show_default=True, help="Output folder of a run that pushed."
)
@click.option("--model-name", help="Which model, where several are in service there.")
@json_option("Print the paths as JSON.")
@_reported
def manifests(out: Path, output: Path, model_name: str | None, as_json: bool) -> None:
    """Write what puts a pushed model on TensorFlow Serving: its configuration, Compose, Kubernetes and KServe.

    Versions and labels are not in them: each push writes models.config beside the versions, which the server reads.
    """
    from serving.manifests.render import model_folder, write_manifests

    paths = write_manifests(model_folder(output, model_name), out)
    if as_json:
        print_json({"files": paths})
        return
    for path in paths:
        click.echo(path)


@main.command(epilog="Example: ich schedule --cron '0 3 * * 1' -c hospital.yaml -d SCANS -o OUT")
@click.option("--cron", metavar="TIMES", help="Five fields as cron has them ('0 3 * * 1'), or @daily and the like.")
@config_option()
@click.option("-d", "--data", type=_FOLDER, help="Data folder; default: data.root of the config.")
@click.option("-o", "--output", type=_FOLDER, help="Output folder; default: output.root of the config.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override, as for `ich run`.")
@click.option("--name", help="Of the job; default: the config's. Another job of the same name takes its place.")
@click.option("--with", "kind", type=click.Choice(["systemd", "cron"]), help="Default: systemd where it answers.")
@click.option("--dry-run", is_flag=True, help="Only print what would be installed.")
@click.option("--remove", is_flag=True, help="Take the job of that name away instead.")
@json_option("Print what was done, and the job's text, as JSON.")
@_reported
def schedule(
    cron: str | None,
    config_source: str,
    data: Path | None,
    output: Path | None,
    settings: tuple[str, ...],
    name: str | None,
    kind: str | None,
    dry_run: bool,
    remove: bool,
    as_json: bool,
) -> None:
    """Retrain on this machine by the clock: a systemd timer of yours, or a line in your crontab.

    What is due runs `ich run --if-new-data`: nothing happens unless scans have come. What it prints is added to
    OUTPUT/logs/schedule.log. A run that is still under way when the next is due is left alone.
    """
    from pipeline.config import load_config
    from pipeline.schedule import CRON, default_kind, install, job

    config = load_config(config_source, settings)
    kind, name = kind or default_kind(), name or config.name
    if remove:
        install(job(name, "@daily", [], Path()), kind, remove=True)  # the name says which
        if as_json:
            print_json({"name": name, "with": kind, "done": "removed", "text": []})
        else:
            click.echo(f"taken away: {name}, with {kind}")
        return
    if cron is None:
        raise UsageError("no times; give --cron, for example --cron '0 3 * * 1' for Mondays at 3:00")
    data, output = _folders(config, data, output)
    source = str(Path(config_source).resolve()) if Path(config_source).is_file() else config_source
    arguments = ["run", "--if-new-data", "-c", source, "-d", str(data.resolve()), "-o", str(output.resolve())]
    made = job(name, cron, [*arguments, *(part for one in settings for part in ("--set", one))], output)
    texts = [made.crontab_line()] if kind == CRON else list(made.units().values())
    if not as_json:
        for text in texts:
            click.echo(text)
    if not dry_run:
        install(made, kind)
    if as_json:
        print_json({"name": name, "with": kind, "done": "nothing" if dry_run else "installed", "text": texts})
    elif not dry_run:
        click.echo(f"installed: {name}, with {kind}")


@main.command(epilog="Example: ich status -o OUT")
@output_option("Output folder of the runs.")
@click.option("--runs", type=click.IntRange(min=1), default=10, show_default=True, help="Newest runs to show.")
@json_option("Print everything, all runs and stages, as JSON.")
@_reported
def status(output: Path, runs: int, as_json: bool) -> None:
    """Show runs and how they ended, what is in service, and what takes the room."""
    from pipeline.status import output_status, print_status

    found = output_status(output)
    if as_json:
        click.echo(json.dumps(found))
    else:
        print_status(found, runs)


@main.command(epilog="Example: ich rollback -o OUT --to 12")
@click.option("--to", type=click.IntRange(min=0), metavar="VERSION", help="Which; default: the one before.")
@output_option("Output folder of a run that pushed.")
@click.option("--model-name", help="Which model, where several are in service there.")
@json_option("Print the versions as JSON.")
@_reported
def rollback(to: int | None, output: Path, model_name: str | None, as_json: bool) -> None:
    """Put an earlier version back in service, in one step that no request notices.

    It becomes the newest version, as a copy; the one that it replaces stays in the folder. The next run with new data
    is compared with it, and a run without new data does not push the replaced one again.
    """
    from pipeline.rollback import roll_back
    from serving.manifests.render import model_folder

    done = roll_back(model_folder(output, model_name), output, to)
    if as_json:
        print_json({"in_service": done.target, "copy_of": done.source.name, "replaced": done.replaced.name})
        return
    click.echo(f"in service: {done.target}, a copy of version {done.source.name}, in place of {done.replaced.name}")


@main.command(epilog="Example: ich gc --keep 5 -o OUT --dry-run")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest runs stay.")
@output_option("Output folder of the runs.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@json_option("Print everything, each path too, as JSON.")
@_reported
def gc(keep: int, output: Path, dry_run: bool, as_json: bool) -> int:
    """Remove what no run that stays, no blessed model and none in service needs.

    The newest runs stay however they ended, with all that their results were made from; so do the last that came to
    an end, those that pushed what has a label in service, every version in service, and every blessed model that is
    not. What is removed is made anew if a run asks for it. Exit code 1 says that something could not be removed.
    """
    from pipeline.garbage.collect import as_json as to_json
    from pipeline.garbage.collect import collect, print_collected

    done = collect(output, keep, dry_run=dry_run)
    if as_json:
        click.echo(to_json(done))
    else:
        print_collected(done)
    return 1 if done.failed else 0


@main.command(epilog="Example: ich evaluate result SCANS/masks --json scores.json")
@click.argument("predictions", type=_FOLDER)
@click.argument("truth", type=_FOLDER)
@click.option("--prediction-pattern", help="Where masks lie in PREDICTIONS, e.g. {case}_mask.nii.gz; else found.")
@click.option("--truth-pattern", help="Where masks lie in TRUTH, e.g. {case}/mask.nii.gz; else found.")
@click.option("--allow-missing", is_flag=True, help="Score cases found on both sides, list the others.")
@json_file_option("Print all figures as JSON, or also write them to this file.")
@_reported
def evaluate(
    predictions: Path,
    truth: Path,
    prediction_pattern: str | None,
    truth_pattern: str | None,
    allow_missing: bool,
    json_file: Path | None,
) -> None:
    """Compare predicted with true masks: two NIfTI files, or two folders case by case."""
    from pipeline.evaluate import evaluate as compare
    from pipeline.evaluate import render_table

    report = compare(
        predictions,
        truth,
        prediction_pattern=prediction_pattern,
        truth_pattern=truth_pattern,
        allow_missing=allow_missing,
    )
    text = json.dumps(report.to_json(), indent=1)
    if json_file is not None and str(json_file) == "-":
        click.echo(text)
        return
    if json_file is not None:
        write_text(json_file, text, "give another --json")
    from rich.console import Console

    Console().print(render_table(report))


@main.command(epilog="Example: ich phantom cohort -n 40 --seed 1")
@click.argument("out", type=_FOLDER)
@click.option("-n", "--patients", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("-s", "--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--layout", default="demo", show_default=True, help="Config whose data layout is written.")
@click.option("--size", type=click.Choice(["small", "full"]), default="small", show_default=True, help="Matrix.")
@click.option("--defects", default="", help="Defects to plant, comma-separated, or all; `--defects list` shows them.")
@click.option("--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True)
@json_option("Print the cases, or the defects of `--defects list`, as JSON.")
@_reported
def phantom(
    out: Path, patients: int, seed: int, layout: str, size: str, defects: str, workers: int, as_json: bool
) -> None:
    """Write a cohort of generated head CT with masks: nobody's data, exact truth.

    The same seed gives the same files.
    """
    from components.imaging.phantom import DEFECTS, write_cohort

    if defects == "list":
        if as_json:
            print_json({name: defect.summary for name, defect in DEFECTS.items()})
            return
        for name, defect in DEFECTS.items():
            click.echo(f"{name:<24}{defect.summary}")
        return
    from pipeline.config import load_config
    from pipeline.progress import progress_bar

    data = load_config(layout).data
    if data.sources:
        raise UsageError(
            f"--layout {layout}: has the sources {', '.join(data.sources)}, and a generated cohort is of one layout; "
            "name a config with a single one"
        )
    with progress_bar("scans") as advance:
        summary = write_cohort(
            out,
            patients=patients,
            seed=seed,
            image_pattern=data.image or "images/{case}.nii.gz",
            mask_pattern=data.mask or "masks/{case}.nii.gz",
            manifest=bool(data.manifest),
            size="full" if size == "full" else "small",
            defects=[name.strip() for name in defects.split(",") if name.strip()],
            workers=workers,
            progress=advance,
        )
    if as_json:
        print_json({"folder": out, "cases": [case.case_id for case in summary.cases], "written": summary.written})
        return
    click.echo(f"{out}: {len(summary.cases)} cases, {summary.written} written")


@main.command(epilog="Example: ich check SCANS -c hospital.yaml --html check.html")
@click.argument("data", type=_FOLDER)
@config_option(required=False, help="YAML file, or the name of a shipped config; else the one that fits.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override, e.g. data.checks.metal=error.")
@json_file_option("Print all findings as JSON, or write them to this file.")
@click.option("--html", "html_file", type=_FOLDER, help="Write a page with remedies and pictures to this file.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads; default: one a processor.")
@_reported
def check(
    data: Path,
    config_source: str | None,
    settings: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    workers: int,
) -> int:
    """Check scans and masks as ingestion would, without training.

    Exit code 1 when a scan would be quarantined, else 0.
    """
    from pipeline.check import check_folder, fitting_config, render_table
    from pipeline.config import load_config
    from pipeline.progress import progress_bar

    if settings and config_source is None:
        raise UsageError("--set needs --config")
    config = load_config(config_source, settings) if config_source else fitting_config(data)
    with progress_bar("scans") as advance:
        report = check_folder(data, config, workers=workers, thumbnails=html_file is not None, progress=advance)
    text = json.dumps(report.to_json(), indent=1)
    printed = json_file is not None and str(json_file) == "-"
    pages = {} if json_file is None or printed else {json_file: text}
    if html_file is not None:
        from pipeline.check_page import render_page

        pages[html_file] = render_page(report)
    for path, content in pages.items():
        write_text(path, content, "give another file")
    if printed:
        click.echo(text)
    else:
        if report.codes():
            from rich.console import Console

            Console().print(render_table(report))
        bad = len(report.quarantined)
        click.echo(
            f"{data}: {len(report.cases)} cases as {config.name}, {bad or 'none'} would be quarantined"
            + "".join(f"\n  {path}" for path in pages)
        )
    return 1 if report.quarantined else 0


@main.command("config", epilog="Example: ich config demo --set training.epochs=20")
@click.argument("source", required=False, shell_complete=complete_config)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override, e.g. training.epochs=20.")
@json_option("Print it as JSON.")
@_reported
def show_config(source: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Check a config and print it in full, or list the shipped ones."""
    from pipeline.config import load_config, shipped_configs

    if source is None:
        if settings:
            raise UsageError("--set needs a config; give a YAML file or one of: " + ", ".join(shipped_configs()))
        print_json({"shipped": shipped_configs()}) if as_json else click.echo("\n".join(shipped_configs()))
        return
    found = load_config(source, settings).model_dump(mode="json")
    if as_json:
        print_json(found)
        return
    import yaml

    click.echo(yaml.safe_dump(found, sort_keys=False), nl=False)


for _command in (completion, doctor, init, kubeflow):
    main.add_command(_command)
