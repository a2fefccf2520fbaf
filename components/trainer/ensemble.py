"""Several networks as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops


def build_ensemble(networks: Sequence[keras.Model]) -> keras.Model:
    """One network whose probability is the mean of those of several; a single one is returned as it is.

    Networks that saw different patients err in different places, so their mean is better than they are (Dietterich,
    "Ensemble Methods in Machine Learning", MCS 2000; as nnU-Net averages its folds).

    Args:
        networks: From input to logits, all of the same input, at least one.

    Returns:
        A network from the same input to logits; its prediction takes as long as those of all networks.
    """
    if len(networks) == 1:
        return networks[0]
    image = keras.Input(networks[0].input_shape[1:], name="image")
    # A model within a model goes by its name, and all of these have the same.
    named = [keras.Model(item.inputs, item.outputs[0], name=f"member{n}") for n, item in enumerate(networks, 1)]
    return keras.Model(image, MeanProbability(dtype="float32", name="logits")([one(image) for one in named]))


@keras.saving.register_keras_serializable(package="ich")
class MeanProbability(layers.Layer):
    """From several logits of one shape to the logit whose sigmoid is the mean of theirs.

    log(sum p) - log(sum (1 - p)) is taken from logarithms throughout, so it is finite and exact for any finite logit.
    """

    def call(self, logits: Sequence[Any]) -> Any:
        stacked = ops.stack(list(logits))
        return ops.logsumexp(-ops.softplus(-stacked), axis=0) - ops.logsumexp(-ops.softplus(stacked), axis=0)
