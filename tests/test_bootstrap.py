"""What .ci/install and .ci/run promise: an environment that is whole or made anew, no failure passed over."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout whose `uv` only writes down its arguments and makes what an installation makes."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / ".ci", root / ".ci")
    for name, text in (("requirements.lock", "a==1\n"), ("setup.py", ""), ("pyproject.toml", "")):
        (root / name).write_text(text)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(
        f"""#!/bin/sh
        echo "$*" >> {tmp_path}/calls
        case "$*" in
        *"$FAIL_AT"*) test -z "$FAIL_AT" || exit 7 ;;
        esac
        case "$*" in
        "python find"*) echo {sys.executable} ;;
        "python list"*) printf 'cpython-3.12.1-linux  here\\ncpython-3.9.0-linux  there\\n' ;;
        venv*) mkdir -p .venv/bin && ln -s {sys.executable} .venv/bin/python ;;
        *--editable*) touch .venv/bin/ich && chmod +x .venv/bin/ich ;;
        esac
        """
    )
    (tools / "uv").chmod(0o755)
    return root


def install(checkout: Path, fail_at: str = "") -> tuple[int, str, list[str]]:
    """Run .ci/install: exit code, what it said, and the uv commands it ran (not those that only look)."""
    calls = checkout.parent / "calls"
    calls.write_text("")
    path = f"{checkout.parent}/tools{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [checkout / ".ci" / "install"],
        env={"PATH": path, "FAIL_AT": fail_at},
        capture_output=True,
        text=True,
        check=False,
    )
    looks = ("--version", "python find", "python list")
    changes = [call for call in calls.read_text().splitlines() if not call.startswith(looks)]
    return done.returncode, done.stderr, changes


def test_second_installation_does_nothing(checkout: Path) -> None:
    code, _, calls = install(checkout)
    assert code == 0
    assert [call.split()[0] for call in calls] == ["venv", "pip", "pip"]
    assert "--require-hashes" in calls[1] and "--compile-bytecode" in calls[1]
    assert install(checkout) == (0, "Environment .venv is up to date.\n", [])


@pytest.mark.parametrize("changed", ["requirements.lock", "setup.py", "pyproject.toml"])
def test_a_changed_file_updates_the_environment_in_place(checkout: Path, changed: str) -> None:
    install(checkout)
    (checkout / changed).write_text("b==2\n")
    code, _, calls = install(checkout)
    assert code == 0 and [call.split()[0] for call in calls] == ["pip", "pip"]


@pytest.mark.parametrize("step", ["pip sync", "--editable"])
def test_a_broken_installation_is_made_anew(checkout: Path, step: str) -> None:
    code, _, _ = install(checkout, fail_at=step)
    assert code == 7
    code, said, calls = install(checkout)
    assert code == 0 and "interrupted" in said and calls[0].startswith("venv")
    assert install(checkout)[2] == []


def test_a_moved_checkout_gets_a_new_environment(checkout: Path) -> None:
    install(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    code, said, calls = install(moved)
    assert code == 0 and "another folder" in said and calls[0].startswith("venv")


def test_a_machine_without_python_311_is_told_what_it_has(checkout: Path) -> None:
    code, said, calls = install(checkout, fail_at="python find")
    assert code == 1 and calls == []
    assert "found: cpython-3.12.1-linux cpython-3.9.0-linux" in said and "python3.11-venv" in said
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(("failing", "code"), [("lint", 2), ("test", 2), ("", 0)])
def test_ci_fails_where_a_step_fails(checkout: Path, failing: str, code: int) -> None:
    recipes = {name: "false" if name == failing else "true" for name in ("install", "lint", "test")}
    (checkout / "Makefile").write_text("".join(f"{name}:\n\t@{does}\n" for name, does in recipes.items()))
    done = subprocess.run([checkout / ".ci" / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("everything passed" in done.stdout) == (code == 0)
    if failing:
        assert f"exit code 2: make {failing}" in done.stdout
