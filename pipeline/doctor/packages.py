"""Python and the packages: versions against the ranges and the lock, and whether they are compiled."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import re
import site
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding, worst

ROOT = Path(__file__).parents[2]
_PYTHON = (3, 11)
_GLIBC = (2, 28)
_HEAVY = ("tensorflow", "tfx", "apache_beam", "keras", "kfp", "tensorflow_model_analysis")
_NAMES_SHOWN = 5
_TRAPS = {
    "KERAS_BACKEND": lambda value: value != "tensorflow",
    "TF_USE_LEGACY_KERAS": lambda value: value.lower() not in ("", "0", "false"),
}
"""Variables with which the trainer would get another library than the one that it is written for."""


def python_findings() -> Iterator[Finding]:
    """Looks at the interpreter, the packages and what changes how they are imported."""
    yield _interpreter()
    yield from _glibc()
    yield from _versions()
    yield from worst("bytecode", "packages are compiled", list(_bytecode()))
    yield from _variables()


def _interpreter() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] != _PYTHON:
        return Finding("Python", PROBLEM, text, "TFX 1.21 needs Python 3.11; `make install` finds it and makes .venv")
    return Finding("Python", OK, text)


def _glibc() -> Iterator[Finding]:
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name != "glibc" or platform.machine() != "x86_64":
        yield Finding(
            "system", PROBLEM, f"{platform.machine()}, {name or 'no glibc'}", "it needs x86-64 Linux with glibc"
        )
    elif numbers < _GLIBC:
        yield Finding("system", PROBLEM, f"glibc {version}", "2.28 or newer is needed, for example Debian 10 or RHEL 8")


def _versions() -> Iterator[Finding]:
    """What is missing, out of its range, or another version than the one that was tested."""
    ranges = _ranges()
    installed = {name: _installed(name) for name in ranges}
    missing = sorted(name for name, version in installed.items() if version is None)
    outside = sorted(
        f"{name} {version} (wanted {ranges[name].specifier})"
        for name, version in installed.items()
        if version is not None and not ranges[name].specifier.contains(version, prereleases=True)
    )
    if missing:
        yield Finding("packages", PROBLEM, f"missing: {_some(missing)}", "`make install`")
    if outside:
        yield Finding("packages", PROBLEM, f"out of range: {_some(outside)}", "`make install`")
    if not ranges:
        yield Finding("packages", NOTE, "what is asked for is nowhere to be read", "install it: `make install`")
    lock = read_lock(ROOT / "requirements.lock")
    other = sorted(
        f"{name} {found} (tested {version})"
        for name, version in lock.items()
        if (found := installed.get(name) or _installed(name)) is not None and found != version
    )
    if other:
        yield Finding("packages", NOTE, f"other versions than were tested: {_some(other)}", "`make install`")
    if ranges and not missing and not outside and not other:
        main = ", ".join(f"{name} {installed[name]}" for name in ("tfx", "tensorflow", "keras") if installed.get(name))
        tested = f", {len(lock)} as locked" if lock else ""
        yield Finding("packages", OK, f"{main}{tested}")


def _ranges() -> dict[str, Requirement]:
    """What is asked for, by name: of the sources beside this file, else of the installed package."""
    lines: list[str] = []
    setup = ROOT / "setup.py"
    if setup.exists():
        body = setup.read_text(encoding="utf-8").partition("DEVELOPMENT = ")[0]
        lines = re.findall(r'^ {4}"([^"]+)",$', body, re.MULTILINE)
    else:
        try:
            lines = [line for line in importlib.metadata.requires("ich") or () if "extra ==" not in line]
        except importlib.metadata.PackageNotFoundError:
            lines = []
    found = map(Requirement, lines)
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def read_lock(path: Path) -> dict[str, str]:
    """Versions by name; none where there is no lock, as in an installed package."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def _installed(name: str) -> str | None:
    try:
        version = importlib.metadata.version(name)
        Version(version)
    except (importlib.metadata.PackageNotFoundError, InvalidVersion, TypeError):
        return None
    return version


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _NAMES_SHOWN} more" if len(items) > _NAMES_SHOWN else ""
    return ", ".join(items[:_NAMES_SHOWN]) + more


def _bytecode() -> Iterator[Finding]:
    """Packages whose sources have no compiled file beside them take over a minute to import, each time anew."""
    bare = [name for name in _HEAVY if (share := compiled_share(name)) is not None and share < 0.5]
    if bare:
        places = site.getsitepackages()[0]
        never = " and unset PYTHONDONTWRITEBYTECODE" if sys.dont_write_bytecode else ""
        yield Finding(
            "bytecode", NOTE, f"not compiled: {', '.join(bare)}; importing them takes over a minute each time",
            f"`{sys.executable} -m compileall -q -j 0 {places}`{never}",
        )  # fmt: skip


def compiled_share(package: str, most: int = 40) -> float | None:
    """Share of a package's uppermost sources that have a compiled file; None where there is no such package."""
    try:
        spec = importlib.util.find_spec(package)  # imports nothing: it is no submodule
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    sources = [*sorted(folder.glob("*.py")), *sorted(folder.glob("*/*.py"))][:most]
    if not sources:
        return None
    return sum(Path(importlib.util.cache_from_source(str(path))).exists() for path in sources) / len(sources)


def _variables() -> Iterator[Finding]:
    for name, wrong in _TRAPS.items():
        if name in os.environ and wrong(os.environ[name]):
            yield Finding("environment", PROBLEM, f"{name}={os.environ[name]}", f"unset {name}")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0))
    if threads.isdigit() and int(threads) > usable:
        yield Finding("environment", NOTE, f"OMP_NUM_THREADS={threads}, more than the {usable} processors", "unset it")
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        yield Finding("environment", NOTE, "TF_ENABLE_ONEDNN_OPTS=0: the processor trains far slower", "unset it")
    own = site.getusersitepackages()
    if site.ENABLE_USER_SITE and own in sys.path and any(Path(own).glob("*.dist-info")):
        yield Finding(
            "environment", NOTE, f"packages in {own} may go before those that were tested", "set PYTHONNOUSERSITE=1"
        )
