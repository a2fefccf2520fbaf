"""How well probabilities of pixels agree with how often there is lesion: counts that add up, and what follows of them.

The counts are whole numbers, since both sides are in steps of 1/255 (`postprocess.quantise`, and the covered share of a
pixel). They add up exactly over slices and scans in any order, and take 264 bytes however many pixels there are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components.imaging.postprocess import LEVELS

BINS = 10
"""Bins of equal width over the probabilities."""

LEAST_STEP = 3
"""Least probability of the pixels that count, in steps of 1/255: the first one of at least 0.01."""

COUNTS = 3 * BINS + 3
"""Numbers in `calibration_counts`."""

DEFINITION = (
    f"pixels of the model grid, pooled over all slices; of those with a probability of at least {LEAST_STEP}/{LEVELS} "
    "(0.01) or with any lesion, the others being air and healthy tissue without a doubt: truth is the share of a pixel "
    "that lesion covers; brier: mean squared difference of probability and truth (Brier 1950); ece: mean over the "
    "pixels of |mean probability - true share| of their bin (Naeini 2015); what was wholly missed is in the lowest bin "
    "and what was rightly passed over is not, so its share of lesion is high; brier_all_pixels: over every pixel; a "
    "probability that is not a number counts as 0"
)


@dataclass(frozen=True)
class Bin:
    """Pixels whose probability lies in [low, high); the last bin holds 1 too.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        pixels: Their number.
        mean_probability: Of them; None where there are none.
        true_share: Share of their area that is lesion; None likewise.
    """

    low: float
    high: float
    pixels: int
    mean_probability: float | None
    true_share: float | None


@dataclass(frozen=True)
class Calibration:
    """What `calibration_counts` of a cohort amount to; `DEFINITION` says which pixels count.

    Attributes:
        bins: From 0 to 1.
        pixels: Pixels that count.
        brier: Over these; None where there are none.
        ece: Expected calibration error over these; None likewise.
        brier_all_pixels: Over every pixel.
        all_pixels: Every pixel.
    """

    bins: tuple[Bin, ...]
    pixels: int
    brier: float | None
    ece: float | None
    brier_all_pixels: float | None
    all_pixels: int

    def as_dict(self) -> dict[str, Any]:
        """By name, with the definition, ready for JSON."""
        return {**asdict(self), "bins": [asdict(item) for item in self.bins], "definition": DEFINITION}


def calibration_counts(quantised: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts of some pixels.

    Args:
        quantised: Probabilities in steps of 1/255, uint8 of any shape.
        truth: Covered shares in the same steps, uint8 of the same shape.

    Returns:
        int64 of shape (33,): pixels of each bin that count, sums of their probabilities, sums of their truths; the sum
        of their squared differences; that of every pixel; the number of pixels. Sums are in steps of 1/255, those of
        squares in 1/255 squared.

    Raises:
        ValueError: Not uint8, or of different shapes.
    """
    if quantised.dtype != np.uint8 or truth.dtype != np.uint8 or quantised.shape != truth.shape:
        raise ValueError(
            f"probabilities are {quantised.dtype} of shape {quantised.shape}, truth is {truth.dtype} of shape "
            f"{truth.shape}; wanted uint8 and one shape"
        )
    counts = np.zeros(COUNTS, np.int64)
    chosen = (quantised >= LEAST_STEP) | (truth > 0)
    # What does not count has no truth, and probabilities of a few steps.
    rest = np.bincount(quantised[~chosen], minlength=LEAST_STEP)
    probability, true = quantised[chosen].astype(np.int64), truth[chosen].astype(np.int64)
    place = np.minimum(probability * BINS // LEVELS, BINS - 1)
    counts[:BINS] = np.bincount(place, minlength=BINS)
    # Sums of whole numbers below 2^53 are exact in float64 too.
    counts[BINS : 2 * BINS] = np.bincount(place, probability, BINS)
    counts[2 * BINS : 3 * BINS] = np.bincount(place, true, BINS)
    counts[-3] = ((probability - true) ** 2).sum()
    counts[-2] = counts[-3] + (rest * np.arange(len(rest)) ** 2).sum()
    counts[-1] = quantised.size
    return counts


def calibration_of(counts: np.ndarray) -> Calibration:
    """The measures of counts that were added up.

    Args:
        counts: Sum of what `calibration_counts` returned, shape (33,).

    Raises:
        ValueError: Another shape.
    """
    if counts.shape != (COUNTS,):
        raise ValueError(f"counts have shape {counts.shape}, wanted ({COUNTS},)")
    whole = [int(value) for value in counts]
    bins = []
    for index in range(BINS):
        pixels = whole[index]
        sums = whole[BINS + index], whole[2 * BINS + index]
        mean, share = (value / pixels / LEVELS if pixels else None for value in sums)
        bins.append(Bin(index / BINS, (index + 1) / BINS, pixels, mean, share))
    pixels = sum(whole[:BINS])
    apart = sum(abs(whole[BINS + index] - whole[2 * BINS + index]) for index in range(BINS))
    return Calibration(
        bins=tuple(bins),
        pixels=pixels,
        brier=whole[-3] / pixels / LEVELS**2 if pixels else None,
        ece=apart / pixels / LEVELS if pixels else None,
        brier_all_pixels=whole[-2] / whole[-1] / LEVELS**2 if whole[-1] else None,
        all_pixels=whole[-1],
    )
