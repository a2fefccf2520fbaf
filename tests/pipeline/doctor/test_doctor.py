"""`ich doctor`: each trap is found where there is one, and nowhere else; on machines made of files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.doctor import machine, packages, places, surroundings
from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding

ROOT = Path(__file__).parents[3]
GIB = 2**30


def one(findings: list[Finding], name: str) -> Finding:
    (found,) = [item for item in findings if item.name == name]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two processors, no limits and a large /dev/shm."""
    for folder in ("sys/fs/cgroup", "proc/self", "dev/shm"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/cpuinfo").write_text("flags : fpu avx2 avx512_bf16\n")
    return tmp_path


def looked_at(root: Path) -> list[Finding]:
    return list(machine.machine_findings(root))


# --- the machine


@pytest.mark.parametrize(
    ("flags", "state", "word"),
    [
        ("fpu avx2 amx_bf16 avx512_bf16", OK, "amx_bf16, avx512_bf16"),
        ("fpu avx2", OK, "auto is float32"),
        ("fpu sse2", NOTE, "AVX2"),
        ("", NOTE, "cannot be read"),
    ],
)
def test_bfloat16(root: Path, flags: str, state: str, word: str) -> None:
    (root / "proc/cpuinfo").write_text(f"flags : {flags}\n" if flags else "")
    found = one(looked_at(root), "bfloat16")
    assert found.state == state and word in found.text


@pytest.mark.parametrize(
    ("group", "file", "text", "wanted"),
    [
        ("/", "cpu.max", "max 100000", 4.0),
        ("/", "cpu.max", "150000 100000", 1.5),
        ("/a/b", "a/cpu.max", "200000 100000", 2.0),
        ("/a/b", "other/cpu.max", "200000 100000", 4.0),
        ("/", "cpu/cpu.cfs_quota_us", "300000", 3.0),
        ("/", "cpu/cpu.cfs_quota_us", "-1", 4.0),
    ],
)
def test_processors_of_a_container(
    root: Path, monkeypatch: pytest.MonkeyPatch, group: str, file: str, text: str, wanted: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    base = root / "sys/fs/cgroup"
    (base / file).parent.mkdir(parents=True, exist_ok=True)
    (base / file).write_text(text)
    (base / "cpu").mkdir(exist_ok=True)
    (base / "cpu/cpu.cfs_period_us").write_text("100000")
    assert machine.allowed_processors(root) == wanted
    assert one(looked_at(root), "processors").state == (NOTE if wanted < 3.6 else OK)


@pytest.mark.parametrize(
    ("limit", "free", "state"), [("max", 9, OK), (f"{2 * GIB}", 9, PROBLEM), (f"{6 * GIB}", 9, OK), ("max", 3, NOTE)]
)
def test_memory(root: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: int, state: str) -> None:
    memory = SimpleNamespace(total=16 * GIB, available=free * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    (root / "sys/fs/cgroup/memory.max").write_text(limit)
    found = one(looked_at(root), "memory")
    assert found.state == state
    assert bool(found.remedy) == (state != OK)
    assert ("limit" in found.text) == (limit != "max")


def nvidia(root: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Finding:
    """What is said with an nvidia-smi that does this."""
    program = root / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return one(looked_at(root), "GPU")


def test_gpus(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = nvidia(root, monkeypatch, "echo 'H100, 81559 MiB, 550.1'")
    assert (found.state, "H100, 81559 MiB" in found.text) == (OK, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert one(looked_at(root), "GPU").state == NOTE


def test_a_gpu_that_is_not_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = nvidia(root, monkeypatch, "echo 'No devices were found'; exit 6")
    assert found.state == NOTE and "No devices were found" in found.text


def test_a_driver_without_its_tools(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    assert one(looked_at(root), "GPU").state == OK
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("550")
    assert one(looked_at(root), "GPU").state == NOTE


def test_few_open_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1_000_000))
    found = one(looked_at(root), "open files")
    assert (found.state, found.remedy) == (NOTE, "`ulimit -n 4096`")


def test_no_shared_memory(root: Path) -> None:
    (root / "dev/shm").rmdir()
    assert one(looked_at(root), "/dev/shm").state == NOTE


# --- folders


def test_an_output_folder_that_is_not_there_yet_is_left_so(tmp_path: Path) -> None:
    found = list(places.place_findings(tmp_path / "a" / "b"))
    assert one(found, "output folder").state in (OK, NOTE)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert one(list(places.place_findings(tmp_path / "file")), "output folder").state == PROBLEM
    assert one(list(places.place_findings(tmp_path / "file/x")), "output folder").state == PROBLEM


@pytest.mark.parametrize(("free", "state"), [(0.5, PROBLEM), (5, NOTE), (50, OK)])
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    usage = SimpleNamespace(total=100 * GIB, free=int(free * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(places, "file_system", lambda _: "ext4")
    assert one(list(places.place_findings(tmp_path)), "output folder").state == state


def test_a_share_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(places.fcntl, "flock", refuse)
    monkeypatch.setattr(places, "file_system", lambda _: "nfs4")
    found = [item for item in places.place_findings(tmp_path) if item.name == "output folder"]
    assert found[0].state == PROBLEM
    assert "locked" in found[0].text and "nfs4" in found[0].text


def test_a_share_with_another_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = places.time.time()
    monkeypatch.setattr(places.time, "time", lambda: now + 100)
    assert one(list(places.place_findings(tmp_path)), "clock").state == NOTE


def test_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.runs_programs(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    assert one(list(places.place_findings(tmp_path)), "temporary folder").state == PROBLEM


def test_where_nothing_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert not places.runs_programs(tmp_path)


def test_the_kind_of_a_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /mnt/my\\040share nfs4 rw 0 0\nt /mnt/my\\040shares tmpfs rw 0 0\n"
    )
    assert places.file_system(Path("/mnt/my share/out"), mounts) == "nfs4"
    assert places.file_system(Path("/mnt/other"), mounts) == "ext4"
    assert places.file_system(Path("/mnt"), tmp_path / "none") == ""


# --- Python and packages


def versions(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> list[Finding]:
    """What is said where some packages have other versions; None: missing."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in found:
            if found[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return str(found[name])
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return [item for item in packages.python_findings() if item.name == "packages"]


def test_the_packages_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = versions(monkeypatch)
    assert found.state == OK and "tensorflow 2.21" in found.text and "as locked" in found.text


def test_a_package_that_is_missing_or_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    missing, outside, other = versions(monkeypatch, keras="2.15.0", nibabel=None, rich="13.0.0")
    assert (missing.state, missing.text) == (PROBLEM, "missing: nibabel")
    assert outside.state == PROBLEM and "keras 2.15.0 (wanted" in outside.text
    assert other.state == NOTE and "rich 13.0.0 (tested" in other.text


def test_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 0, "final", 0))
    found = one(list(packages.python_findings()), "Python")
    assert found.state == PROBLEM and "3.11" in found.remedy


def test_packages_that_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bare_package_of_this_test"
    package.mkdir()
    for name in ("__init__", "a", "b"):
        (package / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(packages, "_HEAVY", (package.name, "no_such_package_at_all"))
    found = one(list(packages.python_findings()), "bytecode")
    assert found.state == NOTE and package.name in found.text and "compileall" in found.remedy
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
    assert one(list(packages.python_findings()), "bytecode").state == OK
    assert package.name not in sys.modules


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("KERAS_BACKEND", "jax", PROBLEM),
        ("TF_USE_LEGACY_KERAS", "1", PROBLEM),
        ("TF_ENABLE_ONEDNN_OPTS", "0", NOTE),
        ("OMP_NUM_THREADS", "4096", NOTE),
    ],
)
def test_variables_that_change_everything(monkeypatch: pytest.MonkeyPatch, name: str, value: str, state: str) -> None:
    for other in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS", "TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(other, raising=False)
    assert not [item for item in packages.python_findings() if name in item.text]
    monkeypatch.setenv(name, value)
    (found,) = [item for item in packages.python_findings() if name in item.text]
    assert found.state == state


# --- surroundings


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not [item for item in surroundings.surrounding_findings() if item.name == "proxy"]
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert one(list(surroundings.surrounding_findings()), "proxy").state == NOTE
    monkeypatch.setenv("no_proxy", "localhost,.local")
    assert one(list(surroundings.surrounding_findings()), "proxy").state == OK


def test_a_language_that_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    found = one(list(surroundings.surrounding_findings()), "language")
    assert found.state == NOTE and "locale ANSI" in found.text


# --- the command


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
        monkeypatch.delenv(name, raising=False)
    shown = CliRunner().invoke(main, ["doctor"])
    printed = CliRunner().invoke(main, ["doctor", "--json"])
    found = json.loads(printed.stdout)
    states = [item["state"] for item in found["findings"]]
    assert (found["problems"], found["notes"]) == (states.count(PROBLEM), states.count(NOTE))
    assert shown.exit_code == printed.exit_code == int(found["problems"] > 0)
    for item in found["findings"]:
        assert f"{item['name']:<18}" in shown.stdout
        assert item["state"] == OK or item["remedy"]
    assert "\x1b" not in shown.stdout
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    refused = CliRunner().invoke(main, ["doctor"])
    assert refused.exit_code == 1 and "KERAS_BACKEND=torch" in refused.stdout


def test_tensorflow_stays_out(tmp_path: Path) -> None:
    program = """
import sys
from click.testing import CliRunner
from pipeline.cli import main
CliRunner().invoke(main, ["doctor"])
print([name for name in ("tensorflow", "tfx", "keras", "numpy", "nibabel") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_deep_lets_tensorflow_compute(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "doctor", "--deep", "--json", "-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {item["name"]: item for item in json.loads(done.stdout)["findings"]}
    assert found["float32"]["text"] == found["bfloat16"]["text"] == "multiplies right"
    assert "sees" in found["TensorFlow"]["text"] and "TFX" not in found
    assert done.stderr == ""
