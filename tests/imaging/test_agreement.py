"""Bland and Altman's analysis: by hand, on their own data, and of what is too little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.imaging.agreement import bland_altman

# Peak expiratory flow by two meters (l/min), first measurements of each: table 1 of Bland and Altman 1986.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_four_pairs_by_hand() -> None:
    found = bland_altman([10.0, 20.0, 30.0, 40.0], [11.0, 19.0, 33.0, 41.0])
    sd = math.sqrt(((1 - 1) ** 2 + (-1 - 1) ** 2 + (3 - 1) ** 2 + (1 - 1) ** 2) / 3)
    assert (found.n, found.bias) == (4, 1.0)
    assert found.sd == pytest.approx(sd)
    assert (found.low, found.high) == pytest.approx((1 - 1.96 * sd, 1 + 1.96 * sd))
    t = 3.182446  # 97.5th percentile with 3 degrees of freedom, from a table
    assert (found.bias_low, found.bias_high) == pytest.approx((1 - t * sd / 2, 1 + t * sd / 2))
    assert found.limit_margin == pytest.approx(t * sd * math.sqrt(3 / 4))


def test_the_example_of_the_paper() -> None:
    """They give Wright less mini: -2.1 with a standard deviation of 38.8, interval -22.0 to 17.8."""
    found = bland_altman(MINI, WRIGHT)
    assert found.n == 17
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    assert (found.bias_low, found.bias_high) == pytest.approx((-22.0, 17.8), abs=0.1)
    # The paper's limits are at two standard deviations, -79.7 and 75.5, with standard error 16.3 and t = 2.12.
    assert (found.low, found.high) == pytest.approx((-2.1 - 1.96 * 38.8, -2.1 + 1.96 * 38.8), abs=0.2)
    assert found.limit_margin == pytest.approx(2.12 * 16.3, abs=0.2)


def test_too_little_has_no_limits() -> None:
    assert bland_altman([], []).as_dict() == {
        "n": 0, "bias": None, "sd": None, "low": None, "high": None, "bias_low": None, "bias_high": None,
        "limit_margin": None,
    }  # fmt: skip
    one = bland_altman([2.0], [1.5])
    assert (one.n, one.bias, one.sd, one.low, one.high) == (1, -0.5, None, None, None)


def test_equal_measurements_agree() -> None:
    found = bland_altman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.bias, found.sd, found.low, found.high) == (0, 0, 0, 0)


def test_what_is_no_pair_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="1 and 2 values"):
        bland_altman([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        bland_altman([1.0, 2.0], [1.0, float(np.nan)])
