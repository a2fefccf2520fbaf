"""The promises of the repository: a lock that pins and hashes everything; a wheel and an image in full."""

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OVERRIDES = {canonicalize_name(r.name): r for r in map(Requirement, PYPROJECT["tool"]["uv"]["override-dependencies"])}
PACKAGES = ("pipeline", "components", "schema", "serving")


def tracked_files() -> list[Path]:
    """Paths, relative to the root, of the files under version control that exist."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def lock_entries() -> dict[str, tuple[Version, list[str]]]:
    """Canonical name -> (version, hashes) of the entries of requirements.lock; anything else is an error."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    entries: dict[str, tuple[Version, list[str]]] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})*)\s*", line)
        assert match, f"requirements.lock holds more than 'name==version --hash=sha256:…': {line[:100]!r}"
        name = canonicalize_name(match[1])
        assert name not in entries, f"{name} is pinned twice"
        entries[name] = (Version(match[2]), match[3].split())
    return entries


@pytest.fixture(scope="module")
def lock() -> dict[str, tuple[Version, list[str]]]:
    return lock_entries()


@pytest.fixture(scope="module")
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    captured: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", captured.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return captured


def test_tracked_files_name_no_registry_and_no_machine_path() -> None:
    # Written in pieces, so that this file does not name them either.
    registries = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "ana" + "conda.org"]
    paths = ["/ro" + "ot/", "/wo" + "rk/", "/Use" + "rs/", f"{ROOT}/", f"{Path.home()}/"]
    words = registries + [path for path in paths if len(path) > 2]
    forbidden = re.compile("|".join(map(re.escape, words)))
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate((ROOT / path).read_bytes().decode("utf-8", "replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_locked_package_has_hashes(lock: dict[str, tuple[Version, list[str]]]) -> None:
    assert len(lock) > 100
    assert not [name for name, (_, hashes) in lock.items() if not hashes]


def test_lock_pins_what_setup_asks_for(
    lock: dict[str, tuple[Version, list[str]]], setup_arguments: dict[str, Any]
) -> None:
    asked = [*setup_arguments["install_requires"], *setup_arguments["extras_require"]["dev"]]
    wrong = [r for r in map(Requirement, asked) if canonicalize_name(r.name) not in lock]
    wrong += [r for r in map(Requirement, asked) if r not in wrong and not satisfied(r, lock)]
    assert not wrong, "setup.py and requirements.lock disagree (make lock): " + ", ".join(map(str, wrong))


def test_lock_pins_what_builds_the_project(lock: dict[str, tuple[Version, list[str]]]) -> None:
    """The project is installed without build isolation or network, so its build tools are in the lock."""
    for requirement in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert satisfied(requirement, lock), requirement


def test_lock_keeps_to_the_overrides(lock: dict[str, tuple[Version, list[str]]]) -> None:
    assert not [str(override) for override in OVERRIDES.values() if not satisfied(override, lock)]


def test_only_overridden_packages_break_anothers_range(lock: dict[str, tuple[Version, list[str]]]) -> None:
    """Every dependency that an installed package declares is pinned in its range, or is overridden."""
    broken = []
    for name, (version, _) in lock.items():
        distribution = importlib.metadata.distribution(name)
        installed = Version(distribution.version)
        assert installed == version, f"{name} {installed} is installed, not {version} (make install)"
        for requirement in map(Requirement, distribution.requires or []):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            overridden = canonicalize_name(requirement.name) in OVERRIDES
            if applies and not overridden and not satisfied(requirement, lock):
                broken.append(f"{name} {version} asks for {requirement}")
    assert not broken, "\n".join(broken)


def satisfied(requirement: Requirement, lock: dict[str, tuple[Version, list[str]]]) -> bool:
    entry = lock.get(canonicalize_name(requirement.name))
    return entry is not None and requirement.specifier.contains(entry[0], prereleases=True)


def test_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """An image or a Beam worker installs the wheel, not the checkout: nothing may be left out of it."""
    source = tmp_path / "source"
    for path in tracked_files():
        if path.parts[0] in PACKAGES or len(path.parts) == 1:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listing = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(next(tmp_path.glob("*.whl")))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    held = {line.split()[0] for line in listing.splitlines()[1:]}
    wanted = {str(path) for path in tracked_files() if path.parts[0] in PACKAGES and path.suffix != ".md"}
    assert wanted and not wanted - held, f"missing in the wheel: {sorted(wanted - held)}"


def dockerfile() -> list[list[tuple[str, str]]]:
    """The stages of the Dockerfile, each a list of (instruction, arguments)."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            stages.append([])
        stages[-1].append((instruction, arguments))
    return stages


def test_image_copies_only_what_exists_and_the_context_lets_through() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {rule.strip("!/") for rule in rules if rule.startswith("!")}
    sources = {
        source.rstrip("/")
        for instruction, arguments in chain.from_iterable(dockerfile())
        if instruction == "COPY" and not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    }
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)
    assert sources >= {*PACKAGES, "setup.py", "pyproject.toml", "requirements.lock", "LICENSE"}


def test_image_is_installed_from_the_lock_and_runs_as_a_user() -> None:
    build, final = dockerfile()
    order = [arguments for instruction, arguments in build if instruction in ("COPY", "RUN")]
    sync = next(i for i, step in enumerate(order) if "pip sync" in step)
    assert "--require-hashes" in order[sync] and "--compile-bytecode" in order[sync]
    assert order.index("requirements.lock ./") < sync < order.index("pipeline/ pipeline/"), "own layer"
    assert not [step for step in order[sync + 1 :] if "install" in step and "--no-deps" not in step]
    last = dict(final)
    assert build[0][1].split()[0] == last["FROM"], "compiled packages need the very same base"
    assert last["ENTRYPOINT"] == '["ich"]'
    assert last["USER"].isdigit() and int(last["USER"]) > 0
