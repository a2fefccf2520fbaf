"""Calibration: by hand, against scikit-learn, and that counts add up however they are split."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from components.imaging.calibration import BINS, COUNTS, calibration_counts, calibration_of


def test_four_pixels_by_hand() -> None:
    """51/255 = 0.2 opens the third bin; half covered, wholly covered, missed, and one of no interest."""
    probabilities = np.array([51, 255, 0, 2], np.uint8)
    truth = np.array([127, 255, 255, 0], np.uint8)
    found = calibration_of(calibration_counts(probabilities, truth))
    assert (found.pixels, found.all_pixels) == (3, 4)
    assert [item.pixels for item in found.bins] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    first, third, last = found.bins[0], found.bins[2], found.bins[9]
    assert (first.low, first.high, first.mean_probability, first.true_share) == (0.0, 0.1, 0.0, 1.0)
    assert (third.low, third.mean_probability) == (0.2, pytest.approx(0.2))
    assert third.true_share == pytest.approx(127 / 255)
    assert (last.mean_probability, last.true_share) == (1.0, 1.0)
    assert (found.bins[1].mean_probability, found.bins[1].true_share) == (None, None)
    missed, half = 1.0, 76 / 255
    assert found.brier == pytest.approx((missed**2 + half**2) / 3)
    assert found.ece == pytest.approx((missed + half) / 3)
    assert found.brier_all_pixels == pytest.approx((missed**2 + half**2 + (2 / 255) ** 2) / 4)
    assert "3/255" in found.as_dict()["definition"]


@pytest.mark.parametrize("seed", range(3))
def test_whole_pixels_against_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A probability on a bin's edge belongs to the bin above here, to the one below there.
    steps = np.array([step for step in range(3, 256) if step % 51 or step == 255])
    probabilities = rng.choice(steps, 5000).astype(np.uint8)
    truth = np.where(rng.random(5000) < (probabilities / 255) ** 2, 255, 0).astype(np.uint8)
    found = calibration_of(calibration_counts(probabilities, truth))
    lesion = truth > 0
    share, mean = calibration_curve(lesion, probabilities / 255, n_bins=BINS, strategy="uniform")
    assert [item.true_share for item in found.bins] == pytest.approx(share.tolist())
    assert [item.mean_probability for item in found.bins] == pytest.approx(mean.tolist())
    assert found.brier == pytest.approx(brier_score_loss(lesion, probabilities / 255))
    assert found.brier_all_pixels == pytest.approx(found.brier)
    weights = np.array([item.pixels for item in found.bins]) / 5000
    assert found.ece == pytest.approx(float(np.sum(weights * np.abs(share - mean))))
    assert found.ece is not None and found.ece > 0.1  # the truth is the square of what is promised


def test_pixels_without_a_doubt_count_for_one_measure_alone() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.integers(0, 256, 500).astype(np.uint8)
    truth = rng.integers(0, 256, 500).astype(np.uint8)
    alone = calibration_of(calibration_counts(probabilities, truth))
    air = rng.integers(0, 3, 9500).astype(np.uint8)
    found = calibration_of(
        calibration_counts(np.append(probabilities, air), np.append(truth, np.zeros(9500, np.uint8)))
    )
    assert (found.bins, found.brier, found.ece) == (alone.bins, alone.brier, alone.ece)
    everything = (np.sum((probabilities / 255 - truth / 255) ** 2) + np.sum((air / 255) ** 2)) / 10_000
    assert found.brier_all_pixels == pytest.approx(everything)
    assert found.all_pixels == 10_000


def test_counts_add_up_exactly() -> None:
    rng = np.random.default_rng(2)
    probabilities, truth = (rng.integers(0, 256, (6, 40, 40)).astype(np.uint8) for _ in range(2))
    whole = calibration_counts(probabilities, truth)
    parts = np.sum([calibration_counts(*pair) for pair in zip(probabilities, truth, strict=True)], axis=0)
    assert whole.shape == (COUNTS,) and whole.dtype == np.int64
    np.testing.assert_array_equal(whole, parts)


def test_of_nothing_only_the_plain_measure_is_defined() -> None:
    air = np.zeros((4, 4), np.uint8)
    found = calibration_of(calibration_counts(air, air))
    assert (found.pixels, found.brier, found.ece) == (0, None, None)
    assert (found.brier_all_pixels, found.all_pixels) == (0.0, 16)
    none = calibration_of(np.zeros(COUNTS, np.int64))
    assert none.brier_all_pixels is None and none.all_pixels == 0


def test_what_does_not_fit_is_refused() -> None:
    plane = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="wanted uint8 and one shape"):
        calibration_counts(plane, np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="float64"):
        calibration_counts(plane, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="wanted \\(33,\\)"):
        calibration_of(np.zeros(4))
