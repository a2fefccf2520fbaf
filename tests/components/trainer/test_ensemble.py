"""The ensemble: the mean of the members' probabilities, for any logit, also once it is saved."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.trainer.ensemble import MeanProbability, build_ensemble
from components.trainer.network import build_network
from components.trainer.step import make_predict
from tests.components.trainer.conftest import small_config


def networks(number: int) -> list[keras.Model]:
    return [build_network(32, 3, small_config()["network"], seed=seed) for seed in range(number)]


@pytest.mark.parametrize("mirror", [False, True])
def test_probabilities_are_averaged(mirror: bool) -> None:
    members = networks(3)
    image = tf.constant(np.random.default_rng(0).random((2, 32, 32, 3)), tf.float32)
    wanted = np.mean([make_predict(member, mirror=mirror)(image).numpy() for member in members], axis=0)
    both = build_ensemble(members)
    np.testing.assert_allclose(make_predict(both, mirror=mirror)(image), wanted, rtol=1e-5)
    assert both.input_shape == members[0].input_shape
    assert both.output_shape == members[0].output_shape


def test_one_network_stays_as_it_is() -> None:
    (alone,) = networks(1)
    assert build_ensemble([alone]) is alone


def test_extreme_logits_stay_finite() -> None:
    """Against the same in float64 and, where that is too coarse, against the limit: p or 1 - p is halved."""
    first = np.array([-300.0, -40.0, -1.0, 0.0, 5.0, 30.0, 300.0, 300.0])
    second = np.array([-300.0, -20.0, 3.0, 0.0, -5.0, 30.0, 20.0, -300.0])
    found = MeanProbability()([first.astype(np.float32), second.astype(np.float32)]).numpy()

    def share(a: float, b: float) -> float:
        return float(np.logaddexp(-np.logaddexp(0, -a), -np.logaddexp(0, -b)))

    wanted = [share(a, b) - share(-a, -b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[[3, 4, 7]], 0.0, atol=1e-6)
    np.testing.assert_allclose(tf.sigmoid(found), 0.5 * (tf.sigmoid(first) + tf.sigmoid(second)), atol=1e-6)


def test_it_can_be_saved_and_loaded(tmp_path: Path) -> None:
    both = build_ensemble(networks(2))
    image = np.random.default_rng(1).random((1, 32, 32, 3)).astype(np.float32)
    both.save(tmp_path / "both.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "both.keras")(image), both(image), rtol=1e-6)
