"""The files of a folder or a zip, bounded in number, depth and size; nothing is extracted to disk."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from components.imaging.errors import ScanError


@dataclass(frozen=True)
class Limits:
    """What is refused before it costs time or memory.

    Attributes:
        files: Most files looked at.
        depth: Most folders within each other; deeper ones are not entered.
        file_bytes: Largest file, unpacked.
        archive_bytes: Largest zip, unpacked.
        ratio: Largest unpacked size of a zip of more than `ratio_from_bytes`, over its packed size. Real series pack
            to a half or a third; a bomb of zeros to a thousandth.
        ratio_from_bytes: Smaller archives may pack better: small test images do.
        voxels: Most voxels of a volume.
    """

    files: int = 100_000
    depth: int = 24
    file_bytes: int = 2 * 1024**3
    archive_bytes: int = 8 * 1024**3
    ratio: float = 100.0
    ratio_from_bytes: int = 64 * 1024**2
    voxels: int = 512 * 1024 * 1024


class Store(Protocol):
    """Files by their name within a folder or zip."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def names(self) -> Iterator[str]:
        """Every regular file, in a fixed order."""

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A seekable stream and its length in bytes; OSError or ValueError where it cannot be read."""


def open_store(path: Path, limits: Limits) -> Store:
    """The store that a folder, a zip or one file is.

    Raises:
        ScanError: `missing-file`, or the archive is refused: `unsafe-archive`, `too-large`, `unreadable`.
    """
    if path.is_dir():
        return FolderStore(path, limits)
    if not path.is_file():
        raise ScanError("missing-file", f"{path.name}: no such file or folder")
    if zipfile.is_zipfile(path):
        return ZipStore(path, limits)
    return FolderStore(path.parent, limits, only=path.name)


class FolderStore:
    """A folder. Links below it are not followed: what they point to inside is found anyway, outside is no input."""

    def __init__(self, root: Path, limits: Limits, only: str | None = None) -> None:
        self._root, self._limits, self._only = root, limits, only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def names(self) -> Iterator[str]:
        """Every regular file, sorted within its folder."""
        if self._only is not None:
            yield self._only
            return
        count = 0
        waiting = [("", 0)]
        while waiting:
            folder, depth = waiting.pop()
            try:
                listing = os.scandir(self._root / folder)
            except OSError as error:
                where = (self._root / folder).name
                raise ScanError(
                    "unreadable",
                    f"{where}: the folder cannot be listed ({type(error).__name__}); check its permissions",
                ) from None
            with listing:
                entries = []
                for entry in listing:
                    count += 1
                    if count > self._limits.files:
                        raise ScanError(
                            "too-large",
                            f"{self._root.name}: over {self._limits.files} files and folders; give the folder of "
                            "one study",
                        )
                    entries.append(entry)
            entries.sort(key=lambda entry: entry.name)
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False) and depth < self._limits.depth:
                    waiting.append((f"{name}/", depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    yield name

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """The file itself."""
        path = self._root / name
        size = path.stat().st_size
        if size > self._limits.file_bytes:
            raise ValueError(f"{size} bytes, allowed {self._limits.file_bytes}")
        return path.open("rb"), size


class ZipStore:
    """A zip whose members are read into memory one at a time."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ScanError("unreadable", f"{path.name}: no readable zip ({type(error).__name__}); copy it anew") from (
                None
            )
        try:
            self._members = {entry.filename: entry for entry in self._checked()}
        except ScanError:
            self._zip.close()
            raise

    def _checked(self) -> list[zipfile.ZipInfo]:
        """The regular members of an archive that is safe to read."""
        entries = self._zip.infolist()
        if len(entries) > self._limits.files:
            raise ScanError(
                "too-large",
                f"{self._path.name}: {len(entries)} members, allowed {self._limits.files}; zip the one study",
            )
        for entry in entries:
            parts = PurePosixPath(entry.orig_filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in entry.orig_filename or "\0" in entry.orig_filename:
                raise ScanError(
                    "unsafe-archive",
                    f"{self._path.name}: a member's name leads out of the archive; zip the folder anew",
                )
            if entry.flag_bits & 1:
                raise ScanError("unsafe-archive", f"{self._path.name}: a member is encrypted; unpack it first")
        total, packed = sum(entry.file_size for entry in entries), max(self._path.stat().st_size, 1)
        if total > self._limits.archive_bytes or any(e.file_size > self._limits.file_bytes for e in entries):
            raise ScanError(
                "too-large",
                f"{self._path.name}: unpacks to {total} bytes, allowed {self._limits.archive_bytes} "
                f"and {self._limits.file_bytes} a file; zip the one study",
            )
        if total > self._limits.ratio_from_bytes and total / packed > self._limits.ratio:
            raise ScanError(
                "too-large",
                f"{self._path.name}: unpacks to {total / packed:.0f} times its size, allowed {self._limits.ratio:.0f}; "
                "if it is no zip bomb, unpack it and give the folder",
            )
        return [e for e in entries if not e.is_dir() and not stat.S_ISLNK(e.external_attr >> 16)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def names(self) -> Iterator[str]:
        """Every regular member by name."""
        yield from sorted(self._members)

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """The unpacked member; never more bytes than it declares, whatever its stream holds."""
        entry = self._members[name]
        try:
            with self._zip.open(entry) as stream:
                data = stream.read(entry.file_size)
                if stream.read(1):
                    raise ValueError("more bytes than declared")
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"the zip member is corrupt ({type(error).__name__})") from None
        return io.BytesIO(data), len(data)
