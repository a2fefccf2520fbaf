"""Which scans a data folder holds: by file patterns or by a CSV manifest."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from components.nifti_example_gen.spans import EXPRESSIONS, placeholders, span_name, span_of, without_spans
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
        span: The span it came with; 0 where the layout has none.
        source: Its source, whose name stands before both ids; empty where the data has but one layout.
    """

    case_id: str
    patient_id: str
    image: Path
    mask: Path
    split: str = ""
    span: int = 0
    source: str = ""


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


@dataclass(frozen=True, order=True)
class Superseded:
    """A scan of an older span whose case id came again with a newer one, which is used in its place."""

    case_id: str
    span: int
    by: int


@dataclass(frozen=True)
class Cohort:
    """What a data folder holds, in the spans that are used.

    Attributes:
        cases: Complete cases, sorted by case id.
        quarantined: Incomplete ones.
        spans: The spans looked at, newest first; (0,) where the layout has none.
        superseded: Cases that came again with a newer span.
        files: Every file that was considered, of incomplete cases too, and the manifests.
    """

    cases: list[Case]
    quarantined: list[Quarantined] = field(default_factory=list)
    spans: tuple[int, ...] = (0,)
    superseded: list[Superseded] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def span(self) -> int:
        """The newest span."""
        return self.spans[0]


@dataclass(frozen=True)
class Layout:
    """Where the scans and masks of one source lie, relative to the data folder.

    Attributes:
        source: Its name; empty where the data has but one layout.
        image: Pattern of the scans; empty where there is a manifest.
        mask: Pattern of the masks; empty likewise.
        manifest: The manifest, or its pattern; empty where there are patterns.
        patient: Regular expression on the case id whose first group is the patient id; empty for none.
    """

    source: str
    image: str
    mask: str
    manifest: str
    patient: str

    @property
    def key(self) -> str:
        """The configuration's section that it stands in."""
        return f"data.sources.{self.source}" if self.source else "data"

    @property
    def pattern(self) -> str:
        """The pattern that tells spans, if it does."""
        return self.manifest or self.image

    def find(self, root: Path) -> dict[int, Callable[[], Cohort]]:
        """By span, what lists its cases."""
        return _manifests(root, self) if self.manifest else _pairs(root, self)


def layouts(data: Mapping[str, Any]) -> list[Layout]:
    """The layouts of the configuration's section `data`: one, or one a source."""
    sources = data.get("sources") or {"": data}
    return [
        Layout(source, *(values[key] or "" for key in ("image", "mask", "manifest", "patient")))
        for source, values in sources.items()
    ]


def data_for(case: Case, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration's section `data` as it holds for a case: with the lesion labels of its source, if given."""
    source = (data.get("sources") or {}).get(case.source)
    if source is None or source["lesion_labels"] is None:
        return data
    return {**data, "lesion_labels": source["lesion_labels"]}


@dataclass(frozen=True)
class _File:
    """A file that matches a pattern."""

    case: str
    patient: str | None
    span: int
    path: Path


def find_cases(root: Path, data: Mapping[str, Any], *, newest: int | None = None) -> Cohort:
    """Lists the cases of a data folder: of its newest span, or of the last `data.spans` of them.

    A case id that is complete in several of these spans is taken from the newest. Of several sources, a span is one
    delivery: a source that has nothing in it adds nothing.

    Args:
        root: The data folder.
        data: The configuration's section `data`.
        newest: Look at no span above this one.

    Raises:
        UsageError: There is no such folder, nothing in it matches, nothing matches the layout of a source, two
            sources share a scan, or a manifest is unusable.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder; give one with --data")
    by_source = [(layout, layout.find(root)) for layout in layouts(data)]
    every = {span for _, by_span in by_source for span in by_span}
    found = sorted((span for span in every if newest is None or span <= newest), reverse=True)
    spans = tuple(found[: data.get("spans") or 1]) or (0,)
    cohorts: list[Cohort] = []
    for layout, by_span in by_source:
        members = [_named(by_span[span](), layout.source) for span in spans if span in by_span]
        absent = layout.source and by_span and not members  # it came with other spans
        if not absent and not any(cohort.cases for cohort in members):
            raise _nothing_found(root, layout, spans[0] if by_span else None, members)
        cohorts += members
    cases: dict[str, Case] = {}
    superseded = []
    for case in (case for cohort in cohorts for case in cohort.cases):
        used = cases.setdefault(case.case_id, case)
        if used is not case:
            superseded.append(Superseded(case.case_id, case.span, used.span))
    _refuse_shared(cases.values())
    return Cohort(
        sorted(cases.values()),
        sorted((item for cohort in cohorts for item in cohort.quarantined), key=lambda item: item.case_id),
        spans,
        sorted(superseded),
        sorted(path for cohort in cohorts for path in cohort.files),
    )


def fingerprint(cohort: Cohort, root: Path) -> str:
    """Hash of which files there are, their sizes and their times of change; no file is read.

    Args:
        cohort: What `find_cases` found.
        root: The data folder; moving it as a whole changes nothing.
    """
    digest = hashlib.sha256()
    for path in cohort.files:
        try:
            state = path.stat()
            text = f"{state.st_size},{state.st_mtime_ns}"
        except FileNotFoundError:
            text = "gone"
        name = path.relative_to(root) if path.is_relative_to(root) else path
        digest.update(f"{name.as_posix()}\0{text}\n".encode())
    return digest.hexdigest()[:32]


def _named(cohort: Cohort, source: str) -> Cohort:
    """The cohort with a source's name before its case ids and patient ids."""
    if not source:
        return cohort
    cases = [
        replace(case, case_id=f"{source}_{case.case_id}", patient_id=f"{source}_{case.patient_id}", source=source)
        for case in cohort.cases
    ]
    quarantined = [replace(item, case_id=f"{source}_{item.case_id}") for item in cohort.quarantined]
    return replace(cohort, cases=cases, quarantined=quarantined)


def _refuse_shared(cases: Iterable[Case]) -> None:
    """Raises a UsageError when two sources list one scan, which would make two patients of one."""
    first: dict[Path, Case] = {}
    for case in cases:
        other = first.setdefault(case.image, case)
        if other.source != case.source:
            raise UsageError(
                f"{case.image}: is a scan of the sources {other.source} and {case.source}; "
                "let the layouts under data.sources tell them apart"
            )


def _nothing_found(root: Path, layout: Layout, newest: int | None, cohorts: Iterable[Cohort]) -> UsageError:
    wanted = layout.manifest or f"{layout.image} with {layout.mask}"
    told = newest is not None and placeholders(layout.pattern)
    span = f" in the newest span {span_name(newest or 0, layout.pattern)}" if told else ""
    source = f" of source {layout.source}" if layout.source else ""
    seen = _seen(root, layout, [item for cohort in cohorts for item in cohort.quarantined])
    return UsageError(f"{root}: no complete case{source} found{span} for {wanted}; {seen}")


def _seen(root: Path, layout: Layout, quarantined: Sequence[Quarantined]) -> str:
    """What lies in the folder instead, as a hint."""
    if quarantined:
        return f"{len(quarantined)} incomplete, the first: {quarantined[0].reason}"
    found = next((path for path in root.rglob("*") if path.name.endswith(_NIFTI)), None)
    if found is None:
        return "the folder holds no .nii or .nii.gz file"
    return f"it holds for example {found.relative_to(root)}; set {layout.key}.image and {layout.key}.mask to its layout"


def pattern_to_glob(pattern: str) -> str:
    """A layout pattern as a glob over all spans, for example `images/*.nii.gz`."""
    # pathlib refuses two stars in a row within a name.
    return re.sub(r"\*+", "*", without_spans(pattern).replace("{case}", "*").replace("{patient}", "*"))


_NAMES = {"{case}": r"(?P<case>[^/]+?)", "{patient}": r"(?P<patient>[^/]+?)", "*": "[^/]*", **EXPRESSIONS}


def _pattern_to_regex(pattern: str) -> re.Pattern[str]:
    parts = re.split("(" + "|".join(map(re.escape, _NAMES)) + ")", pattern)
    return re.compile("^" + "".join(_NAMES.get(part, re.escape(part)) for part in parts) + "$")


def _match(root: Path, pattern: str) -> list[_File]:
    """The files that match a pattern, in the order of their paths."""
    expression = _pattern_to_regex(pattern)
    found = []
    for path in sorted(root.glob(pattern_to_glob(pattern))):
        match = expression.match(path.relative_to(root).as_posix())
        if match and path.is_file() and not path.name.startswith("."):
            groups = match.groupdict()
            found.append(_File(groups.get("case", ""), groups.get("patient"), span_of(groups, str(path)), path))
    return found


def _by_case(files: Iterable[_File], pattern: str) -> dict[str, _File]:
    """The files of one span by case id."""
    found: dict[str, _File] = {}
    for file in files:
        earlier = found.setdefault(file.case, file)
        if earlier is not file:
            raise UsageError(
                f"{file.path}: case id {file.case} is also that of {earlier.path}; refine the pattern {pattern}"
            )
    return found


def _pairs(root: Path, layout: Layout) -> dict[int, Callable[[], Cohort]]:
    """By span, what pairs its scans with their masks."""
    # A loose pattern such as {case}.nii.gz also matches {case}_mask.nii.gz: the one with more letters of its own wins.
    patterns = {"mask": layout.mask, "image": layout.image}
    strict, loose = sorted(patterns, key=lambda key: -len(pattern_to_glob(patterns[key]).replace("*", "")))
    matched = {strict: _match(root, patterns[strict])}
    others = {file.path for file in matched[strict]}
    matched[loose] = [file for file in _match(root, patterns[loose]) if file.path not in others]
    spans = {file.span for files in matched.values() for file in files}

    def cohort_of(span: int) -> Callable[[], Cohort]:
        images, masks = ([file for file in matched[key] if file.span == span] for key in ("image", "mask"))
        return lambda: _pair(root, layout, images, masks)

    return {span: cohort_of(span) for span in spans}


def _pair(root: Path, layout: Layout, image_files: list[_File], mask_files: list[_File]) -> Cohort:
    images, masks = _by_case(image_files, layout.image), _by_case(mask_files, layout.mask)
    expression = re.compile(layout.patient) if layout.patient else None
    cases, quarantined = [], []
    for case, image in images.items():
        patient = image.patient
        if case not in masks:
            expected = _wanted_mask(root, layout, image)
            reason = f"{image.path}: has no mask, wanted {expected}; add it or remove the scan"
            quarantined.append(Quarantined(case, "missing-mask", reason, str(image.path)))
            continue
        if expression is not None:
            match = expression.search(case)
            if match is None:
                raise UsageError(f"{layout.key}.patient: {layout.patient!r} does not match the case id {case}")
            patient = match[1]
        cases.append(Case(case, patient or case, image.path, masks[case].path, span=image.span))
    for case, mask in masks.items():
        if case not in images:
            wanted = f"wanted one matching {layout.image}; add it or remove the mask"
            reason = f"{mask.path}: is the mask of no scan, {wanted}"
            quarantined.append(Quarantined(case, "missing-image", reason))
    return Cohort(cases, quarantined, files=[file.path for file in (*image_files, *mask_files)])


def _wanted_mask(root: Path, layout: Layout, image: _File) -> Path:
    """Where the mask of a scan should lie; a part that is not known is a star."""
    match = _pattern_to_regex(layout.image).match(image.path.relative_to(root).as_posix())
    groups = match.groupdict() if match else {}
    name = layout.mask.replace("{case}", image.case).replace("{patient}", image.patient or "*")
    for placeholder in EXPRESSIONS:
        name = name.replace(placeholder, groups.get(placeholder.strip("{}")) or "*")
    return root / name


def _manifests(root: Path, layout: Layout) -> dict[int, Callable[[], Cohort]]:
    """By span, what reads its manifest."""
    if not placeholders(layout.manifest):
        return {0: lambda: _read_manifest(root, root / layout.manifest, 0, layout.key)}
    found: dict[int, Path] = {}
    for file in _match(root, layout.manifest):
        earlier = found.setdefault(file.span, file.path)
        if earlier != file.path:
            raise UsageError(f"{file.path}: is of the same span as {earlier}; remove one of them")

    def reader(span: int, path: Path) -> Callable[[], Cohort]:
        return lambda: _read_manifest(root, path, span, layout.key)

    return {span: reader(span, path) for span, path in found.items()}


def _read_manifest(root: Path, path: Path, span: int, section: str) -> Cohort:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such manifest ({section}.manifest)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    missing = [name for name in MANIFEST_COLUMNS if name not in columns and name not in ("patient_id", "split")]
    if missing:
        raise UsageError(f"{path}: lacks the columns {', '.join(missing)}; wanted {', '.join(MANIFEST_COLUMNS)}")
    cases, quarantined, listed = [], [], [path]
    for number, row in rows:
        case = (row["case_id"] or "").strip()
        if not case or "/" in case:
            raise UsageError(f"{path}: line {number}: case_id {case!r} must be a name without /")
        patient, split = (row.get("patient_id") or "").strip() or case, (row.get("split") or "").strip()
        if split and split not in SPLITS:
            raise UsageError(f"{path}: line {number}: split {split!r}, wanted {', '.join(SPLITS)} or nothing")
        files = {key: root / (row[key] or "").strip() for key in ("image", "mask")}
        listed += [file for key, file in files.items() if (row[key] or "").strip()]
        absent = [f"{key} {file}" for key, file in files.items() if not (row[key] or "").strip() or not file.is_file()]
        if absent:
            reason = f"{path}: line {number}: no such file: {', '.join(absent)}; mend the line or add the file"
            code = "missing-mask" if absent[0].startswith("mask ") else "missing-image"
            image = "" if code == "missing-image" else str(files["image"])
            quarantined.append(Quarantined(case, code, reason, image))
        else:
            cases.append(Case(case, patient, files["image"], files["mask"], split, span))
    repeated = [case for case, count in Counter(row["case_id"].strip() for _, row in rows).items() if count > 1]
    if repeated:
        raise UsageError(f"{path}: case_id {repeated[0]} stands on several lines; each case needs its own id")
    return Cohort(cases, quarantined, files=listed)
