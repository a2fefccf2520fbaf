"""Soft Dice and cross-entropy against soft coverage, in keras.ops alone."""

from __future__ import annotations

from typing import Any

from keras import ops

SMOOTH_PIXELS = 1.0
"""Added to both sides of the Dice ratio: on a batch without lesion the loss falls to 0 as the prediction empties."""


def dice_loss(truth: Any, probability: Any) -> Any:
    """One minus the soft Dice of a whole batch.

    The intersection is (|p| + |t| - |p - t|) / 2, which for hard targets is the usual sum of p t, and whose loss has
    its minimum at p = t for soft ones as well (Wang et al., "Dice Semimetric Losses: Optimizing the Dice Score with
    Soft Labels", MICCAI 2023). Sums run over the batch, so slices without lesion add their false positives.

    Args:
        truth: Lesion coverage in [0, 1], of any shape.
        probability: Of the same shape.

    Returns:
        Scalar in [0, 1).
    """
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    total = ops.sum(truth) + ops.sum(probability)
    overlap = total - ops.sum(ops.abs(probability - truth))
    return 1.0 - (overlap + SMOOTH_PIXELS) / (total + SMOOTH_PIXELS)


def cross_entropy(truth: Any, logits: Any) -> Any:
    """Mean binary cross-entropy over all pixels, finite for any finite logit.

    Args:
        truth: Lesion coverage in [0, 1], of any shape.
        logits: Of the same shape.

    Returns:
        Scalar, natural logarithm.
    """
    truth, logits = ops.cast(truth, "float32"), ops.cast(logits, "float32")
    return ops.mean(ops.softplus(logits) - logits * truth)


def segmentation_loss(truth: Any, logits: Any, *, dice_weight: float, cross_entropy_weight: float) -> Any:
    """The weighted sum of both.

    Args:
        truth: Lesion coverage in [0, 1], of shape (n, size, size, 1).
        logits: Of the same shape.
        dice_weight: Weight of the Dice loss.
        cross_entropy_weight: Weight of the cross-entropy.

    Returns:
        Scalar.
    """
    loss = ops.convert_to_tensor(0.0, "float32")
    if dice_weight:
        loss = loss + dice_weight * dice_loss(truth, ops.sigmoid(logits))
    if cross_entropy_weight:
        loss = loss + cross_entropy_weight * cross_entropy(truth, logits)
    return loss
