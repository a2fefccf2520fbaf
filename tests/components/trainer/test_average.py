"""The moving average of weights, by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from components.trainer.average import Average


def network() -> keras.Model:
    image = keras.Input((2,))
    value = keras.layers.BatchNormalization()(keras.layers.Dense(1, kernel_initializer="zeros")(image))
    return keras.Model(image, keras.layers.Dropout(0.5, seed=1)(value))


def put(model: keras.Model, value: float) -> None:
    for weight in model.weights:
        if "float" in str(weight.dtype):
            weight.assign(np.full(weight.shape, value, np.float32))


def test_the_average_follows_by_hand_and_gives_the_weights_back() -> None:
    model = network()
    put(model, 0.0)
    average = Average(model, 0.9)
    wanted = 0.0
    for step, value in enumerate((1.0, 3.0, 2.0), start=1):
        put(model, value)
        average.update(step)
        share = min(0.9, step / (step + 9))
        wanted = share * wanted + (1 - share) * value
    with average.applied():
        floats = [weight.numpy() for weight in model.weights if "float" in str(weight.dtype)]
        # Kernel, bias, and what normalisation learns and counts.
        assert len(floats) == 6
        assert all(value == pytest.approx(wanted, abs=1e-6) for value in floats)
    assert all(np.all(weight.numpy() == 2.0) for weight in model.weights if "float" in str(weight.dtype))


def test_the_weights_come_back_after_a_failure() -> None:
    model = network()
    average = Average(model, 0.5)
    put(model, 4.0)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert model.weights[0].numpy()[0, 0] == 4.0


def test_without_momentum_there_is_none() -> None:
    model = network()
    average = Average(model, 0.0)
    put(model, 4.0)
    average.update(1)
    assert average.variables == []
    with average.applied():
        assert model.weights[0].numpy()[0, 0] == 4.0
