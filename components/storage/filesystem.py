"""The file-system plugin for buckets. Importing this module registers it with TFX.

TensorFlow's own file systems, which TFX takes otherwise, have no `s3://` any more and never had `minio://`.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any

from pyarrow import fs
from tfx.dsl.io import filesystem, filesystem_registry

from components.imaging.errors import UsageError
from components.storage.connection import absent, explained, locate
from components.storage.uri import BUCKETS

_IN_MEMORY = 8 << 20
_BLOCK = 1 << 20
_PRIORITY = 5
"""Before TensorFlow's, which has 10."""


@dataclass(frozen=True)
class Stat:
    """What is known of an object, by the names that TensorFlow has for it.

    Attributes:
        length: Bytes; 0 of a folder.
        mtime_nsec: When it was written; 0 of a folder.
        is_directory: Whether it is a folder.
    """

    length: int
    mtime_nsec: int
    is_directory: bool


class Bucket(filesystem.Filesystem):
    """Objects in S3, Google Cloud Storage, and what speaks like S3, as files.

    A folder is there as long as something is in it: making one does nothing. An object is written when its file is
    closed, whole; where the `with` block raises, or nothing closes the file, it is not written at all.
    """

    SUPPORTED_SCHEMES = list(BUCKETS)  # noqa: RUF012 - as TFX

    @staticmethod
    def open(name: str | bytes, mode: str = "r") -> Any:
        """Opens an object: a copy of it as it is now, or what it is to become.

        Raises:
            NotFoundError: There is none to read.
            ValueError: Another mode than r, rb, w and wb.
        """
        if mode not in ("r", "rb", "w", "wb"):
            raise ValueError(f"{os.fsdecode(name)}: found mode {mode!r}, wanted r, rb, w or wb")
        if mode.startswith("w"):
            return _Upload(name, text=mode == "w")
        found = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - the caller closes it
        with explained(name):
            connection, path = locate(name)
            with connection.open_input_stream(path, compression=None) as stream:
                shutil.copyfileobj(stream, found, _BLOCK)
        found.seek(0)
        return io.TextIOWrapper(found, encoding="utf-8") if mode == "r" else found

    @staticmethod
    def copy(src: str | bytes, dst: str | bytes, overwrite: bool = False) -> None:
        """Copies an object, on the server if both lie there.

        Raises:
            NotFoundError: There is nothing to copy.
            OSError: The target is there already, and not to be overwritten.
        """
        _refuse(dst, overwrite)
        (source, path), (target, goal) = locate(src), locate(dst)
        if source == target:
            with explained(src):
                source.copy_file(path, goal)
            return
        with Bucket.open(src, "rb") as file, Bucket.open(dst, "wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)

    @staticmethod
    def exists(path: str | bytes) -> bool:
        """Whether there is an object or a folder of that name."""
        return _info(path).type != fs.FileType.NotFound

    @staticmethod
    def glob(pattern: str | bytes) -> list[str]:
        """The objects and folders that match; a star stands for no slash."""
        text = os.fsdecode(pattern)
        scheme, _, rest = text.partition("://")
        parts = [part for part in rest.split("/") if part]
        if not parts or _is_pattern(parts[0]):
            raise UsageError(f"{text}: names no bucket, wanted {scheme}://BUCKET/… with the pattern after it")
        found = [f"{scheme}://{parts[0]}"]
        for part in parts[1:]:
            if _is_pattern(part):
                found = [f"{folder}/{name}" for folder in found for name in _names(folder) if fnmatchcase(name, part)]
            else:
                found = [f"{folder}/{part}" for folder in found]
        return sorted(found if _is_pattern(parts[-1]) else filter(Bucket.exists, found))

    @staticmethod
    def isdir(path: str | bytes) -> bool:
        """Whether it is a bucket, or a folder with something in it."""
        return bool(_info(path).type == fs.FileType.Directory)

    @staticmethod
    def listdir(path: str | bytes) -> list[str]:
        """Names in a folder; those of folders end with a slash, as TensorFlow has it for buckets.

        Raises:
            NotFoundError: There is no such folder.
        """
        found = _list(path, recursive=False)
        if not found and not Bucket.isdir(path):
            raise absent(path)
        return sorted(item.base_name + ("/" if item.type == fs.FileType.Directory else "") for item in found)

    @staticmethod
    def makedirs(path: str | bytes) -> None:
        """Does nothing: a folder comes with the first object in it."""

    @staticmethod
    def mkdir(path: str | bytes) -> None:
        """Does nothing, likewise."""

    @staticmethod
    def remove(path: str | bytes) -> None:
        """Removes an object.

        Raises:
            NotFoundError: There is none.
        """
        with explained(path):
            connection, place = locate(path)
            connection.delete_file(place)

    @staticmethod
    def rename(src: str | bytes, dst: str | bytes, overwrite: bool = False) -> None:
        """Moves an object, or all in a folder one after another: unlike a file, it may be seen in both places.

        Raises:
            NotFoundError: There is nothing to move.
            OSError: The target is there already, and not to be overwritten.
        """
        _refuse(dst, overwrite)
        if not Bucket.isdir(src):
            Bucket.copy(src, dst, overwrite=True)
            Bucket.remove(src)
            return
        start, goal = os.fsdecode(src).rstrip("/"), os.fsdecode(dst).rstrip("/")
        for folder, _, names in Bucket.walk(start):
            for name in names:
                Bucket.copy(f"{folder}/{name}", f"{goal}{folder[len(start) :]}/{name}", overwrite=True)
        Bucket.rmtree(start)

    @staticmethod
    def rmtree(path: str | bytes) -> None:
        """Removes a folder with all in it.

        Raises:
            NotFoundError: There is none.
            UsageError: It is a whole bucket.
        """
        connection, place = locate(path)
        if "/" not in place:
            raise UsageError(f"{os.fsdecode(path)}: is a whole bucket, which is not removed; name a folder in it")
        with explained(path):
            if not isinstance(connection, fs.GcsFileSystem):
                connection.delete_dir(place)
                return
            # There Arrow's delete_dir wants the empty object that stands for a folder, which few folders have.
            connection.delete_dir_contents(place)
            with contextlib.suppress(FileNotFoundError):
                connection.delete_file(f"{place}/")

    @staticmethod
    def stat(path: str | bytes) -> Stat:
        """Size and time of an object.

        Raises:
            NotFoundError: There is none.
        """
        info = _info(path)
        if info.type == fs.FileType.NotFound:
            raise absent(path)
        return Stat(info.size or 0, info.mtime_ns or 0, info.type == fs.FileType.Directory)

    @staticmethod
    def walk(
        top: str | bytes, topdown: bool = True, onerror: Callable[..., None] | None = None
    ) -> Iterable[tuple[str, list[str], list[str]]]:
        """Yields each folder with the names of folders and objects in it; nothing where there is no such folder."""
        start = os.fsdecode(top).rstrip("/")
        try:
            items = _list(start)
        except filesystem.NotFoundError as error:
            if onerror:
                onerror(error)
            return
        root = locate(start)[1]
        folders: dict[str, tuple[list[str], list[str]]] = {root: ([], [])}
        for item in sorted(items, key=lambda item: item.path.split("/")):
            is_folder = item.type == fs.FileType.Directory
            if is_folder:
                folders.setdefault(item.path, ([], []))
            above = folders.setdefault(item.path.rpartition("/")[0], ([], []))
            above[0 if is_folder else 1].append(item.base_name)
        for path in sorted(folders, key=lambda path: path.split("/"), reverse=not topdown):
            yield start + path[len(root) :], *folders[path]


@dataclass(frozen=True)
class Entry:
    """An object below a folder.

    Attributes:
        name: Its path below the folder.
        size: Bytes.
        mtime_ns: When it was written; S3 tells full seconds.
    """

    name: str
    size: int
    mtime_ns: int


def entries(uri: str) -> list[Entry]:
    """Every object below a folder of a bucket, by name.

    Raises:
        NotFoundError: There is no such folder.
    """
    root = locate(uri)[1]
    found = [item for item in _list(uri) if item.type == fs.FileType.File]
    return sorted((Entry(item.path[len(root) + 1 :], item.size, item.mtime_ns) for item in found), key=_name)


def _name(entry: Entry) -> str:
    return entry.name


def _info(uri: str | bytes) -> fs.FileInfo:
    with explained(uri):
        connection, path = locate(uri)
        return connection.get_file_info(path)


def _list(uri: str | bytes, *, recursive: bool = True) -> list[fs.FileInfo]:
    """What lies below a folder, or in it."""
    with explained(uri):
        connection, path = locate(uri)
        if isinstance(connection, fs.GcsFileSystem):
            return _with_folders(path, connection.get_file_info(fs.FileSelector(path, recursive=True)), recursive)
        return list(connection.get_file_info(fs.FileSelector(path, recursive=recursive)))


def _with_folders(top: str, items: Iterable[fs.FileInfo], recursive: bool) -> list[fs.FileInfo]:
    """What lies below a folder, or in it, with the folders: Arrow lists those of Google only where a marker is."""
    found: dict[str, fs.FileInfo] = {}
    for item in items:
        parts = item.path[len(top) + 1 :].split("/")
        for depth in range(1, len(parts)):
            folder = "/".join((top, *parts[:depth]))
            found.setdefault(folder, fs.FileInfo(folder, fs.FileType.Directory))
        if parts != [""]:
            found[item.path] = item
    return [item for item in found.values() if recursive or "/" not in item.path[len(top) + 1 :]]


def _names(uri: str) -> list[str]:
    """What lies in a folder; nothing where there is none."""
    try:
        return [item.base_name for item in _list(uri, recursive=False)]
    except filesystem.NotFoundError:
        return []


def _is_pattern(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _refuse(target: str | bytes, overwrite: bool) -> None:
    if not overwrite and Bucket.exists(target):
        raise OSError(f"{os.fsdecode(target)}: is there already, and not to be overwritten")


class _Upload:
    """A file that becomes an object when it is closed."""

    def __init__(self, uri: str | bytes, *, text: bool) -> None:
        self._uri = uri
        self._data = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._file: Any = io.TextIOWrapper(self._data, encoding="utf-8", newline="") if text else self._data
        self.closed = False

    def __enter__(self) -> _Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:  # noqa: E501 # fmt: skip
        if kind is None:
            self.close()
        else:
            self.closed = True
            self._file.close()

    def write(self, data: Any) -> int:
        """Adds text or bytes."""
        return int(self._file.write(data))

    def writelines(self, lines: Iterable[Any]) -> None:
        """Adds several."""
        self._file.writelines(lines)

    def tell(self) -> int:
        """Where the next byte goes."""
        return int(self._file.tell())

    def flush(self) -> None:
        """Does nothing: there is no half an object."""

    def close(self) -> None:
        """Writes the object.

        Raises:
            BucketError: There is no such bucket, or no access.
            IchError: It cannot be reached.
        """
        if self.closed:
            return
        self.closed = True
        self._file.flush()
        try:
            # In a thread of its own, where no Ctrl-C is raised: a stream that is left publishes what it has so far.
            with ThreadPoolExecutor(1) as thread, explained(self._uri):
                thread.submit(self._send).result()
        finally:
            self._file.close()

    def _send(self) -> None:
        size = self._data.seek(0, os.SEEK_END)
        self._data.seek(0)
        if size > _IN_MEMORY:
            content: Any = mmap.mmap(self._data.fileno(), size, access=mmap.ACCESS_READ)
        else:
            content = self._data.read()
        connection, path = locate(self._uri)
        stream = connection.open_output_stream(path, compression=None)
        stream.write(content)  # in one go, for the same reason
        stream.close()


filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(Bucket, priority=_PRIORITY)
