"""The output folder and the temporary one: room, rights, and what their file systems cannot do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding

GIB = 2**30
OUTPUT_GIB, TEMPORARY_GIB = 10.0, 2.0
"""Less free room is worth a note."""
_LEAST_GIB = 1.0
_SHARES = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "gpfs", "glusterfs", "afs", "ceph")
_CLOCKS_APART_S = 5.0


def place_findings(output: Path) -> Iterator[Finding]:
    """Looks at the folders that a run writes to, by writing a small file there for a moment.

    Args:
        output: The output folder of runs; it need not be there yet.
    """
    yield from _output(output)
    yield from _temporary()


def _output(output: Path) -> Iterator[Finding]:
    name = "output folder"
    folder = output.resolve()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield Finding(name, PROBLEM, f"{folder} is a file", "choose another --output")
        return
    free = shutil.disk_usage(folder).free / GIB
    kind = file_system(folder)
    text = f"{output}: {free:.1f} GiB free ({kind or 'unknown file system'})"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ich-doctor.") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks = True
            except OSError:
                locks = False
            apart = abs(os.fstat(file.fileno()).st_mtime - time.time())
    except OSError as error:
        yield Finding(name, PROBLEM, f"{folder}: cannot write there ({error.strerror})", "choose another --output")
        return
    if not locks:
        yield Finding(
            name, PROBLEM, f"{folder}: files cannot be locked there ({kind})",
            "mount the share with locks, or choose a local --output and copy it afterwards",
        )  # fmt: skip
    if free < _LEAST_GIB:
        yield Finding(name, PROBLEM, text, "make room, or choose another --output")
    elif free < OUTPUT_GIB:
        yield Finding(name, NOTE, text, f"a run keeps its examples there; have {OUTPUT_GIB:g} GiB free")
    elif kind.startswith(_SHARES):
        yield Finding(
            name, NOTE, f"{text}: a network share",
            "TFX's metadata is an SQLite database: slow on shares, and not safe on all; a local disk is better",
        )  # fmt: skip
    else:
        yield Finding(name, OK, text)
    if apart > _CLOCKS_APART_S:
        yield Finding(
            "clock", NOTE, f"the output folder's clock is {apart:.0f} s away from this machine's",
            "set both by NTP: what is new is told by times of change",
        )  # fmt: skip


def _temporary() -> Iterator[Finding]:
    name = "temporary folder"
    wanted = os.environ.get("TMPDIR")
    if wanted and not Path(wanted).is_dir():
        yield Finding(name, PROBLEM, f"TMPDIR={wanted} is no folder", "make it, or unset TMPDIR")
        return
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        yield Finding(name, PROBLEM, str(error), "set TMPDIR to a folder that can be written to")
        return
    free = shutil.disk_usage(folder).free / GIB
    text = f"{folder}: {free:.1f} GiB free"
    if free < TEMPORARY_GIB:
        state = PROBLEM if free < TEMPORARY_GIB / 10 else NOTE
        yield Finding(name, state, text, f"make room, or set TMPDIR to a folder with {TEMPORARY_GIB:g} GiB")
    elif not runs_programs(folder):
        yield Finding(
            name, NOTE, f"{text}, but programs may not run from there (noexec)",
            "nothing here needs it but the build of packages; set TMPDIR when installing",
        )  # fmt: skip
    else:
        yield Finding(name, OK, text)


def runs_programs(folder: Path) -> bool:
    """Whether a program may run from a folder."""
    handle, name = tempfile.mkstemp(dir=folder, prefix="ich-doctor.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write("#!/bin/sh\nexit 0\n")
        Path(name).chmod(stat.S_IRWXU)
        return subprocess.run([name], check=False, capture_output=True, timeout=5).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        Path(name).unlink(missing_ok=True)


def file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a folder lies on; empty where it cannot be told.

    Args:
        folder: The folder.
        mounts: Where Linux lists what is mounted.
    """
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            fields = line.split(" ")
            if len(fields) < 3:
                continue
            place = fields[1].replace("\\040", " ")
            if (folder == Path(place) or Path(place) in folder.parents) and len(place) >= len(best):
                best, kind = place, fields[2]
    return kind
