"""TensorFlow for programs that only run exported models."""

from __future__ import annotations

import sys
from typing import Any


def tensorflow_without_keras() -> Any:
    """TensorFlow without Keras, which it would import for its own sake and which is half of the time.

    An exported model does not need Keras. Where Keras is there already, as in training, nothing is special.
    """
    hidden = "keras" not in sys.modules and "tensorflow" not in sys.modules
    if hidden:
        sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        import tensorflow as tf
    finally:
        if hidden:
            del sys.modules["keras"]
    return tf
