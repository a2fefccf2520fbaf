"""docs/SCALING.md: what many scans cost, from what one costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling import TRAINER_CORES, Constants, costs, tables
from pipeline.config import load_config

ONE = Constants(
    slices=32.0, source_bytes=5e6, example_bytes=2e6, listing_bytes=800.0, ingest_s=0.36, driver_s=0.036,
    statistics_s=0.072, evaluate_s=3.6, shuffle_bytes=1e5, train_s=0.01, drawn=10.0,
)  # fmt: skip


def test_what_is_dealt_out_falls_with_the_workers_and_what_one_process_does_remains() -> None:
    found = {cost.stage: cost for cost in costs(ONE, 10_000, (1, 10))}
    assert found["NiftiExampleGen"].core_hours == pytest.approx(1.1)
    assert found["NiftiExampleGen"].wall_hours == pytest.approx((1.1, 0.2))
    assert found["StatisticsGen"].wall_hours == pytest.approx((0.2, 0.02))


def test_the_gate_looks_at_the_test_split_and_the_trainer_at_the_train_split() -> None:
    config = load_config("phe_sich")
    shares = config.splits
    whole = shares.train + shares.val + shares.test
    found = {cost.stage: cost for cost in costs(ONE, 10_000, (1, 100))}
    assert found["Evaluator"].core_hours == pytest.approx(10 * shares.test / whole)
    hours = config.training.epochs * 10_000 * shares.train / whole * 10 * 0.01 / 3600
    assert found["Trainer"].core_hours == pytest.approx(hours)
    assert found["Trainer"].wall_hours == pytest.approx((hours, hours / TRAINER_CORES))  # however many workers


def test_the_tables_add_up() -> None:
    lines = list(tables(replace(ONE, drawn=0.0), 100_000))
    row = next(line for line in lines if line.startswith("| all |"))
    test = load_config("phe_sich").splits
    gate = 100.0 * test.test / (test.train + test.val + test.test)
    assert float(row.split("|")[2]) == pytest.approx(10 + 1 + 2 + gate, abs=0.06)
    assert "| examples | 200.00 GB |" in lines
    assert "| scans and masks as delivered | 500.00 GB |" in lines
