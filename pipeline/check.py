"""`ich check`: what ingestion would say of a folder of scans, without a pipeline.

The checks are `components.imaging.checks`, the very functions that ingestion calls. Nothing here needs TFX or
TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from components.imaging.checks.case import check_case
from components.imaging.checks.cohort import Member, cohort_findings
from components.imaging.checks.finding import Finding
from components.imaging.checks.registry import CHECKS, SEVERITIES
from components.imaging.errors import UsageError
from components.nifti_example_gen.layout import Case, data_for, find_cases, layouts, pattern_to_glob
from components.nifti_example_gen.splits import split_of
from pipeline.config import Config, load_config, shipped_configs

MANIFEST = "manifest.csv"
DEFAULT_CONFIG = "demo"
MAX_THUMBNAILS = 100
TRAIT_SHARE = 0.9
"""A warning on so many of at least `_TRAIT_CASES` cases says something of their source, not of one of them."""

_TRAIT_CASES = 10
_NAMES_SHOWN = 4


@dataclass(frozen=True)
class CaseResult:
    """What is kept of a checked case: no voxels, so that memory does not grow with the cohort.

    Attributes:
        case_id: The case.
        patient_id: Its patient; empty where a file of the case is missing.
        split: Its split; empty likewise.
        findings: What the checks say.
        digest: Hash of the scan's content; empty where it could not be read.
        thumbnail: PNG of three slices of a quarantined scan, if wanted and readable.
    """

    case_id: str
    patient_id: str = ""
    split: str = ""
    findings: tuple[Finding, ...] = ()
    digest: str = ""
    thumbnail: bytes = b""

    @property
    def quarantined(self) -> bool:
        """Whether ingestion would leave it out."""
        return any(finding.severity == "error" for finding in self.findings)


@dataclass(frozen=True)
class CodeSummary:
    """One code over the cohort.

    Attributes:
        code: The code.
        severity: With the policy applied.
        cases: Case ids, sorted.
        trait: It fires on nearly every case.
    """

    code: str
    severity: str
    cases: tuple[str, ...]
    trait: bool


@dataclass(frozen=True)
class CheckReport:
    """The outcome for a folder.

    Attributes:
        data: The folder.
        config: Name of the configuration used.
        cases: All cases, by case id.
    """

    data: Path
    config: str
    cases: tuple[CaseResult, ...]

    @property
    def quarantined(self) -> tuple[CaseResult, ...]:
        """The cases that would be left out."""
        return tuple(case for case in self.cases if case.quarantined)

    def codes(self) -> list[CodeSummary]:
        """The codes that fired: errors first, then in the registry's order."""
        found: dict[tuple[str, str], set[str]] = {}
        for case in self.cases:
            for finding in case.findings:
                found.setdefault((finding.code, finding.severity), set()).add(case.case_id)
        enough = len(self.cases) >= _TRAIT_CASES
        order = list(CHECKS)
        return [
            CodeSummary(
                code=code,
                severity=severity,
                cases=tuple(sorted(cases)),
                trait=enough and severity != "error" and len(cases) >= TRAIT_SHARE * len(self.cases),
            )
            for (code, severity), cases in sorted(
                found.items(), key=lambda item: (SEVERITIES.index(item[0][1]), order.index(item[0][0]))
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, JSON-ready."""
        return {
            "data": str(self.data),
            "config": self.config,
            "case_count": len(self.cases),
            "quarantined_count": len(self.quarantined),
            "codes": [
                {
                    "code": item.code,
                    "severity": item.severity,
                    "count": len(item.cases),
                    "trait": item.trait,
                    "explanation": CHECKS[item.code].explanation,
                    "remedy": CHECKS[item.code].remedy,
                }
                for item in self.codes()
            ],
            "cases": [
                {
                    "case_id": case.case_id,
                    "patient_id": case.patient_id,
                    "split": case.split,
                    "quarantined": case.quarantined,
                    "findings": [
                        {"code": item.code, "severity": item.severity, "message": item.message, "value": item.value}
                        for item in case.findings
                    ],
                }
                for case in self.cases
            ],
        }


def check_folder(
    root: Path,
    config: Config,
    *,
    workers: int = 0,
    thumbnails: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Checks every case of a data folder, and the cohort as a whole.

    Threads, not processes: inflating and NumPy leave Python's lock to others, and starting processes costs more than
    they bring below some hundred scans.

    Args:
        root: The data folder.
        config: The configuration; its sections `data` and `splits` count.
        workers: Threads; as many as there are processors if 0.
        thumbnails: Keep small pictures of quarantined scans.
        progress: Called with cases done and cases in all.

    Raises:
        UsageError: No such folder, nothing in it matches, or the manifest is unusable.
    """
    data, splits = config.data.model_dump(mode="json"), config.splits.model_dump(mode="json")
    cohort = find_cases(root, data)
    results = [CaseResult(item.case_id, findings=(Finding.of(item.code, item.reason),)) for item in cohort.quarantined]
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        try:
            pending = [pool.submit(_check_one, case, split_of(case, splits), data, thumbnails) for case in cohort.cases]
            for done, future in enumerate(as_completed(pending), 1):
                results.append(future.result())
                if progress is not None:
                    progress(done, len(pending))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return CheckReport(root, config.name, _with_cohort(results, config.data.checks))


def _check_one(case: Case, split: str, data: Mapping[str, Any], thumbnails: bool) -> CaseResult:
    checked = check_case(case.image, case.mask, data_for(case, data))
    picture = b""
    if thumbnails and checked.error is not None and checked.volume is not None:
        from pipeline.check_page import thumbnail_png

        picture = thumbnail_png(checked.volume)
    return CaseResult(case.case_id, case.patient_id, split, checked.findings, checked.digest, picture)


def _with_cohort(results: list[CaseResult], policy: Mapping[str, str]) -> tuple[CaseResult, ...]:
    """The results by case id, with what the cohort says of those that would be used."""
    members = [
        Member(case.case_id, case.patient_id, case.split, case.digest) for case in results if not case.quarantined
    ]
    between = cohort_findings(members, policy)
    return tuple(
        replace(case, findings=(*case.findings, *between.get(case.case_id, ())))
        for case in sorted(results, key=lambda case: case.case_id)
    )


def fitting_config(root: Path) -> Config:
    """The configuration for a folder when none is given: its manifest, else the shipped layout that finds most."""
    if (root / MANIFEST).is_file():
        return load_config(DEFAULT_CONFIG, ["data.image=null", "data.mask=null", f"data.manifest={MANIFEST}"])
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder")

    def matches(name: str) -> tuple[int, bool]:
        counts = [
            min(_count(root, layout.image), _count(root, layout.mask))
            for layout in layouts(load_config(name).data.model_dump())
        ]
        return sum(counts) if all(counts) else 0, name == DEFAULT_CONFIG

    return load_config(max(shipped_configs(), key=matches))


def _count(root: Path, pattern: str) -> int:
    """How many files a pattern might mean."""
    return sum(1 for _ in root.glob(pattern_to_glob(pattern))) if pattern else 0


def render_table(report: CheckReport) -> Table:
    """The codes with counts, meaning, remedy and the first cases."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column("code", no_wrap=True)
    table.add_column("scans", justify="right")
    table.add_column("what it means, what to do, first cases")
    colours = {"error": "red", "warning": "yellow", "fixed": "green"}
    for item in report.codes():
        check = CHECKS[item.code]
        more = f", and {len(item.cases) - _NAMES_SHOWN} more" if len(item.cases) > _NAMES_SHOWN else ""
        names = "nearly all: a property of the source" if item.trait else ", ".join(item.cases[:_NAMES_SHOWN]) + more
        meaning = Text(f"{check.explanation} {check.remedy}\n").append(names, "dim")
        table.add_row(Text(item.severity, colours[item.severity]), item.code, str(len(item.cases)), meaning)
    return table
