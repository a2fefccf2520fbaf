"""`ich init`: a configuration for a data folder, from what lies in it."""

from __future__ import annotations

from pathlib import Path

import click

from components.imaging.errors import UsageError
from pipeline.commands.common import FOLDER, json_option, reported, write_text


@click.command(epilog="Example: ich init SCANS -o hospital.yaml")
@click.argument("data", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, help="YAML file to write; default: named as the folder. -: print it.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option("Print what was guessed, and why, as JSON.")
@reported
def init(data: Path, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Look at a folder of scans and masks, and write a configuration that finds them.

    It says what it guessed and why, and which files it did not understand. Look the file over, then let `ich check`
    look at the scans themselves. Where no pattern tells which files belong together, a manifest is written beside it.
    """
    from pipeline.config import load_config
    from pipeline.guess.propose import propose
    from pipeline.guess.write import to_json, to_lines, to_yaml

    printed = output is not None and str(output) == "-"
    if printed and as_json:
        raise UsageError("--output - and --json: both print to the same place; give one of them")
    target = output if output is not None and not printed else Path(f"{_name(data)}.yaml")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder, wanted a YAML file; give another --output")
    manifest = target.with_suffix(".csv")
    if not printed and target.exists() and not overwrite:
        raise UsageError(f"{target}: is there already; give another --output, or --overwrite to replace it")
    made = propose(data, manifest)
    written = {target: to_yaml(made), **({manifest: made.manifest} if made.manifest else {})}
    if printed:
        if made.manifest:
            raise UsageError(f"{data}: needs a manifest beside the configuration; give a file with --output")
        click.echo(written[target], nl=False)
        return
    if made.manifest and manifest.exists() and not overwrite:
        raise UsageError(f"{manifest}: is there already; give another --output, or --overwrite to replace it")
    for path, text in reversed(written.items()):
        write_text(path, text, "give another --output")
    load_config(target)  # what was written is what will be read
    commands = [
        f"ich check {data} -c {target}",
        f"ich run -c {target} -d {data} -o output",
    ]
    if as_json:
        click.echo(to_json(made, str(target), commands))
        return
    for line in to_lines(made, commands):
        click.echo(line)
    click.echo("written: " + ", ".join(str(path) for path in written))


def _name(data: Path) -> str:
    return data.resolve().name or "data"
