"""Small files and whole folders, in a folder or a bucket alike."""

from __future__ import annotations

import shutil
from pathlib import Path

from tfx.dsl.io import fileio

import components.storage.filesystem  # noqa: F401 - registers the plugin
from components.storage.uri import is_bucket, is_remote


def read(path: str) -> bytes:
    """The content of a file.

    Raises:
        NotFoundError: There is none.
    """
    with fileio.open(path, "rb") as file:
        return bytes(file.read())


def write(path: str, data: bytes) -> None:
    """Writes a file that appears whole or not at all; its folder is made if need be."""
    if is_bucket(path):  # where no object appears in parts
        with fileio.open(path, "wb") as file:
            file.write(data)
        return
    fileio.makedirs(path.rpartition("/")[0] or ".")
    with fileio.open(f"{path}.part", "wb") as file:
        file.write(data)
    fileio.rename(f"{path}.part", path, overwrite=True)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if fileio.exists(path):
        fileio.remove(path)


def copy(source: str, target: str) -> None:
    """Copies a file, replacing what is there already; its folder is made if need be."""
    fileio.makedirs(target.rpartition("/")[0] or ".")
    fileio.copy(source, target, overwrite=True)


def copy_tree(source: str, target: str) -> None:
    """Copies every file of a folder, replacing those that are there already; nothing where there is no such folder."""
    if not is_remote(source) and not is_remote(target):
        if Path(source).is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        return
    for name in tree(source):
        copy(f"{source.rstrip('/')}/{name}", f"{target.rstrip('/')}/{name}")


def tree(folder: str) -> list[str]:
    """The paths of all files below a folder, by name."""
    start = folder.rstrip("/")
    return sorted(
        f"{str(place).rstrip('/')[len(start) :]}/{name}".lstrip("/")
        for place, _, names in fileio.walk(start)
        for name in names
    )
