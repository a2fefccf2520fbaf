"""What the commands have in common: how failures end, options of the same name and meaning, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.imaging.errors import IchError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FOLDER = click.Path(path_type=Path)


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turns an expected failure into one block on standard error and its exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except IchError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to go on", err=True)
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(code or 0)

    return run


def config_option(*, required: bool = True, help: str = "YAML file, or the name of a shipped config.") -> Any:
    """`--config`, with the shipped ones completed by the shell."""
    return click.option("-c", "--config", "config_source", required=required, help=help, shell_complete=complete_config)


def complete_config(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped configurations that begin so, or else files."""
    from click.shell_completion import CompletionItem

    folder = Path(__file__).parents[1] / "configs"  # pipeline.config would take half a second to import
    names = sorted(path.stem for path in folder.glob(f"{incomplete}*.yaml")) if "/" not in incomplete else []
    return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


def output_option(help: str) -> Any:
    """`--output`, of commands that look at what runs left."""
    return click.option("-o", "--output", type=FOLDER, default=Path("output"), show_default=True, help=help)


def json_option(help: str = "Print the outcome as JSON.") -> Any:
    """`--json` of commands whose outcome is short."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def json_file_option(help: str) -> Any:
    """`--json` of commands whose outcome is long: alone, or with `-`, it prints; with a file it writes there."""
    return click.option("--json", "json_file", type=FOLDER, is_flag=False, flag_value=Path("-"), help=help)


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    click.echo(json.dumps(value, default=str))


def write_text(path: Path, text: str, remedy: str) -> None:
    """Writes a file that appears whole or not at all.

    Args:
        path: The file.
        text: What it holds.
        remedy: What the user can do if it cannot be written.

    Raises:
        UsageError: It cannot be written.
    """
    from components.imaging.nifti import write_bytes

    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path}: cannot write there ({error.strerror}); {remedy}") from None
