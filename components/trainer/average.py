"""An exponential moving average of the weights: what is validated and exported wobbles less than what is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


class Average:
    """Averages everything that a network keeps, the statistics of its normalisation too.

    After Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (SIAM J. Control Optim. 1992),
    with exponential weights. The share of the old grows from 0.1 to `momentum` over the first steps, so that the
    initial weights are soon forgotten.

    Args:
        network: The network; its weights at this moment are where the average begins.
        momentum: Share of the old in each update, in [0, 1); 0 keeps no average.
    """

    def __init__(self, network: keras.Model, momentum: float) -> None:
        self._network = network
        self._momentum = momentum
        # Seeds of dropout are state too, but nothing that has a mean.
        self._weights = [weight for weight in network.weights if "float" in str(weight.dtype)] if momentum else []
        self.variables = [tf.Variable(weight.numpy(), trainable=False) for weight in self._weights]
        self._update = tf.function(self._blend)

    def update(self, step: int) -> None:
        """Blends the present weights in, after a step; the first is 1."""
        if self.variables:
            self._update(tf.constant(min(self._momentum, step / (step + 9.0)), tf.float32))

    def _blend(self, old: tf.Tensor) -> None:
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign_sub((1.0 - tf.cast(old, average.dtype)) * (average - weight.value))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights within; afterwards its own again."""
        own = [weight.numpy() for weight in self._weights]
        for average, weight in zip(self.variables, self._weights, strict=True):
            weight.assign(average)
        try:
            yield
        finally:
            for value, weight in zip(own, self._weights, strict=True):
                weight.assign(value)
