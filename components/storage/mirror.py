"""A copy of a data folder in a bucket, on this machine: scans are read as files, and more than once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfx.dsl.io.filesystem import NotFoundError

from components.imaging.errors import IchError, UsageError
from components.storage.connection import endpoint, explained, locate
from components.storage.filesystem import Entry, entries
from components.storage.uri import CACHE_VARIABLE, cache_folder, is_remote

_AT_A_TIME = 8
_BLOCK = 1 << 20


def local_copy(place: str) -> Path:
    """A data folder as a folder of this machine.

    A URI is copied to `$ICH_CACHE/data`: only what is new or changed, by size and time, is fetched, and what is gone
    is removed. Files have the times of their objects, so a copy looks alike on every machine. Several processes that
    want the same copy make it one after another.

    Args:
        place: A folder, which is taken as it is, or a URI.

    Raises:
        UsageError: There is nothing at the URI, or something whose name no file can have.
        IchError: It changed meanwhile, cannot be fetched, or the disk is full.
    """
    if not is_remote(place):
        return Path(place)
    home = cache_folder() / "data" / _key(place)
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "uri").write_text(place, encoding="utf-8")  # for whoever wonders what this is
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _synchronise(place, data_entries(place), home / "files", home / "parts")
    except NotFoundError as error:
        raise IchError(f"{error}: it was removed while {place} was copied; run again") from error
    except OSError as error:
        hint = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        raise IchError(
            f"{home}: cannot hold a copy of {place} ({error.strerror}); {hint}, or let {CACHE_VARIABLE} name another "
            "folder"
        ) from error
    return home / "files"


def data_entries(uri: str) -> list[Entry]:
    """Every object of a data folder in a bucket, by name.

    Raises:
        UsageError: There is none, or one whose name no file can have.
    """
    try:
        found = entries(uri)
    except NotFoundError:
        found = []
    if not found:
        raise UsageError(f"{uri}: no such data folder: found no object below it; give one with --data")
    names = {entry.name for entry in found}
    for name in names:
        parts = name.split("/")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if {"", ".", ".."} & set(parts) or above & names:
            raise UsageError(f"{uri}: found the object {name!r}, which cannot be a file beside the others; rename it")
    return found


def fingerprint(uri: str) -> str:
    """Hash of which objects a data folder in a bucket has, their sizes and times; none is read.

    Raises:
        UsageError: There are none.
    """
    digest = hashlib.sha256()
    for entry in data_entries(uri):
        digest.update(f"{entry.name}\0{entry.size},{entry.mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


@contextmanager
def as_named(place: str, copy: Path) -> Iterator[None]:
    """Lets a UsageError name files by their URI, and not by where they lie on this machine.

    Args:
        place: The data folder, or its URI.
        copy: What `local_copy` made of it.
    """
    try:
        yield
    except UsageError as error:
        if not is_remote(place):
            raise
        raise UsageError(renamed(str(error), place, copy)) from None


def renamed(content: Any, place: str, copy: Path) -> Any:
    """JSON with a data folder's URI in place of where it lies on this machine."""
    if not is_remote(place):
        return content
    if isinstance(content, dict):
        return {key: renamed(value, place, copy) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(item, place, copy) for item in content]
    return content.replace(str(copy), place.rstrip("/")) if isinstance(content, str) else content


def _key(uri: str) -> str:
    """Another server's bucket of the same name is another one."""
    server = endpoint(uri.partition("://")[0]) or ""
    return hashlib.sha256(f"{server}\0{uri.rstrip('/')}".encode()).hexdigest()[:16]


def _synchronise(uri: str, wanted: list[Entry], folder: Path, parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)  # of a process that was killed
    parts.mkdir()
    folder.mkdir(exist_ok=True)
    names = {entry.name for entry in wanted}
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names:
            path.unlink()
    missing = [entry for entry in wanted if not _is_there(entry, folder / entry.name)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        tasks = [
            pool.submit(_fetch, uri, entry, parts / str(number), folder / entry.name)
            for number, entry in enumerate(missing)
        ]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    parts.rmdir()


def _is_there(entry: Entry, path: Path) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (entry.size, entry.mtime_ns)


def _fetch(uri: str, entry: Entry, part: Path, target: Path) -> None:
    name = f"{uri.rstrip('/')}/{entry.name}"
    with part.open("wb") as file:
        connection, path = locate(name)
        with explained(name):
            stream = connection.open_input_stream(path, compression=None)  # else by the name it unpacks
        with stream:
            while block := _block(name, stream):
                file.write(block)
    if part.stat().st_size != entry.size:
        raise IchError(
            f"{name}: found {part.stat().st_size} bytes, wanted {entry.size}: it changed while it was copied; run again"
        )
    os.utime(part, ns=(entry.mtime_ns, entry.mtime_ns))
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def _block(name: str, stream: Any) -> bytes:
    with explained(name):
        return bytes(stream.read(_BLOCK))
