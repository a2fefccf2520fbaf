"""Processors, memory, GPUs and limits, as this process may use them."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from components.trainer.processor import BFLOAT16_FLAGS, cpu_flags
from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding

GIB = 2**30
MEMORY_GIB = 4.0
"""What `ich run` is promised to need at most."""
_LEAST_MEMORY_GIB = 3.0
_LEAST_FILES = 1024
_LEAST_SHARED_MIB = 64


def machine_findings(root: Path = Path("/")) -> Iterator[Finding]:
    """Looks at the machine.

    Args:
        root: Where `proc`, `sys` and `dev` lie; another place in tests.
    """
    yield _processors(root)
    yield _flags(root)
    yield _memory(root)
    yield _gpus(root)
    yield _open_files()
    yield _shared_memory(root)


def cgroup_value(root: Path, new: str, old: str) -> str | None:
    """A limit of the control group, of version 2 or else 1; None where there is none.

    A process in a container sees its own group as the uppermost; outside, its group and all above it count.
    """
    base = root / "sys/fs/cgroup"
    try:
        own = next(
            line.split(":", 2)[2]
            for line in (root / "proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        own = "/"
    here = base / own.strip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(base):
            break
        try:
            text = (folder / new).read_text().strip()
        except OSError:
            continue
        if not text.startswith("max"):
            return text
    try:
        return (base / old).read_text().strip()
    except OSError:
        return None


def allowed_processors(root: Path = Path("/")) -> float:
    """How many processors' time this process may take."""
    usable = float(len(os.sched_getaffinity(0)))
    quota = cgroup_value(root, "cpu.max", "cpu/cpu.cfs_quota_us")
    if quota is None:
        return usable
    try:
        amount, *period = quota.split()
        if not period:
            period = [(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()]
        share = int(amount) / int(period[0])
    except (OSError, ValueError, ZeroDivisionError):
        return usable
    return min(usable, share) if share > 0 else usable


def _processors(root: Path) -> Finding:
    usable, allowed = len(os.sched_getaffinity(0)), allowed_processors(root)
    text = f"{usable} of {os.cpu_count()}"
    if allowed < 0.9 * usable:
        remedy = f"start it with `taskset -c 0-{max(0, int(allowed) - 1)}`, so that threads do not wait for each other"
        return Finding("processors", NOTE, f"{text} usable, but time of {allowed:g} only (control group)", remedy)
    if usable < 2:
        return Finding("processors", NOTE, f"{text} usable: training will be slow", "give it 2 or more")
    return Finding("processors", OK, f"{text} usable")


def _flags(root: Path) -> Finding:
    flags = cpu_flags(root / "proc/cpuinfo")
    if not flags:
        return Finding("bfloat16", NOTE, "the processor's flags cannot be read", "training.precision: float32 works")
    if native := sorted(BFLOAT16_FLAGS & flags):
        return Finding("bfloat16", OK, f"{', '.join(native)}: training.precision: auto uses it")
    if not flags & {"avx2"}:
        return Finding("bfloat16", NOTE, "the processor has not even AVX2: all is slow", "use another machine")
    return Finding("bfloat16", OK, "no AMX and no AVX-512 BF16: training.precision: auto is float32")


def _memory(root: Path) -> Finding:
    total, free = psutil.virtual_memory().total / GIB, psutil.virtual_memory().available / GIB
    text, limit = f"{total:.1f} GiB, {free:.1f} free", total
    value = cgroup_value(root, "memory.max", "memory/memory.limit_in_bytes")
    if value is not None and value.isdigit() and int(value) / GIB < total:
        limit = int(value) / GIB
        text = f"limit {limit:.1f} GiB (control group) of {total:.1f}, {free:.1f} free"
    remedy = f"give it {MEMORY_GIB:g} GiB; a smaller training.batch_size and grid.size need less"
    if limit < _LEAST_MEMORY_GIB:
        return Finding("memory", PROBLEM, text, remedy)
    if min(limit, free) < MEMORY_GIB:
        return Finding("memory", NOTE, f"{text}; `ich run` may take {MEMORY_GIB:g}", remedy)
    return Finding("memory", OK, text)


def _gpus(root: Path) -> Finding:
    program = shutil.which("nvidia-smi")
    driver = (root / "proc/driver/nvidia/version").exists()
    if program is None:
        if driver:
            return Finding("GPU", NOTE, "a driver is loaded, but nvidia-smi is missing", "install the driver's tools")
        return Finding("GPU", OK, "none: the processor trains")
    asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", NOTE, f"nvidia-smi does not answer ({type(error).__name__})", "restart the driver")
    found = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not found:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        return Finding("GPU", NOTE, f"nvidia-smi finds none: {said}", "load the driver, or pass it to the container")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return Finding("GPU", NOTE, f"{'; '.join(found)}, hidden by CUDA_VISIBLE_DEVICES={visible!r}", "unset it")
    return Finding("GPU", OK, f"{'; '.join(found)} (`ich doctor --deep` asks TensorFlow)")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        return Finding(
            "open files",
            NOTE,
            f"{soft} allowed, wanted {_LEAST_FILES}",
            f"`ulimit -n {min(hard, 4096) if hard > 0 else 4096}`",
        )
    return Finding("open files", OK, "no limit" if soft == resource.RLIM_INFINITY else f"{soft} allowed")


def _shared_memory(root: Path) -> Finding:
    folder = root / "dev/shm"
    if not folder.is_dir():
        return Finding("/dev/shm", NOTE, "is missing", "mount a tmpfs there; several GPUs talk through it")
    size = shutil.disk_usage(folder).total / 2**20
    if size < _LEAST_SHARED_MIB:
        return Finding("/dev/shm", NOTE, f"{size:.0f} MiB", "`docker run --shm-size=1g`; several GPUs talk through it")
    return Finding("/dev/shm", OK, f"{size:.0f} MiB")
