"""Losses against values computed by hand."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.trainer.losses import (
    SMALL_SHARE,
    cross_entropy,
    pixel_weights,
    segmentation_loss,
    supervised_loss,
    tversky_loss,
)


@pytest.mark.parametrize(
    ("truth", "probability", "wanted"),
    [
        # 1 - (2 * 1 + 1) / (2 + 1 + 1): one of two true pixels found.
        ([1, 1, 0, 0], [1, 0, 0, 0], 1 - 3 / 4),
        ([1, 1, 0, 0], [1, 1, 0, 0], 0.0),
        # Disjoint: 1 - 1 / (2 + 2 + 1).
        ([1, 1, 0, 0], [0, 0, 1, 1], 1 - 1 / 5),
        # Soft target hit exactly: no loss, whereas the product form would leave some.
        ([0.5, 0.25, 0, 0], [0.5, 0.25, 0, 0], 0.0),
        # Sums 0.75 and 1.5, difference 0.75: 1 - (2.25 - 0.75 + 1) / (2.25 + 1).
        ([0.5, 0.25, 0, 0], [1, 0.5, 0, 0], 1 - 2.5 / 3.25),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0], [1, 1, 1, 0], 1 - 1 / 4),
    ],
)
def test_dice_loss(truth: list[float], probability: list[float], wanted: float) -> None:
    shape = (2, 2, 1, 1)
    found = tversky_loss(np.array(truth, np.float32).reshape(shape), np.array(probability, np.float32).reshape(shape))
    assert float(found) == pytest.approx(wanted, abs=1e-6)


def test_dice_loss_of_hard_targets_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((3, 8, 8, 1)) < 0.2).astype(np.float32)
    probability = rng.random(truth.shape).astype(np.float32)
    usual = 1 - (2 * (truth * probability).sum() + 1) / (truth.sum() + probability.sum() + 1)
    assert float(tversky_loss(truth, probability)) == pytest.approx(usual, abs=1e-5)


def test_cross_entropy_by_hand_and_against_keras() -> None:
    # Logit 0 costs ln 2 whatever the target; logit 2 on target 1 costs ln(1 + e^-2).
    assert float(cross_entropy(np.array([0.3], "f4"), np.array([0.0], "f4"))) == pytest.approx(math.log(2), abs=1e-6)
    found = float(cross_entropy(np.array([1, 0], "f4"), np.array([2, 2], "f4")))
    assert found == pytest.approx((math.log1p(math.exp(-2)) + 2 + math.log1p(math.exp(-2))) / 2, abs=1e-6)
    rng = np.random.default_rng(1)
    truth, logits = rng.random((2, 4, 4, 1)).astype("f4"), rng.normal(0, 4, (2, 4, 4, 1)).astype("f4")
    theirs = keras.ops.mean(keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(truth, logits))
    assert float(cross_entropy(truth, logits)) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_loss_and_gradient_stay_finite_and_small(value: float, logit: float) -> None:
    truth = tf.fill([2, 8, 8, 1], value)
    logits = tf.Variable(tf.fill([2, 8, 8, 1], logit))
    with tf.GradientTape() as tape:
        loss = segmentation_loss(truth, logits, dice_weight=1.0, cross_entropy_weight=1.0)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(float(loss))
    assert np.isfinite(gradient).all()
    # Each pixel pulls with at most 1/n for the cross-entropy and a quarter for the Dice of an almost empty batch.
    assert np.abs(gradient).max() <= 0.25 + 1 / 128


def test_the_gradient_points_towards_the_truth() -> None:
    truth = np.zeros((1, 4, 4, 1), "f4")
    truth[0, :2] = 1
    logits = tf.Variable(tf.zeros([1, 4, 4, 1]))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        with tf.GradientTape() as tape:
            loss = segmentation_loss(truth, logits, dice_weight=weights[0], cross_entropy_weight=weights[1])
        gradient = tape.gradient(loss, logits).numpy()
        assert (gradient[truth == 1] < 0).all()
        assert (gradient[truth == 0] > 0).all()


def test_weights() -> None:
    rng = np.random.default_rng(2)
    truth, logits = rng.random((1, 4, 4, 1)).astype("f4"), rng.normal(size=(1, 4, 4, 1)).astype("f4")
    both = segmentation_loss(truth, logits, dice_weight=0.5, cross_entropy_weight=2.0)
    wanted = 0.5 * tversky_loss(truth, 1 / (1 + np.exp(-logits))) + 2.0 * cross_entropy(truth, logits)
    assert float(both) == pytest.approx(float(wanted), rel=1e-5)


def test_misses_and_false_positives_weigh_what_they_are_told_to() -> None:
    truth = np.array([1, 1, 1, 0], "f4").reshape(1, 2, 2, 1)
    found = np.array([1, 0, 0, 1], "f4").reshape(1, 2, 2, 1)
    # Overlap 1, missed 2, in excess 1: the index is 2 / (2 (1 + 2 w + 1 - w)), with 1 added above and below.
    for weight in (0.0, 0.3, 0.5, 1.0):
        wanted = 1 - (2 + 1) / (2 * (1 + 2 * weight + 1 - weight) + 1)
        assert float(tversky_loss(truth, found, miss_weight=weight)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_by_hand_and_against_keras(gamma: float) -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((2, 4, 4, 1)) < 0.4).astype("f4")
    logits = rng.normal(0, 2, truth.shape).astype("f4")
    theirs = keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True, reduction=None)(truth, logits)
    found = float(cross_entropy(truth, logits, focal_gamma=gamma))
    assert found == pytest.approx(float(keras.ops.mean(theirs)), rel=1e-4)
    # Logit 0 is off by a half from either hard target.
    one = float(cross_entropy(np.array([1.0], "f4"), np.array([0.0], "f4"), focal_gamma=gamma))
    assert one == pytest.approx(math.log(2) * 0.5**gamma, rel=1e-5)


def test_edges_and_small_lesions_weigh_more() -> None:
    truth = np.zeros((3, 40, 40, 1), "f4")
    truth[0, 10:15, 10:15] = 1
    truth[1, 20:22, 20:22] = 1
    edges = pixel_weights(truth, boundary=2.0).numpy()[..., 0]
    # A square of 5 x 5 has edge pixels from 9 to 15, but for its inner 3 x 3.
    assert edges[0].sum() - 1600 == 2 * (49 - 9)
    assert edges[0, 12, 12] == 1 and edges[0, 10, 12] == 3 and edges[0, 9, 9] == 3 and edges[0, 8, 9] == 1
    assert (edges[2] == 1).all()
    small = pixel_weights(truth, small=4.0).numpy()[..., 0]
    assert small[1, 20, 20] == pytest.approx(1 + 4 * (1 - 4 / 1600 / SMALL_SHARE))
    assert small[1, 0, 0] == 1 and (small[0] == 1).all() and (small[2] == 1).all()
    logits = np.zeros_like(truth)
    plain = segmentation_loss(truth, logits, dice_weight=0.0, cross_entropy_weight=1.0)
    weighted = segmentation_loss(truth, logits, dice_weight=0.0, cross_entropy_weight=1.0, boundary_weight=2.0)
    assert float(weighted) / float(plain) == pytest.approx(edges.mean(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_every_choice_of_loss_stays_finite(value: float, logit: float) -> None:
    logits = tf.Variable(tf.fill([2, 8, 8, 1], logit))
    with tf.GradientTape() as tape:
        loss = segmentation_loss(
            tf.fill([2, 8, 8, 1], value), logits, dice_weight=1.0, cross_entropy_weight=1.0, miss_weight=0.7,
            focal_gamma=0.5, boundary_weight=1.0, small_lesion_weight=1.0,
        )  # fmt: skip
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


def numpy_loss(truth: np.ndarray, logits: np.ndarray) -> float:
    """Half the soft Dice loss of the batch and twice the cross-entropy, in float64."""
    truth, logits = truth.astype(float), logits.astype(float)
    probability = 1 / (1 + np.exp(-logits))
    overlap = (truth.sum() + probability.sum() - np.abs(truth - probability).sum()) / 2
    dice = 1 - (2 * overlap + 1) / (truth.sum() + probability.sum() + 1)
    entropy = -(truth * np.log(probability) + (1 - truth) * np.log(1 - probability)).mean()
    return 0.5 * float(dice) + 2.0 * float(entropy)


def test_deep_supervision_is_what_numpy_computes() -> None:
    rng = np.random.default_rng(4)
    truth = rng.random((2, 16, 16, 1)).astype("f4") * (rng.random((2, 16, 16, 1)) < 0.3)
    outputs = [rng.normal(0, 2, (2, size, size, 1)).astype("f4") for size in (16, 4, 2)]
    wanted = 0.0
    for weight, logits in zip((4 / 7, 2 / 7, 1 / 7), outputs, strict=True):
        size = logits.shape[1]
        block = 16 // size
        coarse = truth.reshape(2, size, block, size, block, 1).mean(axis=(2, 4))
        wanted += weight * numpy_loss(coarse, logits)
    options = {"dice_weight": 0.5, "cross_entropy_weight": 2.0}
    assert float(supervised_loss(truth, outputs, **options)) == pytest.approx(wanted, rel=1e-5)
    # One output is the loss as it was, whether it stands alone or in a list.
    for single in (outputs[0], outputs[:1]):
        found = float(supervised_loss(truth, single, **options))
        assert found == pytest.approx(numpy_loss(truth, outputs[0]), rel=1e-5)
        assert found == pytest.approx(float(segmentation_loss(truth, outputs[0], **options)), rel=1e-6)


def test_volumes_are_weighed_slice_by_slice_and_averaged_over_blocks() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random((2, 4, 16, 16, 1)) < 0.1).astype("f4")
    truth[0, 1] = 0
    flat = truth.reshape(8, 16, 16, 1)
    weighed = pixel_weights(truth, boundary=2.0, small=3.0).numpy()
    np.testing.assert_array_equal(weighed.reshape(flat.shape), pixel_weights(flat, boundary=2.0, small=3.0))
    # Where slices are not halved and where they are.
    outputs = [rng.normal(0, 2, (2, *shape, 1)).astype("f4") for shape in ((4, 16, 16), (4, 8, 8), (2, 4, 4))]
    wanted = 4 / 7 * numpy_loss(truth, outputs[0])
    wanted += 2 / 7 * numpy_loss(truth.reshape(2, 4, 8, 2, 8, 2, 1).mean(axis=(3, 5)), outputs[1])
    wanted += 1 / 7 * numpy_loss(truth.reshape(2, 2, 2, 4, 4, 4, 4, 1).mean(axis=(2, 4, 6)), outputs[2])
    found = supervised_loss(truth, outputs, dice_weight=0.5, cross_entropy_weight=2.0)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
