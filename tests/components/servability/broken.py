"""Models with something wrong about them, each as `tests.models.export` but for one thing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schema import features as f
from serving.contract import Contract
from serving.warmup import WARMUP_FILE, write_warmup
from tests.models import Arithmetic, contract, write_contract

NETWORK = Arithmetic()
SIZE = 32


def export(folder: Path, **changed: Any) -> Contract:
    """Writes a model of the tiny grid, of which functions or pieces may be given anew.

    Args:
        folder: Folder of the SavedModel.
        **changed: `slices` and `examples`, from HU of shape (n, 1, 32, 32) to probabilities; `text`, what describe
            returns; `kind` and `name` of the input of `predict_slices`; `leave_out`, a signature.
    """
    made = contract()
    slices: Callable[[Any], Any] = changed.get("slices", lambda hu: NETWORK.tensorflow(hu, None))
    examples: Callable[[Any], Any] = changed.get("examples", slices)
    kind, text = changed.get("kind", tf.int16), changed.get("text", made.to_json())
    spec = {f.IMAGE: tf.io.FixedLenFeature([], tf.string)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(examples_in: Any) -> dict[str, Any]:
        raw = tf.io.parse_example(examples_in, spec)[f.IMAGE]
        return {"probability": examples(tf.reshape(tf.io.decode_raw(raw, tf.int16), [-1, 1, SIZE, SIZE]))}

    @tf.function(
        input_signature=[tf.TensorSpec([changed.get("fixed"), 1, SIZE, SIZE], kind, name=changed.get("name", "hu"))]
    )
    def predict_slices(hu: Any) -> dict[str, Any]:
        return {"probability": slices(tf.cast(hu, tf.int16))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
    def describe(query: Any) -> dict[str, Any]:
        return {"contract": tf.fill(tf.shape(query), text)}

    known = {"serving_default": serving_default, "predict_slices": predict_slices, "describe": describe}
    known.pop(changed.get("leave_out", ""), None)
    module = tf.Module()
    module.weight = changed.get("weight", tf.Variable(np.zeros(100, np.float32)))
    tf.saved_model.save(module, str(folder), signatures=known)
    write_contract(folder, made)
    write_warmup(str(folder / WARMUP_FILE), made)
    return made


def sound(hu: Any) -> Any:
    return NETWORK.tensorflow(hu, None)


def undefined_for_three(hu: Any) -> Any:
    return tf.where(tf.equal(tf.shape(hu)[0], 3), np.float32("nan"), sound(hu))


def by_company(hu: Any) -> Any:
    """Each slice is judged by how many there are, as batch normalisation in training would."""
    return sound(hu) * (1 - 0.01 * tf.cast(tf.shape(hu)[0] > 4, tf.float32))


def noisy(hu: Any) -> Any:
    return sound(hu) * (1 - 0.1 * tf.random.uniform([]))


def refuses_nothing(hu: Any) -> Any:
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(hu)[0], "nothing to do")]):
        return tf.identity(sound(hu))


def abort(*_: str) -> None:
    """A probe that crashes."""
    os.abort()


if __name__ == "__main__":
    abort()
