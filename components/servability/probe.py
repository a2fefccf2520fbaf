"""A process of its own that does with a model what TF Serving would: it loads the SavedModel alone, and asks it.

`python -m components.servability.probe MODEL TASK REPORT`; it imports TensorFlow without Keras, and of this package the
signatures' names alone. What it finds is written down before each step, in which it may hang or crash.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from serving import signatures as s

TOLERANCE = 1e-5
"""Of probabilities that must be the same by either signature."""
SIZE_TOLERANCE = 1e-3
"""Of those in requests of other sizes: kernels are chosen by size, and a deep network of 512 pixels was seen to differ
by 1.5e-4. It is a quarter of a step of the 8 bits that probabilities are kept in."""
REPEATED = 1e-6
"""Of the same request asked again."""
SCAN_FILE, EXPECTED_FILE = "scan.npz", "expected.json"
"""What the task's folder holds."""
SIZES = (1, 2, 3, 5, 9)
"""Slices of further requests: fewer, odd, and more than a client sends."""


class Report:
    """What was found so far, on disk as JSON.

    Attributes:
        content: `doing`, the step that has begun; `passed`, checks that held; `problems`, by check the first thing that
            was wrong; `measures`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.content: dict[str, Any] = {"doing": "", "passed": [], "problems": {}, "measures": {}, "finished": False}

    @contextmanager
    def check(self, name: str, doing: str) -> Iterator[None]:
        """Runs a step; whatever it raises is the problem."""
        self.content["doing"] = doing
        self.save()
        try:
            yield
        except Exception as error:
            text = str(error) if isinstance(error, Problem) else f"{type(error).__name__} {error}"
            self.content["problems"][name] = " ".join(text.split())[:300]
        else:
            self.content["passed"].append(name)

    def measure(self, name: str, value: float) -> None:
        self.content["measures"][name] = round(value, 4)

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        self.content["measures"]["peak_mib"] = round(peak_mib(), 1)
        if self._path is not None:
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self.content), encoding="utf-8")
            part.rename(self._path)


class Problem(Exception):  # noqa: N818 - a finding, no failure of the program
    """Something is wrong with the model."""


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    try:  # resource counts in what the parent had as it started this process
        with Path("/proc/self/status").open(encoding="ascii") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def examine(model: str, task: Path, report: Report) -> None:
    """Loads a model and asks it everything.

    Args:
        model: Folder or URI of the SavedModel.
        task: What `components.servability.task.write_task` wrote.
        report: Receives what is found.
    """
    expected = json.loads((task / EXPECTED_FILE).read_text(encoding="utf-8"))
    with np.load(task / SCAN_FILE) as file:
        scan = {name: file[name] for name in file.files}
    report.content["doing"] = "starting TensorFlow"
    report.save()
    import tensorflow as tf

    loaded = None
    began = time.monotonic()
    with report.check("load", "loading the model"):
        loaded = tf.saved_model.load(model)
    if loaded is None:
        return
    report.measure("load_seconds", time.monotonic() - began)
    ask = {name: _caller(tf, function) for name, function in loaded.signatures.items()}
    with report.check("signatures", "reading the signatures"):
        _signatures(loaded.signatures, expected["signatures"])
    if "signatures" in report.content["problems"]:
        return  # nothing can be asked then
    with report.check("describe", "asking for the contract"):
        _describe(ask[s.DESCRIBE_SIGNATURE], expected["contract"])
    with report.check("warmup", "running the warm-up requests"):
        _warm_up(tf, f"{model}/{expected['warmup_file']}", ask, expected)
    _questions(ask, scan, expected, report)


def _caller(tf: Any, function: Any) -> Callable[..., np.ndarray]:
    def ask(**inputs: np.ndarray) -> np.ndarray:
        (answer,) = function(**{name: tf.constant(value) for name, value in inputs.items()}).values()
        found: np.ndarray = answer.numpy()
        return found

    return ask


def _signatures(known: Any, wanted: dict[str, Any]) -> None:
    for name, sides in wanted.items():
        if name not in known:
            raise Problem(f"there is no signature {name}, wanted {', '.join(wanted)}")
        actual = {"inputs": known[name].structured_input_signature[1], "outputs": known[name].structured_outputs}
        for side, specs in sides.items():
            if set(actual[side]) != set(specs):
                raise Problem(f"{name} has the {side} {sorted(actual[side])}, wanted {sorted(specs)}")
            for key, (kind, shape) in specs.items():
                spec = actual[side][key]
                found = None if spec.shape.rank is None else spec.shape.as_list()
                # A shape that the graph leaves open on the way out is seen in the answers.
                fits = found == shape or (side == "outputs" and spec.shape.is_compatible_with(shape))
                if spec.dtype.name != kind or not fits:
                    raise Problem(f"{name}: {key} is {spec.dtype.name} {found}, wanted {kind} {shape}")


def _describe(describe: Callable[..., np.ndarray], contract: str) -> None:
    for query in ([], [b""], [b"a", b"b"]):
        found = describe(**{s.QUERY: np.array(query, object) if query else _no_strings()}).tolist()
        if len(found) != len(query):
            raise Problem(f"{len(query)} queries got {len(found)} answers")
        for text in found:
            if json.loads(text) != json.loads(contract):
                raise Problem("the contract that describe returns is not that of assets.extra/contract.json")


def _no_strings() -> np.ndarray:
    return np.zeros(0, "S1")


def _warm_up(tf: Any, path: str, ask: dict[str, Callable[..., np.ndarray]], expected: dict[str, Any]) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    if not tf.io.gfile.exists(path):
        raise Problem(f"there is no {expected['warmup_file']}")
    left, count = set(expected["signatures"]), 0
    for record in tf.data.TFRecordDataset(path):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        name = request.model_spec.signature_name
        if request.model_spec.name != expected["model_name"] or name not in ask:
            raise Problem(f"request {count} is for {request.model_spec.name}, signature {name}")
        answer = ask[name](**{key: tf.make_ndarray(value) for key, value in request.inputs.items()})
        if name != s.DESCRIBE_SIGNATURE:
            _probabilities(answer, f"warm-up request {count}")
        left.discard(name)
        count += 1
    most = expected["max_warmup"]
    if left or count > most:
        missing = f", none for {', '.join(sorted(left))}" if left else ""
        raise Problem(f"{count} requests{missing}; wanted at most {most} and each signature")


def _questions(
    ask: dict[str, Callable[..., np.ndarray]], scan: dict[str, np.ndarray], expected: dict[str, Any], report: Report
) -> None:
    """The generated head, by every way and in parts of every size."""
    records = np.array([row.tobytes() for row in scan.pop(s.EXAMPLES)], object)
    inputs, count, batch, whole = scan, len(records), expected["batch"], expected["whole_scans"]
    shape = expected["signatures"][s.SLICES_SIGNATURE]["outputs"][s.PROBABILITY][1][1:]

    def slices(start: int, stop: int) -> np.ndarray:
        found = ask[s.SLICES_SIGNATURE](**{name: values[start:stop] for name, values in inputs.items()})
        wanted = (min(stop, count) - start, *shape)
        if found.shape != wanted:
            raise Problem(f"{wanted[0]} slices got an answer of shape {found.shape}, wanted {wanted}")
        return found

    answer: np.ndarray | None = None
    began = time.monotonic()
    with report.check("probabilities", "asking for a whole scan"):
        answer = np.concatenate([slices(start, start + batch) for start in range(0, count, batch)])
        report.measure("seconds_per_scan", time.monotonic() - began)
        report.measure("slices", count)
        _probabilities(answer, "the generated head")
    if answer is None:
        return
    with report.check("agreement", f"asking {s.EXAMPLES_SIGNATURE} for the same scan"):
        parts = [
            ask[s.EXAMPLES_SIGNATURE](**{s.EXAMPLES: records[start : start + batch]})
            for start in range(0, count, batch)
        ]
        _same(np.concatenate(parts), answer, f"{s.EXAMPLES_SIGNATURE} and {s.SLICES_SIGNATURE}", TOLERANCE)
    with report.check("batches", "asking for fewer and more slices at once"):
        for size in SIZES:
            part = slices(0, size)
            _probabilities(part, f"a request of {size} slices")
            if not whole:  # of which a part is another scan
                _same(part, answer[:size], f"a request of {size} slices and one of {batch}", SIZE_TOLERANCE)
    with report.check("empty", "asking for no slice"):
        slices(0, 0)
        found = ask[s.EXAMPLES_SIGNATURE](**{s.EXAMPLES: _no_strings()})
        if found.shape != (0, *shape):
            raise Problem(
                f"{s.EXAMPLES_SIGNATURE} answers no example with the shape {found.shape}, wanted {(0, *shape)}"
            )
    with report.check("repeats", "asking the same again"):
        _same(slices(0, batch), answer[:batch], "the same request asked twice", REPEATED)


def _probabilities(found: np.ndarray, what: str) -> None:
    if found.dtype != np.float32:
        raise Problem(f"{what}: found {found.dtype}, wanted float32")
    bad = int((~np.isfinite(found)).sum())
    if bad:
        raise Problem(f"{what}: {bad} of {found.size} probabilities are no numbers")
    if found.size and (found.min() < 0 or found.max() > 1):
        raise Problem(f"{what}: probabilities from {found.min():.3g} to {found.max():.3g}, wanted 0 to 1")


def _same(found: np.ndarray, wanted: np.ndarray, what: str, tolerance: float) -> None:
    if found.shape != wanted.shape:
        raise Problem(f"{what} give the shapes {found.shape} and {wanted.shape}")
    difference = np.abs(found.astype(np.float64) - wanted)
    if not (difference <= tolerance).all():  # nor where one is no number
        raise Problem(f"{what} differ by {np.nanmax(difference):.2g}, allowed is {tolerance:.0e}")


def main(model: str, task: str, path: str) -> None:
    """Examines a model and writes the report."""
    sys.modules["keras"] = None  # type: ignore[assignment] # a server has none, and it is half of TensorFlow's start
    report = Report(Path(path))
    examine(model, Path(task), report)
    report.content["finished"] = True
    report.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
