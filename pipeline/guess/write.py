"""The proposal as a YAML file with its reasons, and as lines for a reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from pipeline.guess.propose import Proposal

_WIDTH = 120
_LONGEST_SETTING = 66


def to_yaml(made: Proposal) -> str:
    """The configuration; every key has its reason behind it, or above where the line is long."""
    reasons = {guess.key: guess.why for guess in made.guesses}
    head = "# Proposed by `ich init` from names, headers and a few masks. `ich config FILE` shows it with all defaults."
    return "\n".join([head, *_yaml_lines(made.tree(), reasons, "")]) + "\n"


def _yaml_lines(tree: dict[str, Any], reasons: dict[str, str], path: str) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in tree.items():
        here = f"{path}{key}"
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, reasons, f"{here}.")
            continue
        line = f"{indent}{key}: {_scalar(value)}"
        reason = " ".join(reasons.get(here, "").split())
        if reason and len(line) + len(reason) + 3 > _WIDTH:
            yield f"{indent}# {reason}"
            yield line
        else:
            yield f"{line} # {reason}" if reason else line


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def to_json(made: Proposal, config: str | None, commands: list[str]) -> str:
    """Everything, for a machine.

    Args:
        made: The proposal.
        config: The file it was written to, if it was.
        commands: What to do next.
    """
    return json.dumps(
        {
            "data": str(made.root),
            "config": config,
            "cases": made.cases,
            "incomplete": made.incomplete,
            "patients": made.patients,
            "sources": made.sources,
            "minutes": None if made.minutes is None else round(made.minutes),
            "proposed": made.tree(),
            "guesses": [{"key": guess.key, "value": guess.value, "why": guess.why} for guess in made.guesses],
            "notes": made.notes,
            "not_understood": made.unexplained,
            "next": commands,
        }
    )


def to_lines(made: Proposal, commands: list[str]) -> Iterator[str]:
    """What is shown: what was found, what was guessed and why, what was not understood, what to do next."""
    patients = ", ".join(f"{name} {count}" for name, count in made.patients.items())
    incomplete = f", {made.incomplete} incomplete" if made.incomplete else ""
    whose = f"of {sum(made.patients.values())} patients ({patients})"
    yield f"{made.root}: {made.cases} scans with masks {whose}{incomplete}"
    yield "guessed:"
    said = [f"{guess.key}: {_scalar(guess.value)}" for guess in made.guesses]
    width = min(max(map(len, said), default=0), _LONGEST_SETTING)
    yield from (f"  {text:<{width}}  {guess.why}" for text, guess in zip(said, made.guesses, strict=True))
    if made.notes:
        yield "noted:"
        yield from (f"  {note}" for note in made.notes)
    if made.unexplained:
        yield "not understood, so not used:"
        yield from (f"  {line}" for line in made.unexplained)
    if made.minutes is not None:
        yield f"training: very roughly {_duration(made.minutes)} at most on the processors of this machine"
    yield "next:"
    yield from (f"  {command}" for command in commands)


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes))} minutes" if minutes < 90 else f"{minutes / 60:.0f} hours"
