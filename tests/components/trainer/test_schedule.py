"""The learning rate."""

from __future__ import annotations

import pytest

from components.trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("progress", "wanted"),
    [(0.0, 1e-5), (0.05, 5e-4), (0.1, 1e-3), (0.55, 1e-3 * (0.01 + 0.99 * 0.5)), (1.0, 1e-5), (1.2, 1e-5)],
)
def test_rises_then_falls_as_half_a_cosine(progress: float, wanted: float) -> None:
    assert learning_rate(progress, peak=1e-3, warmup=0.1) == pytest.approx(wanted)


def test_without_warmup_it_begins_at_the_peak() -> None:
    assert learning_rate(0.0, peak=2.0, warmup=0.0) == pytest.approx(2.0)


def test_all_warmup_ends_at_the_floor() -> None:
    assert learning_rate(0.5, peak=2.0, warmup=1.0) == pytest.approx(1.0)
    assert learning_rate(1.0, peak=2.0, warmup=1.0) == pytest.approx(0.02)


def test_the_polynomial_falls_with_the_power_of_nine_tenths() -> None:
    found = learning_rate(0.55, peak=1e-3, warmup=0.1, schedule="polynomial")
    assert found == pytest.approx(1e-3 * (0.01 + 0.99 * 0.5**0.9))
    assert learning_rate(1.0, peak=1e-3, warmup=0.1, schedule="polynomial") == pytest.approx(1e-5)
    assert learning_rate(0.05, peak=1e-3, warmup=0.1, schedule="polynomial") == pytest.approx(5e-4)
