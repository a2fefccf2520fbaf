"""From what a probe found to a verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.servability.rules import BOUNDS, CHECKS, in_short, judge, not_looked_at, refused
from pipeline.config import ServabilityConfig

WIDE = ServabilityConfig().model_dump()
GOOD = {
    "doing": "asking the same again", "finished": True, "passed": list(CHECKS), "problems": {},
    "measures": {"load_seconds": 1.0, "seconds_per_scan": 2.0, "slices": 28, "peak_mib": 700.0},
}  # fmt: skip


def failed(verdict: dict[str, Any]) -> list[str]:
    assert verdict["failures"] == [rule for rule in verdict["rules"] if rule["passed"] is False]
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict
    return [rule["rule"] for rule in verdict["failures"]]


def test_a_sound_model_is_blessed() -> None:
    verdict = judge(GOOD, "", WIDE)
    assert verdict["blessed"] and not verdict["skipped"] and failed(verdict) == []
    assert {rule["rule"] for rule in verdict["rules"]} == {"alive", *CHECKS, *BOUNDS}
    assert all(rule["passed"] for rule in verdict["rules"])
    assert in_short(verdict) == "servable: loads in 1.0 s, 2.0 s for a scan of 28 slices, 700 MiB"


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("max_load_seconds", "load_seconds"),
        ("max_seconds_per_scan", "seconds_per_scan"),
        ("max_memory_mib", "peak_mib"),
    ],
)
def test_a_bound_is_kept_up_to_its_value_and_off_by_null(name: str, measure: str) -> None:
    value = GOOD["measures"][measure]  # type: ignore[index]
    assert judge(GOOD, "", {**WIDE, name: value})["blessed"]
    verdict = judge(GOOD, "", {**WIDE, name: value * 0.99})
    assert failed(verdict) == [name] and not verdict["blessed"]
    (rule,) = verdict["failures"]
    assert (rule["value"], rule["bound"]) == (value, value * 0.99)
    assert f"wanted at most {value * 0.99:g}" in rule["message"]
    assert in_short(verdict) == f"refused: {name}"
    assert judge(GOOD, "", {**WIDE, name: None})["blessed"]


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_can_refuse(check: str) -> None:
    verdict = judge({**GOOD, "passed": [], "problems": {check: "it is so"}}, "", WIDE)
    assert failed(verdict) == [check] and verdict["failures"][0]["message"] == "it is so"
    assert not verdict["blessed"]


@pytest.mark.parametrize("report", [{}, {**GOOD, "finished": False}])
def test_a_probe_that_did_not_come_to_its_end_blesses_nothing(report: dict[str, Any]) -> None:
    for ended in ("", "was stopped after 5 s"):
        verdict = judge(report, ended, WIDE)
        assert failed(verdict) == ["alive"] and not verdict["blessed"]
        assert (report.get("doing") or "starting") in verdict["failures"][0]["message"]
        assert ended in verdict["failures"][0]["message"]
    assert [rule["passed"] for rule in judge({}, "", WIDE)["rules"][1:]] == [None] * (len(CHECKS) + len(BOUNDS))


def test_a_model_that_crashed_after_its_report_is_not_blessed() -> None:
    assert failed(judge(GOOD, "was killed by SIGSEGV", WIDE)) == ["alive"]


def test_what_was_not_looked_at_is_neither_blessed_nor_a_failure() -> None:
    verdict = not_looked_at()
    assert not verdict["blessed"] and verdict["skipped"] and failed(verdict) == []
    assert in_short(verdict) == "not looked at: the gate refused the model"


def test_a_model_without_a_contract_is_refused() -> None:
    verdict = refused("contract", "why")
    assert failed(verdict) == ["contract"] and not verdict["blessed"]
