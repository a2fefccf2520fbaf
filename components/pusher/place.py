"""How a version gets into the folder that TF Serving watches: whole, behind all others, and with its labels."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes
from serving.manifests.models_config import FILE_NAME, labels_of, models_config
from serving.versions import read_contract, versions


def next_version(folder: Path) -> Path:
    """Where the next version goes: Unix time as TFX has it, but always behind what is there.

    A clock that was set back must not put a new model behind an old one, nor behind a folder that holds no model: TF
    Serving goes by the number alone.
    """
    newest = max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)
    return folder / str(max(int(time.time()), newest + 1))


def copy_whole(source: Path, target: Path, texts: Mapping[str, str]) -> None:
    """Copies a folder, and texts by their place in it, under a hidden name first: TF Serving takes only numbers.

    What an earlier push that was killed left behind is removed.

    Raises:
        OSError: Nothing has changed then.
    """
    for leftover in target.parent.glob(".*.part"):  # a folder of a version, or the file that was to be models.config
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copytree(source, part)
        for name, text in texts.items():
            write_bytes(part / name, text.encode())
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def same_export(one: Path, other: Path) -> bool:
    """Whether two models came from the same export; one without a contract that can be read is like no other."""
    try:
        return one == other or read_contract(one) == read_contract(other)
    except UsageError:
        return False


def write_labels(folder: Path, labels: Mapping[str, int] | None = None) -> None:
    """Writes `models.config` beside the versions.

    Args:
        folder: A folder of versions, of which there is one at least.
        labels: Versions by label; by default those of the two newest.
    """
    labels = labels or labels_of([int(path.name) for path in versions(folder)])
    write_bytes(folder / FILE_NAME, models_config(folder.name, labels).encode())
