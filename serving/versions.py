"""The versions in a folder that TF Serving watches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.contract import Contract

CONTRACT_FILE = "assets.extra/contract.json"
"""The contract as a file beside the SavedModel, so that it can be read without TensorFlow."""

MOST_VERSION = (1 << 63) - 1
"""TF Serving keeps versions as signed integers of 64 bits."""

CARD_FILES = ("assets.extra/model_card.md", "assets.extra/model_card.json")
"""The model's card, to read and for machines; written when it is pushed."""


def versions(folder: Path) -> list[Path]:
    """Complete versions below a model's folder, oldest first.

    Args:
        folder: `<output>/serving/<model name>`.

    Returns:
        Folders whose name is a number and that hold a `saved_model.pb`, which is written last.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.isdecimal() and (path / "saved_model.pb").is_file()]
    return sorted(found, key=lambda path: int(path.name))


def models(output: Path) -> list[Path]:
    """Folders of versions below a run's output folder, one a model, by name."""
    return [path for path in sorted((output / "serving").glob("*")) if versions(path)]


def read_contract(model: Path) -> Contract:
    """The contract of an exported model.

    Raises:
        UsageError: The folder holds no contract that this program can read.
    """
    from serving.contract import Contract  # with it come NumPy and SciPy, over a second that `ich status` has not

    path = model / CONTRACT_FILE
    return Contract.from_json(path.read_bytes() if path.is_file() else b"")


def version_number(model: Path) -> int:
    """The version of a single SavedModel: what its folder's name says, 1 where that is no version."""
    name = model.resolve().name
    return int(name) if name.isdecimal() and int(name) <= MOST_VERSION else 1
