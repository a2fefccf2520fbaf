"""Puts together what is told by names, a few headers and a few masks: the configuration to start from."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.imaging.errors import UsageError
from components.nifti_example_gen.layout import Case, Cohort, find_cases
from pipeline.config import DataConfig, GridConfig, NetworkConfig, SplitsConfig, TrainingConfig
from pipeline.doctor.machine import allowed_processors
from pipeline.guess.content import Grids, looks_like, read_grids, read_masks
from pipeline.guess.listing import Listing, list_folder
from pipeline.guess.manifests import manifest_pattern, manifest_text, read_tables
from pipeline.guess.pairs import Pair, find_pairs, spread
from pipeline.guess.patients import dealt, fitting_salt, patient_expression

_HEADERS_READ = 12
_MASKS_READ = 8
_MOST_MASKS_READ = 40
"""Where the first ones hold several labels."""
_HEAD_MM = 230
"""What the model grid covers: a head, tilted."""
_CONTEXT_SLICES_FROM = 12
"""A scan with fewer slices is hardly a whole one, so that its neighbouring slices may be far apart."""
_NAMES_SHOWN = 5
_SLICE_S = 0.2
"""Of one processor, for a step of the usual network with one slice of the usual grid: AMD EPYC, AVX2, 2 cores."""


@dataclass(frozen=True)
class Guess:
    """One thing that was guessed.

    Attributes:
        key: The configuration's key.
        value: Its value.
        why: What speaks for it.
    """

    key: str
    value: Any
    why: str


@dataclass
class Proposal:
    """A configuration for a data folder.

    Attributes:
        root: The data folder.
        name: Of the pipeline.
        cases: Complete cases that ingestion will find.
        incomplete: Scans without a mask and masks without a scan.
        patients: Patients by split.
        sources: Cases by source; empty where there is but one.
        guesses: What the configuration says, and why; in its order.
        notes: What the reader should know or decide.
        unexplained: Files that the configuration does not use, in groups.
        manifest: Text of a manifest that goes beside the configuration; empty where none is needed.
        minutes: What the training takes at most, very roughly; None where that is not known.
        lesion_slices: Slices with lesion, estimated.
    """

    root: Path
    name: str
    cases: int = 0
    incomplete: int = 0
    patients: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    guesses: list[Guess] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    manifest: str = ""
    minutes: float | None = None
    lesion_slices: float = 0.0

    def tree(self) -> dict[str, Any]:
        """The configuration as YAML has it."""
        tree: dict[str, Any] = {"name": self.name}
        for guess in self.guesses:
            node = tree
            *parents, last = guess.key.split(".")
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = guess.value
        return tree


def propose(root: Path, manifest_path: Path) -> Proposal:
    """Looks at a data folder: at all names, at some headers, at a few masks.

    Args:
        root: The data folder.
        manifest_path: Where a manifest will be written if no pattern says which files belong together.

    Raises:
        UsageError: There is no such folder, or nothing in it to train with; the message says what is there instead.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such data folder")
    listing = list_folder(root)
    made = Proposal(root, _slug(root.resolve().name) or "data")
    tables = read_tables(root, listing.tables)
    usable = [table for table in tables if table.usable and table.lines]
    cohort = None
    if usable:
        cohort = _from_manifests(made, usable)
    pairs: list[Pair] = []
    if cohort is None:
        known: dict[str, str | None] = {}
        pairs, _ = find_pairs(listing.nifti, lambda path: looks_like(root, path, known))
        if not pairs:
            raise _nothing(root, listing)
        cohort = _from_pairs(made, pairs, manifest_path)
    made.cases, made.incomplete = len(cohort.cases), len(cohort.quarantined)
    _labels(made, cohort.cases)
    propose_grid(made, read_grids(spread([case.image for case in cohort.cases], _HEADERS_READ)))
    _splits(made, cohort.cases)
    made.minutes = _minutes(made)
    _tell_incomplete(made, cohort)
    _tell_rest(made, listing, cohort, pairs)
    for table in tables:
        if not table.usable and (renaming := table.nearly()):
            made.notes.append(f"{table.path}: would be a manifest with other columns; rename {renaming}")
    return made


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:31].strip("_")


def _find(root: Path, section: dict[str, Any]) -> Cohort:
    return find_cases(root, DataConfig.model_validate(section).model_dump(mode="json"))


# --- the layout


def _from_manifests(made: Proposal, tables: Sequence[Any]) -> Cohort | None:
    """What the manifests list; None where nothing of that is there."""
    pattern, deliveries, aside = manifest_pattern(tables)
    section: dict[str, Any] = {"manifest": pattern, **({"spans": deliveries} if deliveries > 1 else {})}
    try:
        cohort = _find(made.root, section)
    except UsageError as error:
        made.notes.append(f"{pattern} was not taken: {error}")
        return None
    lines = sum(table.lines for table in tables if table.path not in aside)
    made.guesses.append(Guess("data.manifest", pattern, f"has a manifest's columns and lists {lines} cases"))
    if deliveries > 1:
        made.guesses.append(Guess("data.spans", deliveries, "all that are there; 1 reads the newest alone"))
    made.notes += [f"{path}: has a manifest's columns too and was left aside" for path in aside]
    return cohort


def _from_pairs(made: Proposal, pairs: Sequence[Pair], manifest_path: Path) -> Cohort:
    """The cases of the pairs, told by patterns where these say just the same, else by a manifest of our own."""
    names = _source_names(pairs) if len(pairs) > 1 else [""]
    sections, guesses = [], []
    for name, pair in zip(names, pairs, strict=True):
        section = {"image": pair.image.pattern, "mask": pair.mask.pattern}
        key = f"data.sources.{name}" if name else "data"
        own = [
            Guess(f"{key}.image", pair.image.pattern, f"{len(pair.keys)} complete cases"),
            Guess(f"{key}.mask", pair.mask.pattern, pair.why),
        ]
        if not pair.image.patients and (told := patient_expression([pair.image.cases[key] for key in pair.keys])):
            section["patient"] = told[0]
            own.append(Guess(f"{key}.patient", told[0], f"ids that share a beginning: {told[1]} patients"))
        sections.append(section)
        guesses += own
    spans = len({key[0] for pair in pairs for key in pair.keys if key[0]})
    whole: dict[str, Any] = {"sources": dict(zip(names, sections, strict=True))} if len(pairs) > 1 else sections[0]
    if spans > 1:
        whole["spans"] = spans
        guesses.append(Guess("data.spans", spans, "all deliveries that are there; 1 reads the newest alone"))
    wanted = {path for pair in pairs for path in pair.files}
    reason = "no pattern tells just these files"
    if all(pair.image.unique and pair.mask.unique for pair in pairs):
        try:
            cohort = _find(made.root, whole)
        except ValueError as error:  # pydantic's: spans that are told otherwise from source to source
            reason = f"patterns do not do ({' '.join(str(error).split())[:120]})"
        except UsageError as error:
            reason = f"patterns do not do ({error})"
        else:
            found_files = {
                str(path.relative_to(made.root)) for case in cohort.cases for path in (case.image, case.mask)
            }
            older = 2 * len(cohort.superseded)
            limit = DataConfig.model_fields["max_quarantined"].default
            few = len(cohort.quarantined) <= limit * (len(cohort.cases) + len(cohort.quarantined))
            if found_files <= wanted and len(found_files) + older == len(wanted) and few:
                made.guesses += guesses
                made.sources = dict(Counter(case.source for case in cohort.cases)) if len(pairs) > 1 else {}
                ids = Counter(case for pair in pairs for case in {pair.image.cases[key] for key in pair.keys})
                if shared := sum(count > 1 for count in ids.values()):
                    made.notes.append(f"{shared} case ids are in several sources, and count as different people there")
                return cohort
            if not few:
                reason = f"{len(cohort.quarantined)} files have no partner, and more than {limit:.0%} stop a run"
    rows = [row for name, pair in zip(names, pairs, strict=True) for row in _rows(name, pair)]
    made.manifest = manifest_text(rows)
    target = manifest_path.resolve()
    why = f"{reason}: lists the {len(rows)} complete cases; write it anew when scans come"
    made.guesses.append(Guess("data.manifest", str(target), why))
    cases = [Case(row["case_id"], row["patient_id"], made.root / row["image"], made.root / row["mask"]) for row in rows]
    return Cohort(sorted(cases))


def _rows(source: str, pair: Pair) -> list[dict[str, str]]:
    """Lines of a manifest; ids are unique, as the values of all that varies in the path."""
    cases = [pair.image.cases[key] for key in pair.keys]
    told = patient_expression(cases) if not pair.image.patients else None
    ids = cases if len(set(cases)) == len(cases) else ["_".join(part for part in key if part) for key in pair.keys]
    rows = []
    for key, case, name in zip(pair.keys, cases, ids, strict=True):
        match = re.match(told[0], case) if told else None
        patient = pair.image.patients.get(key) or (match[1] if match else case)
        before = f"{source}_" if source else ""
        rows.append(
            {
                "case_id": f"{before}{name}".replace("/", "_"),
                "patient_id": f"{before}{patient}" if pair.image.patients or told else f"{before}{name}",
                "image": pair.image.files[key],
                "mask": pair.mask.files[key],
            }
        )
    return rows


def _source_names(pairs: Sequence[Pair]) -> list[str]:
    """A name for each, from the folders that only it has."""
    folders = [
        [part for part in pair.image.pattern.split("/")[:-1] if "{" not in part and "*" not in part] for pair in pairs
    ]
    names: list[str] = []
    for number, own in enumerate(folders):
        elsewhere = {part for other, parts in enumerate(folders) if other != number for part in parts}
        candidates = [_slug(part) for part in own if part not in elsewhere]
        name = next((one for one in candidates if one), "") or f"part{number + 1}"
        while any(name == other or name.startswith(f"{other}_") or other.startswith(f"{name}_") for other in names):
            name = f"{name[:28].replace('_', '')}x"
        names.append(name)
    return names


# --- the rest of the configuration


def _labels(made: Proposal, cases: Sequence[Case]) -> None:
    """Which labels the masks hold, by source."""
    by_source: dict[str, list[Path]] = {}
    for case in cases:
        by_source.setdefault(case.source, []).append(case.mask)
    lesion_slices = 0.0
    for source, paths in by_source.items():
        masks = read_masks(spread(paths, _MASKS_READ))
        if len(masks.labels) > 1:
            masks = read_masks(spread(paths, _MOST_MASKS_READ))
        lesion_slices += masks.lesion_slices * len(paths)
        of = f"{masks.read} of {len(paths)} masks"
        where = f"{source}: " if source else ""
        if masks.unreadable:
            made.notes.append(f"{where}a mask cannot be read: {masks.unreadable}")
        if not masks.read:
            continue
        if len(masks.labels) > 1 and min(masks.labels) > 0 and max(masks.labels) <= 255:
            # A rare label may be in none of the masks that were read.
            labels = sorted({*masks.labels, *(range(1, max(masks.labels) + 1) if max(masks.labels) <= 10 else ())})
            key = f"data.sources.{source}.lesion_labels" if source else "data.lesion_labels"
            seen = ", ".join(map(str, masks.labels))
            made.guesses.append(Guess(key, labels, f"labels {seen} in {of}; strike what is no blood"))
        if masks.empty:
            made.notes.append(
                f"{where}{masks.empty} of {masks.read} masks are empty: scans without blood, or without an outline?"
            )
    made.lesion_slices = lesion_slices


def _minutes(made: Proposal) -> float | None:
    """What training takes at most with the proposed values on this machine; None where a GPU may do it."""
    if shutil.which("nvidia-smi") or not made.lesion_slices:
        return None
    training, grid = TrainingConfig(), made.tree().get("grid", {})
    patients = made.patients
    share = patients["train"] / max(1, sum(patients.values()))
    drawn = made.lesion_slices * share / training.lesion_fraction  # an epoch
    size = grid.get("size", GridConfig().size) / GridConfig().size
    return training.epochs * drawn * _SLICE_S * size**2 / allowed_processors() / 60


def propose_grid(made: Proposal, grids: Grids | None) -> None:
    """Adds what of the grid is better not left as it is.

    Args:
        made: The proposal.
        grids: The grids of some scans; None where no header could be read.
    """
    if grids is None:
        made.notes.append("no header could be read; the grid is left as it is")
        return
    usual = GridConfig()
    seen = f"{grids.pixels} pixels of {grids.pixel_mm:g} mm, {grids.slices} slices {grids.slice_mm:g} mm apart"
    made.notes.append(f"scans have {seen} (median of {grids.read})")
    if grids.pixel_mm > usual.spacing_mm * 1.05:
        factor = 2 ** (NetworkConfig().depth + 1)
        size = max(2, math.ceil(_HEAD_MM / grids.pixel_mm / factor)) * factor
        made.guesses += [
            Guess("grid.size", size, f"covers a head of {_HEAD_MM} mm"),
            Guess("grid.spacing_mm", grids.pixel_mm, "finer than the scans would be invented"),
        ]
    if grids.slices >= _CONTEXT_SLICES_FROM:
        made.guesses.append(
            Guess("grid.context_slices", 1, f"{grids.slices} slices a scan: each is seen with its neighbours")
        )
        if grids.slice_mm < 2:
            made.notes.append(
                f"slices are {grids.slice_mm:g} mm apart, so that neighbours show nearly the same: network.kind 3d, "
                "with network.thick_levels 0 and grid.context_slices 0, sees further"
            )
    else:
        made.notes.append(f"{grids.slices} slices a scan: no whole heads, so neighbouring slices are not used")


def _splits(made: Proposal, cases: Sequence[Case]) -> None:
    splits = SplitsConfig().model_dump()
    fixed = any(case.split for case in cases)
    found = None if fixed else fitting_salt(cases, splits)
    counts = dealt(cases, splits)
    if found is not None:
        salt, counts = found
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        made.guesses.append(Guess("splits.salt", salt, f"few patients: deals them out as {listed}"))
    made.patients = counts
    if not all(counts.values()):
        made.notes.append(
            f"{sum(counts.values())} patients fill no three splits "
            f"({', '.join(f'{name} {count}' for name, count in counts.items())}); a run needs at least one in each"
        )


# --- what is said besides


def _tell_incomplete(made: Proposal, cohort: Cohort) -> None:
    for item in cohort.quarantined[:3]:
        made.notes.append(f"incomplete: {item.reason}")
    if len(cohort.quarantined) > 3:
        made.notes.append(f"incomplete: {len(cohort.quarantined) - 3} more; `ich check` lists them")


def _tell_rest(made: Proposal, listing: Listing, cohort: Cohort, pairs: Sequence[Pair]) -> None:
    """What else could have been meant, and the files that are not used."""
    for pair in pairs:
        for other in pair.others:
            role, key, taken = ("masks", "mask", pair.mask) if other.masks else ("scans", "image", pair.image)
            made.notes.append(
                f"{other.reading.pattern} fits as {role} of {other.shared} of the same cases; {taken.pattern} was "
                f"taken, set data.{key} to take the other"
            )
    used = {os.path.relpath(path, made.root) for path in cohort.files}
    used |= {os.path.relpath(path, made.root) for case in cohort.cases for path in (case.image, case.mask)}
    made.unexplained += _grouped([path for path in listing.nifti if path not in used], "NIfTI")
    if listing.dicom:
        made.unexplained += _grouped(listing.dicom, "DICOM (convert them to train with them)")
    if listing.foreign:
        made.unexplained += _grouped(listing.foreign, "in a format that is not read (convert them to .nii.gz)")


def _grouped(paths: Sequence[str], kind: str) -> list[str]:
    """Files by folder: one line each, the first of it named."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0].partition("/")[0], []).append(path)
    lines = [
        f"{len(found)} {'file' if len(found) == 1 else 'files'} {kind}: {found[0]}{', …' if len(found) > 1 else ''}"
        for found in folders.values()
    ]
    if len(lines) > _NAMES_SHOWN:
        return [*lines[:_NAMES_SHOWN], f"{len(paths)} files {kind} in {len(lines)} folders in all"]
    return lines


def _nothing(root: Path, listing: Listing) -> UsageError:
    """Why there is nothing to train with."""
    convert = "convert them, for example with `dcm2niix -z y -f %i_%s -o images FOLDER`, and put a mask beside each"
    if listing.nifti:
        return UsageError(
            f"{root}: {len(listing.nifti)} NIfTI files, for example {listing.nifti[0]}, and none that is the mask of "
            "another by name or content; put the masks beside as masks/{case}.nii.gz of images/{case}.nii.gz, or list "
            "both in a manifest with the columns case_id,patient_id,image,mask,split"
        )
    if listing.dicom:
        return UsageError(
            f"{root}: {len(listing.dicom)} DICOM files, for example {listing.dicom[0]}, and no NIfTI; training needs "
            f"scans and masks as NIfTI: {convert}. `ich predict` reads DICOM as it is"
        )
    if listing.foreign:
        return UsageError(
            f"{root}: {listing.foreign[0]} and other files in formats that are not read, and no NIfTI; "
            "convert scans and masks to .nii.gz"
        )
    others = ", ".join(f"{count} {ending}" for ending, count in sorted(listing.others.items())[:_NAMES_SHOWN])
    return UsageError(
        f"{root}: no .nii or .nii.gz file in it or below (found {others or 'nothing'}); give the folder with scans "
        "and masks"
    )
