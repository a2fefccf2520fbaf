"""All checks of one case: ingestion, prediction on folders and `ich check` call this same function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.imaging.checks.anatomy import anatomy_findings
from components.imaging.checks.finding import Finding, apply_policy
from components.imaging.checks.geometry import geometry_findings
from components.imaging.checks.header import header_findings, read_header, refuse_claim
from components.imaging.checks.intensity import intensity_findings
from components.imaging.checks.mask import lesion_findings, read_lesion
from components.imaging.checks.sample import thin_out
from components.imaging.checks.slices import slice_findings
from components.imaging.errors import ScanError
from components.imaging.geometry import Orientation
from components.imaging.head import Head
from components.imaging.nifti import Volume, read_volume


@dataclass(frozen=True)
class CaseCheck:
    """What the checks say of a case, with what was read on the way.

    Attributes:
        findings: All findings, with the policy's severities.
        volume: The scan as stored; None where it could not be read.
        lesion: bool of shape (slices, rows, columns), canonical orientation; None without a usable mask.
        digest: Hash of the scan's content, equal for equal content; empty where it could not be read.
        head: The scan's head; None where it could not be read.
    """

    findings: tuple[Finding, ...]
    volume: Volume | None = None
    lesion: np.ndarray | None = None
    digest: str = ""
    head: Head | None = None

    @property
    def error(self) -> Finding | None:
        """The first finding that quarantines the case."""
        return next((finding for finding in self.findings if finding.severity == "error"), None)


def check_case(image: Path, mask: Path | None, data: Mapping[str, Any]) -> CaseCheck:
    """Reads and checks one case. Never raises for what lies in the files.

    Args:
        image: The scan's file.
        mask: The mask's file; None to check the scan alone.
        data: The configuration's section `data`; of it `max_voxels`, `min_slices`, `lesion_labels` must be there,
            `max_memory_gib`, `expect_lesions`, `resample_masks` and the policy `checks` may be.
    """
    findings: list[Finding] = []
    volume, lesion, digest, head = None, None, "", None
    try:
        volume = _read(image, data, findings)
        digest, head = _look(image, volume, data, findings)
        if mask is not None:
            plausible = all(finding.severity != "error" for finding in findings)
            drawn = read_lesion(mask, _read(mask, data, findings), image, volume, data)
            findings += drawn.findings
            if plausible and all(finding.severity != "error" for finding in drawn.findings):
                findings += lesion_findings(mask, drawn.voxels, volume, expected=bool(data.get("expect_lesions")))
            lesion = Orientation.of(volume.affine).to_canonical(drawn.voxels)
    except ScanError as error:
        findings.append(Finding.from_error(error))
    except MemoryError:
        findings.append(Finding.of("too-large", f"{image}: does not fit into memory"))
    return CaseCheck(apply_policy(findings, data.get("checks") or {}), volume, lesion, digest, head)


def check_volume(path: Path, volume: Volume, data: Mapping[str, Any], found: Iterable[Finding] = ()) -> CaseCheck:
    """Checks a scan that was read from something else than a NIfTI file. Never raises for what lies in it.

    Args:
        path: Where it came from, for messages.
        volume: The scan.
        data: As for `check_case`.
        found: What was found in reading it.
    """
    findings = list(found)
    digest, head = "", None
    try:
        digest, head = _look(path, volume, data, findings)
    except ScanError as error:
        findings.append(Finding.from_error(error))
    except MemoryError:
        findings.append(Finding.of("too-large", f"{path}: does not fit into memory"))
    return CaseCheck(apply_policy(findings, data.get("checks") or {}), volume, None, digest, head)


def _look(image: Path, volume: Volume, data: Mapping[str, Any], findings: list[Finding]) -> tuple[str, Head]:
    """Adds what the voxels and their geometry show; the digest, and the head."""
    findings += geometry_findings(image, volume)
    sample = thin_out(volume, image)
    count = sample.shape[0]
    if count < data["min_slices"]:
        wanted = f"wanted at least {data['min_slices']} (data.min_slices)"
        findings.append(Finding.of("few-slices", f"{image}: {count} slices, {wanted}", count))
    findings += intensity_findings(image, sample)
    # One cause, one finding: what follows takes spacing and HU at their word.
    plausible = all(finding.severity != "error" for finding in findings)
    if plausible and not sample.head.found:
        span = f"values from {sample.hu.min():g} to {sample.hu.max():g}"
        findings.append(Finding.of("no-head", f"{image}: no head found; {span}"))
        plausible = False
    if plausible:
        findings += anatomy_findings(image, sample)
        findings += slice_findings(image, sample)
    return sample.digest(), sample.head


def _read(path: Path, data: Mapping[str, Any], findings: list[Finding]) -> Volume:
    header = read_header(path)
    if header is not None:
        refuse_claim(path, header, data)
    volume = read_volume(path, max_voxels=data["max_voxels"])
    if header is not None:
        findings += header_findings(path, header)
    return volume
