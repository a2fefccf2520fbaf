"""The versions of a model in service, in a folder or a bucket."""

from __future__ import annotations

from pathlib import Path

from tfx.dsl.io import fileio

from components.storage import files
from components.storage.uri import is_remote
from serving.contract import Contract
from serving.versions import CONTRACT_FILE, read_contract, versions

MODEL_FILE = "saved_model.pb"
"""Written last: a version without it is no version."""


def numbers(folder: str) -> list[int]:
    """Every number that a folder of versions knows, of unfinished versions too."""
    if not fileio.isdir(folder):
        return []
    names = (str(name).rstrip("/") for name in fileio.listdir(folder))
    return sorted(int(name) for name in names if name.isdecimal())


def served_versions(folder: str) -> list[str]:
    """Folders or URIs of the complete versions, oldest first, as `serving.versions` has them.

    Args:
        folder: The folder that TF Serving watches, or its URI.
    """
    if not is_remote(folder):
        return [str(path) for path in versions(Path(folder))]
    places = (f"{folder.rstrip('/')}/{number}" for number in numbers(folder))
    return [place for place in places if fileio.exists(f"{place}/{MODEL_FILE}")]


def version_name(model: str) -> str:
    """The version that a folder or URI of a version is of."""
    return model.rstrip("/").rpartition("/")[2]


def served_contract(model: str) -> Contract:
    """The contract of a model.

    Raises:
        UsageError: There is none that this program can read.
    """
    if not is_remote(model):
        return read_contract(Path(model))
    path = f"{model}/{CONTRACT_FILE}"
    return Contract.from_json(files.read(path) if fileio.exists(path) else b"")
