"""Agreement of two measurements of the same thing (Bland and Altman 1986, Lancet 327:307-310)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

NORMAL_95 = 1.96
"""Bland and Altman's limits hold 95 % of normally distributed differences."""

DEFINITION = (
    "predicted less true volume; bias: its mean; limits of agreement: 1.96 standard deviations (n - 1) below and above "
    "it; 95 % intervals by Student's t, the limits' with sqrt(3 / n) "
    "standard deviations as standard error (Bland and Altman 1986)"
)


@dataclass(frozen=True)
class Agreement:
    """Differences of pairs; all but `n` is None where it is not defined: of no pair, or of a single one.

    Attributes:
        n: Pairs.
        bias: Mean difference, second less first.
        sd: Standard deviation of the differences, with n - 1.
        low: Lower limit of agreement.
        high: Upper limit of agreement.
        bias_low: Lower end of the bias's 95 % interval.
        bias_high: Upper end of it.
        limit_margin: Half the width of each limit's 95 % interval.
    """

    n: int
    bias: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    bias_low: float | None = None
    bias_high: float | None = None
    limit_margin: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The numbers by name, in the order of the fields."""
        return asdict(self)


def bland_altman(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Bias and limits of agreement.

    Args:
        first: One measurement of each, such as true volumes in ml.
        second: The other one, in the same order and unit.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values, wanted pairs")
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("volumes must be finite numbers")
    n = len(differences)
    if n == 0:
        return Agreement(0)
    bias = float(differences.mean())
    if n == 1:
        return Agreement(1, bias)
    from scipy.special import stdtrit  # a third of a second that few need

    sd = float(differences.std(ddof=1))
    quantile = float(stdtrit(n - 1, 0.975))
    margin = quantile * sd / math.sqrt(n)
    return Agreement(
        n=n,
        bias=bias,
        sd=sd,
        low=bias - NORMAL_95 * sd,
        high=bias + NORMAL_95 * sd,
        bias_low=bias - margin,
        bias_high=bias + margin,
        limit_margin=quantile * sd * math.sqrt(3 / n),
    )
