"""What a training was made of: the key of its folder and the origin of a model."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

CASES_FILE = "cases.json"
"""Beside the splits, as ingestion writes it."""

SHAPING_SECTIONS = ("grid", "windows", "normalisation", "network", "training", "postprocess")
PACKAGES = ("tensorflow", "keras", "tfx", "tensorflow-transform", "numpy")


@dataclass(frozen=True)
class Origin:
    """Where training data comes from.

    Attributes:
        fingerprint: Hash of the cases and their splits.
        patients: Patients per split, where known.
    """

    fingerprint: str
    patients: dict[str, int] = field(default_factory=dict)


def data_origin(shards: Sequence[str]) -> Origin:
    """The origin of shards: from the listing of their ingestion, else from their names and sizes.

    Args:
        shards: TFRecord files of the training split.
    """
    listing = f"{shards[0].rpartition('/')[0].rpartition('/')[0]}/{CASES_FILE}"
    if tf.io.gfile.exists(listing):
        with tf.io.gfile.GFile(listing, "r") as file:
            summary = json.loads(file.read())
        return Origin(summary["fingerprint"], {name: counts["patients"] for name, counts in summary["splits"].items()})
    content = [[shard.rpartition("/")[2], tf.io.gfile.stat(shard).length] for shard in shards]
    return Origin(_hash(content))


def run_key(config: Mapping[str, Any], *parts: str) -> str:
    """Name of a training's folder: the same for the same configuration, data and code, whenever it is started."""
    return _hash([{name: config[name] for name in SHAPING_SECTIONS}, *parts])


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a model."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
