"""Which scans a data folder holds: by file patterns or by a CSV manifest."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from schema.features import SPLITS

MANIFEST_COLUMNS = ("case_id", "patient_id", "image", "mask", "split")
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, order=True)
class Case:
    """One scan and its mask.

    Attributes:
        case_id: Name of the scan, unique in the cohort.
        patient_id: Whose scan it is; a patient stays in one split.
        image: The scan's file.
        mask: The mask's file.
        split: Split that a manifest fixes; empty for the hash buckets.
    """

    case_id: str
    patient_id: str
    image: Path
    mask: Path
    split: str = ""


@dataclass(frozen=True)
class Quarantined:
    """A scan that is not used, and why.

    Attributes:
        case_id: The case.
        code: Short stable name of the reason.
        reason: File, value found, value wanted, remedy.
        image: The scan's file; empty where there is none.
    """

    case_id: str
    code: str
    reason: str
    image: str = ""


@dataclass(frozen=True)
class Cohort:
    """What a data folder holds.

    Attributes:
        cases: Complete cases, sorted by case id.
        quarantined: Incomplete ones.
    """

    cases: list[Case]
    quarantined: list[Quarantined] = field(default_factory=list)


def find_cases(root: Path, data: Mapping[str, Any]) -> Cohort:
    """Lists the cases of a data folder.

    Args:
        root: The data folder.
        data: The configuration's section `data`.

    Raises:
        UsageError: There is no such folder, nothing in it matches, or the manifest is unusable.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder; give one with --data")
    cohort = _from_manifest(root, data) if data["manifest"] else _from_patterns(root, data)
    if not cohort.cases:
        wanted = data["manifest"] or f"{data['image']} with {data['mask']}"
        raise UsageError(f"{root}: no complete case found for {wanted}; {_seen(root, cohort)}")
    return Cohort(sorted(cohort.cases), sorted(cohort.quarantined, key=lambda item: item.case_id))


def _seen(root: Path, cohort: Cohort) -> str:
    """What lies in the folder instead, as a hint."""
    if cohort.quarantined:
        first = cohort.quarantined[0]
        return f"{len(cohort.quarantined)} incomplete, the first: {first.reason}"
    found = next((path for path in root.rglob("*") if path.name.endswith(_NIFTI)), None)
    if found is None:
        return "the folder holds no .nii or .nii.gz file"
    return f"it holds for example {found.relative_to(root)}; set data.image and data.mask to its layout"


def pattern_to_glob(pattern: str) -> str:
    """A layout pattern as a glob, for example `images/*.nii.gz`."""
    return pattern.replace("{case}", "*").replace("{patient}", "*")


def _pattern_to_regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{case\}|\{patient\}|\*)", pattern)
    names = {"{case}": r"(?P<case>[^/]+?)", "{patient}": r"(?P<patient>[^/]+?)", "*": "[^/]*"}
    return re.compile("^" + "".join(names.get(part, re.escape(part)) for part in parts) + "$")


def _match(root: Path, pattern: str, others: frozenset[Path] = frozenset()) -> dict[str, tuple[str | None, Path]]:
    """Patient (where the pattern names one) and file by case id, without the files that are `others`."""
    expression = _pattern_to_regex(pattern)
    found: dict[str, tuple[str | None, Path]] = {}
    for path in sorted(root.glob(pattern_to_glob(pattern))):
        match = expression.match(path.relative_to(root).as_posix())
        if match and path not in others and path.is_file() and not path.name.startswith("."):
            case = match["case"]
            if case in found:
                raise UsageError(
                    f"{path}: case id {case} is also that of {found[case][1]}; refine the pattern {pattern}"
                )
            found[case] = (match.groupdict().get("patient"), path)
    return found


def _from_patterns(root: Path, data: Mapping[str, Any]) -> Cohort:
    # A loose pattern such as {case}.nii.gz also matches {case}_mask.nii.gz: the one with more letters of its own wins.
    strict, loose = sorted(("mask", "image"), key=lambda key: -len(pattern_to_glob(data[key]).replace("*", "")))
    matched = {strict: _match(root, data[strict])}
    matched[loose] = _match(root, data[loose], frozenset(path for _, path in matched[strict].values()))
    images, masks = matched["image"], matched["mask"]
    expression = re.compile(data["patient"]) if data["patient"] else None
    cases, quarantined = [], []
    for case, (patient, image) in images.items():
        if case not in masks:
            expected = root / data["mask"].replace("{case}", case).replace("{patient}", patient or "*")
            reason = f"{image}: has no mask, wanted {expected}; add it or remove the scan"
            quarantined.append(Quarantined(case, "missing-mask", reason, str(image)))
            continue
        if expression is not None:
            match = expression.search(case)
            if match is None:
                raise UsageError(f"data.patient: {data['patient']!r} does not match the case id {case}")
            patient = match[1]
        cases.append(Case(case, patient or case, image, masks[case][1]))
    for case, (_, mask) in masks.items():
        if case not in images:
            reason = f"{mask}: is the mask of no scan, wanted one matching {data['image']}; add it or remove the mask"
            quarantined.append(Quarantined(case, "missing-image", reason))
    return Cohort(cases, quarantined)


def _from_manifest(root: Path, data: Mapping[str, Any]) -> Cohort:
    path = root / data["manifest"]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such manifest (data.manifest)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    missing = [name for name in MANIFEST_COLUMNS if name not in columns and name not in ("patient_id", "split")]
    if missing:
        raise UsageError(f"{path}: lacks the columns {', '.join(missing)}; wanted {', '.join(MANIFEST_COLUMNS)}")
    cases, quarantined = [], []
    splits: dict[str, str] = {}
    for number, row in rows:
        case = (row["case_id"] or "").strip()
        if not case or "/" in case:
            raise UsageError(f"{path}: line {number}: case_id {case!r} must be a name without /")
        patient, split = (row.get("patient_id") or "").strip() or case, (row.get("split") or "").strip()
        if split and split not in SPLITS:
            raise UsageError(f"{path}: line {number}: split {split!r}, wanted {', '.join(SPLITS)} or nothing")
        if splits.setdefault(patient, split) != split:
            raise UsageError(
                f"{path}: line {number}: patient {patient} is in {splits[patient] or 'no split'} and in "
                f"{split or 'no split'}; a patient must stay in one split"
            )
        files = {key: root / (row[key] or "").strip() for key in ("image", "mask")}
        absent = [f"{key} {file}" for key, file in files.items() if not (row[key] or "").strip() or not file.is_file()]
        if absent:
            reason = f"{path}: line {number}: no such file: {', '.join(absent)}; mend the line or add the file"
            code = "missing-mask" if absent[0].startswith("mask ") else "missing-image"
            image = "" if code == "missing-image" else str(files["image"])
            quarantined.append(Quarantined(case, code, reason, image))
        else:
            cases.append(Case(case, patient, files["image"], files["mask"], split))
    repeated = [case for case, count in Counter(row["case_id"].strip() for _, row in rows).items() if count > 1]
    if repeated:
        raise UsageError(f"{path}: case_id {repeated[0]} stands on several lines; each case needs its own id")
    return Cohort(cases, quarantined)
