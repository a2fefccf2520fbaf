"""What a check says about a scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from components.imaging.checks.registry import CHECKS, Severity
from components.imaging.errors import ScanError


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        code: A key of `CHECKS`.
        severity: What it means for the scan; the registry's, unless the policy says otherwise.
        message: The file, the value found, the value wanted.
        value: The figure that decided, where there is one.
    """

    code: str
    severity: Severity
    message: str
    value: float | None = None

    @classmethod
    def of(cls, code: str, message: str, value: float | None = None) -> Finding:
        """A finding of the registry's severity."""
        return cls(code, CHECKS[code].severity, message, None if value is None else round(float(value), 4))

    @classmethod
    def from_error(cls, error: ScanError) -> Finding:
        """The finding that a refused file is."""
        return cls.of(error.code, str(error))


def apply_policy(findings: Iterable[Finding], policy: Mapping[str, str]) -> tuple[Finding, ...]:
    """Findings with the severities of the configuration's `data.checks`; those that are `off` are dropped.

    A fatal finding stays an error whatever the policy says.
    """
    kept = []
    for finding in findings:
        wanted = "error" if CHECKS[finding.code].fatal else policy.get(finding.code, finding.severity)
        if wanted == "off":
            continue
        kept.append(finding if wanted == finding.severity else replace(finding, severity=cast(Severity, wanted)))
    return tuple(kept)
