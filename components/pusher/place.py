"""How a version gets into the folder that TF Serving watches: whole, behind all others, and with its labels.

The folder may be a bucket's, which knows no renames: what is uploaded is no version before its last object is there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes
from components.storage import files
from components.storage.served import MODEL_FILE, numbers, served_contract, served_versions, version_name
from components.storage.uri import is_remote
from serving.manifests.models_config import FILE_NAME, labels_of, models_config


def next_version(folder: str) -> str:
    """Where the next version goes: Unix time as TFX has it, but always behind what is there.

    A clock that was set back must not put a new model behind an old one, nor behind a folder that holds no model: TF
    Serving goes by the number alone.
    """
    newest = max(numbers(folder), default=0)
    return f"{folder.rstrip('/')}/{max(int(time.time()), newest + 1)}"


def copy_whole(source: str, target: str, texts: Mapping[str, str]) -> None:
    """Copies a folder, and texts by their place in it, so that nobody takes half of it for a version.

    To a folder it goes under a hidden name first, for TF Serving takes only numbers, and what an earlier push that was
    killed left behind is removed. In a bucket the model's own file is the last.

    Raises:
        OSError: No version has come or changed then.
    """
    if is_remote(target):
        _upload(source, target, texts)
    else:
        _copy(Path(source), Path(target), texts)


def _copy(source: Path, target: Path, texts: Mapping[str, str]) -> None:
    for leftover in target.parent.glob(".*.part"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copytree(source, part)
        for name, text in texts.items():
            write_bytes(part / name, text.encode())
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _upload(source: str, target: str, texts: Mapping[str, str]) -> None:
    for name in files.tree(source):
        if name != MODEL_FILE and name not in texts:
            files.copy(f"{source}/{name}", f"{target}/{name}")
    for name, text in texts.items():
        files.write(f"{target}/{name}", text.encode())
    files.copy(f"{source}/{MODEL_FILE}", f"{target}/{MODEL_FILE}")


def same_export(one: str, other: str) -> bool:
    """Whether two models came from the same export; one without a contract that can be read is like no other."""
    try:
        return one == other or served_contract(one) == served_contract(other)
    except UsageError:
        return False


def write_labels(folder: str, labels: Mapping[str, int] | None = None) -> None:
    """Writes `models.config` beside the versions.

    Args:
        folder: A folder of versions, of which there is one at least, or its URI.
        labels: Versions by label; by default those of the two newest.
    """
    folder = folder.rstrip("/")
    labels = labels or labels_of([int(version_name(model)) for model in served_versions(folder)])
    text = models_config(version_name(folder), labels).encode()
    if is_remote(folder):
        files.write(f"{folder}/{FILE_NAME}", text)
    else:
        write_bytes(Path(folder) / FILE_NAME, text)
