"""What a fork of the server does. Importing this module imports everything that a run needs."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import datetime
import hashlib
import importlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

import tests.models
from components.data_validator import store
from components.pusher import executor as pusher
from components.pusher import place
from pipeline import cli, local_runner, obstacles
from serving.manifests.models_config import FILE_NAME as MODELS_CONFIG
from serving.manifests.models_config import read_labels
from serving.versions import CONTRACT_FILE, read_contract, versions
from tests.crash.points import arm

for module in ("pipeline.pipeline", "pipeline.predict", "components.trainer.run_fn", "tensorflow_model_analysis"):
    importlib.import_module(module)

LOAD_SECONDS = 5.0
"""Between two loads of the same version by TensorFlow; its files are looked at all the time."""


def ich(
    arguments: list[str], at: dict[str, Any] | None = None, clock: float = 0.0, patience: float | None = None
) -> None:
    """The command `ich`.

    Args:
        arguments: Its arguments.
        at: What happens at which point, as `tests.crash.points.arm` has it.
        clock: Seconds that the clock is wrong.
        patience: Seconds that it waits for a locked database.
    """
    if clock:
        _set_clock(clock)
    if patience is not None:
        obstacles.PATIENCE_SECONDS = patience
    if at:
        arm(**at)
    cli.main(arguments, prog_name="ich")


def _set_clock(seconds: float) -> None:
    """Lets the clock be wrong for all that names something by it; that for intervals is never set.

    Not for everybody: Beam pickles functions of the modules themselves.
    """

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    wrong_time = SimpleNamespace(**{**vars(time), "time": lambda: time.time() + seconds})
    wrong_datetime = SimpleNamespace(**{**vars(datetime), "datetime": Wrong})
    for module in (local_runner, place, pusher, store):
        for name, wrong in (("time", wrong_time), ("datetime", wrong_datetime)):
            if hasattr(module, name):
                setattr(module, name, wrong)


def export(folder: str, changes: dict[str, Any]) -> None:
    """A tiny model, as `tests.models.export` makes it."""
    tests.models.export(Path(folder), **changes)


def watch(folder: str, stop: str, report: str) -> int:
    """Does what a model server does, all the time: finds the newest version and loads it.

    A version must be whole from the moment that it can be seen, never change, and never vanish; labels point at
    versions that are there.

    Args:
        folder: The folder of versions, of which there is one at least.
        stop: Goes on until this file exists.
        report: File for what was found.
    """
    digests: dict[str, str] = {}
    looks, loads, loaded = 0, 0, ("", 0.0)
    try:
        while not Path(stop).exists():
            found = versions(Path(folder))
            newest = found[-1]
            assert set(digests) <= {path.name for path in found}, f"gone: {set(digests)} of {found}"
            assert read_contract(newest).grid_size
            digest = _digest(newest)
            assert digests.setdefault(newest.name, digest) == digest, f"{newest} changed after it could be seen"
            if (Path(folder) / MODELS_CONFIG).exists():
                labels = read_labels((Path(folder) / MODELS_CONFIG).read_text())
                names = {path.name for path in versions(Path(folder))}
                assert labels and {str(number) for number in labels.values()} <= names, (labels, names)
            if loaded[0] != newest.name or time.monotonic() - loaded[1] > LOAD_SECONDS:
                model = tf.saved_model.load(str(newest))
                (text,) = model.signatures["describe"](query=tf.constant(["x"]))["contract"].numpy()
                assert text == (newest / CONTRACT_FILE).read_bytes(), newest
                loads, loaded = loads + 1, (newest.name, time.monotonic())
            looks += 1
            time.sleep(0.05)
    finally:
        Path(report).write_text(json.dumps({"looks": looks, "loads": loads, "versions": list(digests)}))
    return 0


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()
