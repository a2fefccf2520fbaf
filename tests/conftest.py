"""What the tests share."""

from __future__ import annotations

import gc
import os

# Before TensorFlow is imported anywhere: tests read their own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_unconfigure() -> None:
    """Keeps the interpreter's last collection from graphs that an in-process Transform leaves: it crashes on them."""
    gc.freeze()
