"""The learning rate over a training."""

from __future__ import annotations

import math

FLOOR = 0.01
"""The rate ends at this share of its peak."""

POWER = 0.9


def learning_rate(progress: float, *, peak: float, warmup: float, schedule: str = "cosine") -> float:
    """Linear warm-up, then half a cosine or a power down to 1 % of the peak.

    The cosine is after Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017),
    without restarts; the power of 0.9 after Chen et al., "DeepLab" (TPAMI 2018), as nnU-Net has it.

    Args:
        progress: Share of the training that is done, in [0, 1].
        peak: The highest rate.
        warmup: Share of the training in which the rate rises.
        schedule: `cosine` or `polynomial`.

    Returns:
        The rate.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * max(progress / warmup, FLOOR)
    done = (progress - warmup) / (1.0 - warmup) if warmup < 1 else 1.0
    left = (1.0 - done) ** POWER if schedule == "polynomial" else 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (FLOOR + (1.0 - FLOOR) * left)
