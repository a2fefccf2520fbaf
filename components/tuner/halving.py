"""How many trainings Hyperband's first bracket takes, known without KerasTuner."""

from __future__ import annotations

import math

FACTOR = 3
"""One in so many trials goes on to the next round, with so many times the epochs."""


def first_bracket(epochs: int) -> list[int]:
    """Trainings by round of the bracket that halves most, with which the search begins.

    After Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018), in
    KerasTuner's rounding.

    Args:
        epochs: Epochs of the last round, at least 1.

    Returns:
        As many trainings as there are rounds, the largest number first.
    """
    rounds = 0
    while epochs >= FACTOR**rounds:
        rounds += 1
    finalists = math.ceil(1 + math.log(epochs, FACTOR)) / rounds
    return [math.ceil(finalists * FACTOR ** (rounds - 1 - done)) for done in range(rounds)]
