"""What only TensorFlow can tell: whether it starts, what it sees, and whether it computes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from pipeline.doctor.finding import NOTE, OK, PROBLEM, Finding

_SLOW_IMPORT_S = 60.0


def deep_findings() -> Iterator[Finding]:
    """Imports TensorFlow and TFX, and multiplies a matrix in both formats that training uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    began = time.monotonic()
    try:
        import tensorflow as tf
    except Exception as error:  # whatever it is, it is what a run would meet
        yield Finding("TensorFlow", PROBLEM, f"cannot be imported ({_first_line(error)})", "`make install`")
        return
    gpus = tf.config.list_physical_devices("GPU")
    seen = f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''}"
    yield Finding("TensorFlow", OK, f"{tf.__version__} sees {seen}, imported in {time.monotonic() - began:.0f} s")
    try:
        import tfx.v1  # noqa: F401
    except Exception as error:
        yield Finding("TFX", PROBLEM, f"cannot be imported ({_first_line(error)})", "`make install`")
    seconds = time.monotonic() - began
    if seconds > _SLOW_IMPORT_S:
        yield Finding("imports", NOTE, f"took {seconds:.0f} s", "compile the packages, see bytecode")
    for name in ("float32", "bfloat16"):
        try:
            ones = tf.ones((256, 256), name)
            product = tf.cast(ones @ ones, tf.float32)
            right = bool(tf.reduce_all(product == 256.0))
        except Exception as error:
            yield Finding(
                name, PROBLEM, f"cannot be multiplied ({_first_line(error)})", "set training.precision: float32"
            )
            continue
        if right:
            yield Finding(name, OK, "multiplies right")
        else:
            remedy = "set training.precision: float32" if name != "float32" else "the machine miscalculates: replace it"
            yield Finding(name, PROBLEM, "multiplies wrong", remedy)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
