"""`ich completion`: what makes a shell complete commands, options and names of configurations."""

from __future__ import annotations

import click

from pipeline.commands.common import reported

SHELLS = {
    "bash": "source <(ich completion bash)   # in ~/.bashrc",
    "zsh": "source <(ich completion zsh)    # in ~/.zshrc, behind compinit",
    "fish": "ich completion fish > ~/.config/fish/completions/ich.fish",
}


@click.command(epilog="Example: source <(ich completion bash)")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
@reported
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options and names of shipped configs."""
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # click knows these three
    # Not found().source() of bash: it runs a bash to look at its version.
    script = ShellComplete.source(found(context.find_root().command, {}, "ich", "_ICH_COMPLETE"))
    click.echo(script)
