"""Where the program raises what a user may have caused: found in its sources, and recorded as it happens."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.imaging.errors import IchError

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "components", "serving", "schema")
_ERRORS = {"UsageError", "IchError", "DataError", "ScanError", "RefusedScanError"}
_VALUE_ERRORS = ("pipeline/config.py",)
"""Here a ValueError is what the user reads: pydantic's validators raise it. It must catch none itself."""


@dataclass(frozen=True)
class Site:
    """A call that makes an error.

    Attributes:
        file: Relative to the root.
        function: The function that it stands in, with its classes.
        first: Its first line.
        last: Its last line.
        words: The texts that stand in it.
    """

    file: str
    function: str
    first: int
    last: int
    words: tuple[str, ...]


def sites() -> list[Site]:
    """All of them, in the order of files and lines."""
    found: list[Site] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name != "components/imaging/errors.py":
                found += _sites_in(ast.parse(path.read_text(encoding="utf-8")), name, ())
    return found


def _sites_in(node: ast.AST, file: str, inside: tuple[str, ...]) -> Iterator[Site]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        below = (*inside, child.name) if named else inside  # type: ignore[attr-defined]
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
            wanted = _ERRORS | ({"ValueError"} if file in _VALUE_ERRORS else set())
            if child.func.id in wanted:
                texts = [item.value for item in ast.walk(child) if isinstance(item, ast.Constant)]
                words = tuple(text for text in texts if isinstance(text, str))
                yield Site(file, ".".join(below), child.lineno, child.end_lineno or child.lineno, words)
        yield from _sites_in(child, file, below)


@contextmanager
def recorded() -> Iterator[set[tuple[str, int]]]:
    """Collects file and line of each such error that is made meanwhile."""
    seen: set[tuple[str, int]] = set()

    def note() -> None:
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_code.co_name in ("__init__", "note") and _is_error(frame):
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT):
            seen.add((path.relative_to(ROOT).as_posix(), frame.f_lineno))

    def made(self: IchError, *arguments: object) -> None:
        note()
        Exception.__init__(self, *arguments)

    class NotedError(ValueError):
        def __init__(self, *arguments: object) -> None:
            note()
            super().__init__(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IchError, "__init__", made, raising=False)
        for file in _VALUE_ERRORS:
            module = __import__(file.removesuffix(".py").replace("/", "."), fromlist=["x"])
            patch.setattr(module, "ValueError", NotedError, raising=False)
        yield seen


def _is_error(frame: Any) -> bool:
    """Whether a frame is that of an error's own constructor."""
    return isinstance(frame.f_locals.get("self"), IchError | ValueError)


def which(place: tuple[str, int], all_sites: list[Site]) -> Site | None:
    """The site that a line belongs to."""
    file, line = place
    return next((site for site in all_sites if site.file == file and site.first <= line <= site.last), None)
