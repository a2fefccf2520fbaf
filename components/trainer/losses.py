"""Region and pixel losses against soft coverage, in keras.ops alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

SMOOTH_PIXELS = 1.0
"""Added to both sides of the region's ratio: on a batch without lesion the loss falls to 0 as predictions empty."""

SMALL_SHARE = 0.005
"""Lesions that cover less of a slice than this count as small: 330 of 256 x 256 pixels, 2.7 cm2 at 0.9 mm."""


def tversky_loss(truth: Any, probability: Any, *, miss_weight: float = 0.5) -> Any:
    """One minus the soft Tversky index of a whole batch; with `miss_weight` 0.5 the soft Dice loss.

    The intersection is (|p| + |t| - |p - t|) / 2, which for hard targets is the usual sum of p t, and whose loss has
    its minimum at p = t for soft ones as well (Wang et al., "Dice Semimetric Losses: Optimizing the Dice Score with
    Soft Labels", MICCAI 2023). Sums run over the batch, so slices without lesion add their false positives. The
    weights of misses and false positives are after Salehi et al., "Tversky Loss Function for Image Segmentation Using
    3D Fully Convolutional Deep Networks" (MLMI 2017).

    Args:
        truth: Lesion coverage in [0, 1], of any shape.
        probability: Of the same shape.
        miss_weight: Weight of what is missed, in [0, 1]; what is found in excess weighs 1 - `miss_weight`.

    Returns:
        Scalar in [0, 1).
    """
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    wanted, found = ops.sum(truth), ops.sum(probability)
    overlap = 0.5 * (wanted + found - ops.sum(ops.abs(probability - truth)))
    union = overlap + miss_weight * (wanted - overlap) + (1.0 - miss_weight) * (found - overlap)
    return 1.0 - (2.0 * overlap + SMOOTH_PIXELS) / (2.0 * union + SMOOTH_PIXELS)


def cross_entropy(truth: Any, logits: Any, weight: Any = 1.0, *, focal_gamma: float = 0.0) -> Any:
    """Mean binary cross-entropy over all pixels, finite for any finite logit.

    With `focal_gamma` each pixel weighs |t - p| to that power, which for hard targets is the focal loss (Lin et al.,
    "Focal Loss for Dense Object Detection", ICCV 2017) and for soft ones its extension (Li et al., "Generalized Focal
    Loss", NeurIPS 2020).

    Args:
        truth: Lesion coverage in [0, 1], of any shape.
        logits: Of the same shape.
        weight: Weights of the pixels, of a shape that broadcasts; the mean is over pixels, not over weights.
        focal_gamma: 0 for plain cross-entropy.

    Returns:
        Scalar, natural logarithm.
    """
    truth, logits = ops.cast(truth, "float32"), ops.cast(logits, "float32")
    loss = ops.softplus(logits) - logits * truth
    if focal_gamma:
        # Away from 0, where the derivative of a power below 1 has no bound.
        loss = loss * ops.power(ops.maximum(ops.abs(truth - ops.sigmoid(logits)), 1e-6), focal_gamma)
    return ops.mean(loss * weight)


def pixel_weights(truth: Any, *, boundary: float = 0.0, small: float = 0.0) -> Any:
    """What pixels weigh in the cross-entropy beyond 1.

    Args:
        truth: Lesion coverage in [0, 1], of shape (n, size, size, 1); of volumes (n, slices, size, size, 1), whose
            slices are weighed each for itself.
        boundary: Extra weight of pixels that have both lesion and none within one pixel (the border weights of
            Ronneberger et al. 2015, in their simplest form).
        small: Extra weight of lesion in slices that hold little of it, falling linearly to 0 at `SMALL_SHARE`.

    Returns:
        Of the shape of `truth`, at least 1.
    """
    shape = truth.shape
    truth = ops.reshape(ops.cast(truth, "float32"), (-1, *shape[-3:]))
    weight = ops.ones_like(truth)
    if boundary:
        most = ops.max_pool(truth, 3, strides=1, padding="same")
        least = 1.0 - ops.max_pool(1.0 - truth, 3, strides=1, padding="same")
        weight = weight + boundary * (most - least)
    if small:
        share = ops.mean(truth, axis=(1, 2, 3), keepdims=True)
        weight = weight + small * truth * ops.maximum(1.0 - share / SMALL_SHARE, 0.0)
    return ops.reshape(weight, (-1, *shape[1:]))


def segmentation_loss(
    truth: Any,
    logits: Any,
    *,
    dice_weight: float,
    cross_entropy_weight: float,
    miss_weight: float = 0.5,
    focal_gamma: float = 0.0,
    boundary_weight: float = 0.0,
    small_lesion_weight: float = 0.0,
) -> Any:
    """The weighted sum of both.

    Args:
        truth: Lesion coverage in [0, 1], of shape (n, size, size, 1) or (n, slices, size, size, 1).
        logits: Of the same shape.
        dice_weight: Weight of the region's loss.
        cross_entropy_weight: Weight of the cross-entropy.
        miss_weight: As for `tversky_loss`.
        focal_gamma: As for `cross_entropy`.
        boundary_weight: As for `pixel_weights`.
        small_lesion_weight: Likewise.

    Returns:
        Scalar.
    """
    loss = ops.convert_to_tensor(0.0, "float32")
    if dice_weight:
        loss = loss + dice_weight * tversky_loss(truth, ops.sigmoid(logits), miss_weight=miss_weight)
    if cross_entropy_weight:
        weight: Any = 1.0
        if boundary_weight or small_lesion_weight:
            weight = pixel_weights(truth, boundary=boundary_weight, small=small_lesion_weight)
        loss = loss + cross_entropy_weight * cross_entropy(truth, logits, weight, focal_gamma=focal_gamma)
    return loss


def supervised_loss(truth: Any, outputs: Any | Sequence[Any], **options: Any) -> Any:
    """The loss of a network with one output or, under deep supervision, with several.

    Each output is held against the truth averaged over the pixels that its own pixels cover; weights halve from each
    output to the next coarser one and sum to 1 (Isensee et al., "nnU-Net", Nature Methods 2021).

    Args:
        truth: Lesion coverage in [0, 1], of shape (n, size, size, 1) or (n, slices, size, size, 1).
        outputs: Logits of that shape, or several of them, finest first, whose sizes divide that of the truth.
        **options: As for `segmentation_loss`.

    Returns:
        Scalar.
    """
    if not isinstance(outputs, list | tuple):
        return segmentation_loss(truth, outputs, **options)
    shares = [0.5**level for level in range(len(outputs))]
    losses = [segmentation_loss(covered_share(truth, logits.shape), logits, **options) for logits in outputs]
    return sum(share / sum(shares) * loss for share, loss in zip(shares, losses, strict=True))


def covered_share(truth: Any, shape: Sequence[int | None]) -> Any:
    """Lesion coverage on a coarser grid: means over the pixels that each of its pixels covers.

    Args:
        truth: Lesion coverage, of shape (n, ..., 1).
        shape: Shape wanted; every size between the first and the last must divide the truth's.
    """
    factors = tuple(fine // coarse for fine, coarse in zip(truth.shape[1:-1], shape[1:-1], strict=True))
    return truth if set(factors) == {1} else ops.average_pool(truth, factors, strides=factors)
