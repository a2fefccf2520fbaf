"""The learning rate over a training."""

from __future__ import annotations

import math

FLOOR = 0.01
"""The rate ends at this share of its peak."""


def learning_rate(progress: float, *, peak: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak.

    After Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017), without restarts.

    Args:
        progress: Share of the training that is done, in [0, 1].
        peak: The highest rate.
        warmup: Share of the training in which the rate rises.

    Returns:
        The rate.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * max(progress / warmup, FLOOR)
    done = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    return peak * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * done)))
