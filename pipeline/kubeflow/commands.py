"""The commands `ich kubeflow ...`. Nothing heavy is imported before one of them needs it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.imaging.errors import UsageError
from pipeline.commands.common import config_option, json_option, reported

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.kubeflow.client import Client


def _config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override, e.g. kubeflow.host=URL."),
        config_option(),
    ):
        command = option(command)
    return command


def _places(*short: str) -> Callable[..., Any]:
    """The options for data and output; `short` are further names of the latter."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(*short, "--output", help="Output folder or URI, as the pods see it; default: output.root."),
            click.option("-d", "--data", help="Data folder or URI, as the pods see it; default: data.root."),
        ):
            command = option(command)
        return command

    return decorate


@click.group()
def kubeflow() -> None:
    """Run the pipeline on Kubeflow Pipelines 2: where, is the section `kubeflow` of the config.

    A token is no part of the config: it comes from the file that kubeflow.token_file or KF_PIPELINES_SA_TOKEN_PATH
    names, or from KF_PIPELINES_TOKEN.
    """


@kubeflow.command()
@_config_options
@_places()
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("pipeline.yaml"), show_default=True, help="The file."
)
@reported
def compile(config_source: str, settings: tuple[str, ...], data: str | None, output: str | None, out: Path) -> None:
    """Write the pipeline as a file that Kubeflow Pipelines 2 runs.

    `submit` and `schedule` do it by themselves; the file is for its own web page, or for looking at it.
    """
    from pipeline.config import load_config
    from pipeline.console import captured
    from pipeline.kubeflow.compile import compile_pipeline

    config = load_config(config_source, settings)
    data, output = _folders(config, data, output)
    with captured(Path(os.devnull)):
        compile_pipeline(config, data, output, out)
    click.echo(out)


@kubeflow.command()
@_config_options
@_places("-o")
@reported
def submit(config_source: str, settings: tuple[str, ...], data: str | None, output: str | None) -> None:
    """Start a run now.

    The command ends once the cluster has it; `ich kubeflow list` shows how it goes on.
    """
    from pipeline.config import load_config

    config = load_config(config_source, settings)
    data, output = _folders(config, data, output)
    client = _client(config)
    with _compiled(config, data, output) as package:
        started = client.submit(package)
    click.echo(f"started: {started.name} (run {started.run}, pipeline version {started.version})")
    click.echo(f"  {started.url}")


@kubeflow.command()
@_config_options
@_places("-o")
@click.option("--cron", required=True, metavar="TIMES", help="Five fields as cron has them, in UTC, or @daily.")
@click.option("--no-catchup", is_flag=True, help="Of times that were missed, make up for the last one only.")
@click.option("--name", help="Of the schedule; default: the config's. Another schedule of the same name is replaced.")
@reported
def schedule(
    config_source: str,
    settings: tuple[str, ...],
    data: str | None,
    output: str | None,
    cron: str,
    no_catchup: bool,
    name: str | None,
) -> None:
    """Start a run by the clock.

    The same command again changes nothing; with other times, another configuration or program, it replaces the
    schedule of that name. A run that is still under way when the next is due makes that one wait.
    """
    from pipeline.config import load_config
    from pipeline.schedule import Times

    config, times = load_config(config_source, settings), Times.parse(cron)
    name = _name(name, config)
    data, output = _folders(config, data, output)
    client = _client(config)
    with _compiled(config, data, output) as package:
        done = client.schedule(package, name, times, catch_up=not no_catchup)
    click.echo(
        f"{done.how}: {name}, at {times.expression} (UTC), next {done.next_due:%Y-%m-%d %H:%M} "
        f"(recurring run {done.id}, pipeline version {done.version})"
    )


@kubeflow.command()
@_config_options
@click.option("--name", help="Of the schedule; default: the config's.")
@reported
def unschedule(config_source: str, settings: tuple[str, ...], name: str | None) -> None:
    """Take a schedule away.

    A run that is under way goes on.
    """
    from pipeline.config import load_config

    config = load_config(config_source, settings)
    name = _name(name, config)
    found = _client(config).unschedule(name)
    click.echo(f"taken away: {name}" + (f", {found} of that name" if found > 1 else "") if found else f"none: {name}")


@kubeflow.command("list")
@_config_options
@click.option("--runs", type=click.IntRange(1, 200), default=10, show_default=True, help="Newest runs to show.")
@json_option("Print everything as JSON.")
@reported
def show(config_source: str, settings: tuple[str, ...], runs: int, as_json: bool) -> None:
    """Show schedules and when they are due, and runs and how they ended."""
    from pipeline.config import load_config

    found = _client(load_config(config_source, settings)).listing(runs)
    if as_json:
        click.echo(json.dumps(found))
        return
    from pipeline.kubeflow.tables import print_listing

    print_listing(found)


def _name(name: str | None, config: Config) -> str:
    name = name or config.name
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name):
        raise UsageError(f"--name {name!r}: wanted up to 63 letters, digits, _ and - alone")
    return name


def _client(config: Config) -> Client:
    """Greets the cluster: before the pipeline is compiled, which takes longer."""
    from pipeline.kubeflow.client import Client

    return Client(config)


@contextmanager
def _compiled(config: Config, data: str, output: str) -> Iterator[Path]:
    """The pipeline as a file for Kubeflow."""
    from pipeline.console import captured
    from pipeline.kubeflow.compile import compile_pipeline

    with tempfile.TemporaryDirectory(prefix="ich-kubeflow-") as folder:
        package = Path(folder) / "pipeline.yaml"
        with captured(Path(os.devnull)):
            compile_pipeline(config, data, output, package)
        yield package


def _folders(config: Config, data: str | None, output: str | None) -> tuple[str, str]:
    """Data and output, from the command line or else the configuration."""
    return _as_pods_see_it(data or config.data.root, "data"), _as_pods_see_it(output or config.output.root, "output")


def _as_pods_see_it(place: str | None, which: str) -> str:
    if not place:
        raise UsageError(f"no {which} folder; give --{which}, or {which}.root in the config")
    if not re.match(r"/|[a-z][a-z0-9+.-]*://", place):
        raise UsageError(
            f"--{which} {place}: found a relative path, wanted a URI such as s3://bucket/{which}, or the full path of "
            "a folder in the pods"
        )
    return place
