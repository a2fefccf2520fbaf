"""Which versions answer: loaded, warmed up, and let go when nobody needs them any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.imaging.errors import IchError, UsageError
from serving.manifests.models_config import FILE_NAME as CONFIG_FILE
from serving.manifests.models_config import labels_of, read_labels
from serving.prediction.predictor import find_model
from serving.server.loaded import Loaded, load
from serving.server.messages import get_model_status_pb2, model_pb2, predict_pb2, prediction_log_pb2, tf
from serving.server.predict import answer, compute
from serving.server.refusal import Code, Refusal, invalid
from serving.signatures import BATCH, SLICES_SIGNATURE
from serving.versions import MOST_VERSION, version_number, versions
from serving.warmup import MAX_RECORDS, WARMUP_FILE, slice_inputs

State = get_model_status_pb2.ModelVersionStatus.State
_LOG = logging.getLogger(__name__)
_UNLIMITED = 1 << 62


@dataclass
class Entry:
    """What is known of a version.

    Attributes:
        number: The version.
        state: TF Serving's state of it.
        error: Why it was refused; empty if it was not.
        loaded: In memory, while it is.
        leases: Requests that it still has to answer.
        stamp: Names, sizes and times of its files when it was refused: the same files fail again.
    """

    number: int
    state: int = State.START
    error: str = ""
    loaded: Loaded | None = None
    leases: int = 0
    stamp: tuple[tuple[str, int, int], ...] = ()


class Models:
    """The versions of one model.

    Attributes:
        name: The model's name, of its contract.
    """

    def __init__(self, folder: Path, *, keep_versions: int = 2, failed: Callable[[], None] = lambda: None) -> None:
        """Loads the newest versions that can be loaded.

        Args:
            folder: A SavedModel, a folder of versions, or the output folder of a run.
            keep_versions: How many stay loaded.
            failed: Called for each version that cannot be loaded.

        Raises:
            UsageError: There is no model, or none that can be loaded.
        """
        newest = find_model(folder)
        # A single SavedModel has no versions beside it to wait for.
        self.root = newest.absolute().parent if newest != folder else None
        self._single = newest
        self._keep = keep_versions
        self._failed = failed
        self._entries: dict[int, Entry] = {}
        self._lock = threading.Lock()
        self._missing = False
        self._labels: dict[str, int] = {}
        self.name = ""
        self.scan()
        if not self.numbers():
            reasons = [entry.error for _, entry in sorted(self._entries.items(), reverse=True)]
            raise UsageError(f"{newest}: {reasons[0] if reasons else 'is gone; give another --model'}")

    # --- what answers

    def numbers(self) -> list[int]:
        """Versions that answer, oldest first."""
        with self._lock:
            return sorted(number for number, entry in self._entries.items() if entry.state == State.AVAILABLE)

    def lease(self, name: str, number: int | None, label: str = "") -> tuple[Loaded, Callable[[], None]]:
        """A version, kept in memory until it is given back.

        Args:
            name: The model's name.
            number: The version; None is the newest.
            label: A label instead, of `models.config` beside the versions; without that file, `canary` is the newest
                version that answers and `stable` the one before it.

        Returns:
            The version, and what gives it back, to be called once, from any thread.

        Raises:
            Refusal: There is no such model or version.
        """
        number = self._number(name, number, label)
        with self._lock:
            answering = [entry for entry in self._entries.values() if entry.state == State.AVAILABLE]
            fitting = [entry for entry in answering if number is None or entry.number == number]
            if name != self.name or not fitting:
                raise self._unknown(name, number, "answers")
            entry = max(fitting, key=lambda entry: entry.number)
            entry.leases += 1
            loaded = entry.loaded
        assert loaded is not None  # as its state says
        return loaded, lambda: self._give_back(entry)

    def status(self, name: str, number: int | None, label: str = "") -> list[Entry]:
        """What is known of one version or of all, newest first.

        Raises:
            Refusal: There is no such model or version.
        """
        number = self._number(name, number, label)
        with self._lock:
            found = [
                Entry(entry.number, entry.state, entry.error)
                for entry in self._entries.values()
                if number is None or entry.number == number
            ]
            if name != self.name or not found:
                raise self._unknown(name, number, "is known")
        return sorted(found, key=lambda entry: -entry.number)

    def _number(self, name: str, number: int | None, label: str) -> int | None:
        """The version that a request wants.

        Raises:
            Refusal: It names no model, or a label that there is not.
        """
        if not name:
            raise invalid("the request names no model")
        if not label or name != self.name:
            return number
        labels = self._labels or labels_of(self.numbers() or [0])
        if label not in labels:
            raise invalid(f"no version has that label; wanted {' or '.join(labels)}")
        return labels[label]

    def _unknown(self, name: str, number: int | None, verb: str) -> Refusal:
        if name != self.name:
            return Refusal(Code.NOT_FOUND, f"no model of that name; this server has {self.name}")
        which = "no version" if number is None else f"no version {number}"
        return Refusal(Code.NOT_FOUND, f"{which} of model {self.name} {verb} here")

    def _give_back(self, entry: Entry) -> None:
        with self._lock:
            entry.leases -= 1
            self._let_go(entry)

    # --- what is on disk

    def scan(self) -> None:
        """Looks at the folder: loads what is new, then lets go of what is old or gone. One call at a time."""
        if self.root is None:
            found = {version_number(self._single): self._single}
        elif self.root.is_dir():
            self._missing = False
            found = {int(path.name): path for path in versions(self.root) if int(path.name) <= MOST_VERSION}
        else:
            if not self._missing:
                _LOG.warning("the folder of versions cannot be read; what is loaded goes on")
            self._missing = True
            return
        self._labels = self._read_labels()
        wanted: set[int] = set()
        for number in sorted(found, reverse=True):
            if len(wanted) == self._keep:
                break
            if self._answers(number) or self._load(number, found[number]):
                wanted.add(number)
        for number in self.numbers():
            if number not in wanted:
                self._retire(number)

    def _read_labels(self) -> dict[str, int]:
        try:
            return read_labels((self.root / CONFIG_FILE).read_text()) if self.root else {}
        except (OSError, UnicodeDecodeError):
            return {}

    def _answers(self, number: int) -> bool:
        return number in self.numbers()

    def _load(self, number: int, folder: Path) -> bool:
        """Loads a version and warms it up; says whether it answers now."""
        stamp = _stamp(folder)
        before = self._entries.get(number)
        if before is not None and before.error and before.stamp == stamp:
            return False
        with self._lock:
            if before is not None and before.state == State.UNLOADING:  # its last request is not answered yet
                before.state = State.AVAILABLE
                return True
        entry = Entry(number, State.LOADING)
        with self._lock:
            self._entries[number] = entry
        try:
            loaded = load(folder, number)
            if self.name and loaded.contract.model_name != self.name:
                raise UsageError(f"its contract names another model than {self.name}; push it to a folder of its own")
            warm_up(folder, loaded)
        except Exception as error:  # whatever it is, the versions before must go on
            known = isinstance(error, IchError | Refusal)
            reason = str(error) if known else f"the model cannot be loaded ({type(error).__name__})"
            with self._lock:
                entry.state, entry.error, entry.stamp = State.END, reason, stamp
            _LOG.error("version %d is not taken into service: %s", number, reason)
            self._failed()
            return False
        with self._lock:
            entry.state, entry.loaded = State.AVAILABLE, loaded
            self.name = loaded.contract.model_name
        _LOG.info("version %d is in service", number)
        return True

    def _retire(self, number: int) -> None:
        with self._lock:
            entry = self._entries[number]
            entry.state = State.UNLOADING
            self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        """Unloads a version that is on its way out, once its last request is answered; under the lock."""
        if entry.state == State.UNLOADING and not entry.leases:
            entry.loaded = None
            entry.state = State.END
            _LOG.info("version %d is unloaded", entry.number)


def asked(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str]:
    """Name, version and label that a request names, as `Models.lease` and `Models.status` take them."""
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def warm_up(folder: Path, loaded: Loaded) -> None:
    """Lets a version compute the requests that came with it, or one batch of slices, before a user waits for it.

    Raises:
        UsageError: The file of requests cannot be read.
        Refusal: The version cannot compute them.
    """
    asked = list(_requests(folder / WARMUP_FILE))
    for request in asked:
        answer(loaded, request, _UNLIMITED)
    if not asked:
        zeros = {name: np.zeros_like(value) for name, value in slice_inputs(loaded.contract, BATCH).items()}
        compute(loaded.signature(SLICES_SIGNATURE), zeros)


def _requests(path: Path) -> Iterator[predict_pb2.PredictRequest]:
    if not path.is_file():
        return
    try:
        records = list(tf.data.TFRecordDataset(str(path)).take(MAX_RECORDS).as_numpy_iterator())
        logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    except Exception as error:  # of TensorFlow's reader or of protobuf's
        raise UsageError(f"{WARMUP_FILE} cannot be read ({type(error).__name__}); push the model again") from None
    yield from (log.predict_log.request for log in logs if log.HasField("predict_log"))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
