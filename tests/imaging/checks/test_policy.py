"""Severities: the registry's, the policy's, and what no policy can lower."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.imaging.checks.finding import Finding, apply_policy
from components.imaging.checks.registry import CHECKS, SEVERITIES
from components.imaging.errors import UsageError
from pipeline.config import load_config

ROOT = Path(__file__).parents[3]


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    for code, check in CHECKS.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
        assert check.severity in SEVERITIES
        assert check.explanation.endswith(".") and check.remedy.endswith(".")
        assert check.severity == "error" or not check.fatal


def test_every_code_that_is_raised_or_found_is_registered_and_the_other_way_round() -> None:
    sources = [*(ROOT / "components" / "imaging").glob("*.py"), *(ROOT / "components" / "imaging" / "checks").glob("*")]
    sources += (ROOT / "components" / "nifti_example_gen").glob("*.py")
    sources += (ROOT / "components" / "imaging" / "dicom").glob("*.py")
    text = "\n".join(path.read_text() for path in sources if path.suffix == ".py" and path.name != "registry.py")
    raised = set(re.findall(r'(?:ScanError|Finding\.of)\(\s*"([a-z0-9-]+)"', text))
    assert raised and raised <= set(CHECKS)
    assert {code for code in CHECKS if f'"{code}"' not in text} == set()


@pytest.mark.parametrize(
    ("code", "policy", "severity"),
    [
        ("no-skull", {}, "warning"),
        ("no-skull", {"no-skull": "error"}, "error"),
        ("no-skull", {"no-skull": "off"}, None),
        ("no-skull", {"metal": "off"}, "warning"),
        ("sheared", {"sheared": "error"}, "error"),
        ("mask-255", {"mask-255": "warning"}, "warning"),
        ("hu-8bit", {"hu-8bit": "warning"}, "warning"),
        ("truncated", {"truncated": "off"}, "error"),
    ],
)
def test_the_policy_overrides_the_registry(code: str, policy: dict[str, str], severity: str | None) -> None:
    findings = apply_policy([Finding.of(code, "text", 1)], policy)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_the_configuration_knows_the_codes() -> None:
    config = load_config("demo", ["data.checks.no-skull=off", "data.checks.metal=error"])
    assert config.data.checks == {"no-skull": "off", "metal": "error"}
    for setting, words in (
        ("data.checks.no-skul=off", ["no-skul is no check", "did you mean no-skull?"]),
        ("data.checks.truncated=warning", ["truncated cannot be warning"]),
        ("data.checks.metal=loud", ["data.checks.metal", "'loud'"]),
        ("data.max_memory_gib=0", ["data.max_memory_gib"]),
    ):
        with pytest.raises(UsageError) as caught:
            load_config("demo", [setting])
        assert all(word in str(caught.value) for word in words), str(caught.value)
