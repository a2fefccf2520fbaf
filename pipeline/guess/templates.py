"""Ways to read a folder's files as one pattern with a case id in it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from components.nifti_example_gen.spans import DATE, NUMBER
from pipeline.guess.listing import NIFTI
from pipeline.guess.words import (
    IMAGE,
    MASK,
    STRUCTURE,
    as_delivery,
    boundaries,
    says_patient,
    says_role,
    says_site,
    words,
)

_COMMON_AFFIX = 0.02
"""Share of the files that must have an ending for it to be one, unless its words say what the file is."""
_MOST_SCANS_OF_A_PATIENT = 6
"""On average; a folder with more is a site's or a delivery's."""
_ROLES = MASK | IMAGE | STRUCTURE
_MANY = 3
"""So many folders side by side may be patients although their names have no number."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """One reading of some files.

    Attributes:
        pattern: As the configuration has it, such as `images/{case}.nii.gz`.
        files: By what tells the files apart, their paths.
        cases: Case ids by the same key.
        patients: Patient ids likewise; empty where the pattern has none.
        unique: Whether a span and a case id name one file; else a pattern is not enough.
        cuts: How much of the names is no part of the case id; fewer are likelier.
        stars: How many folders are passed over.
    """

    pattern: str
    files: Mapping[Key, str]
    cases: Mapping[Key, str]
    patients: Mapping[Key, str]
    unique: bool
    cuts: int
    stars: int

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of its own letters."""
        return words(_letters(self.pattern))

    @cached_property
    def origin(self) -> frozenset[str]:
        """What says where the files come from, not what they are: of each folder, and of the name."""
        *folders, name = _letters(self.pattern).split("/")
        said = [*(sorted(words(folder)) + re.findall(r"\d+", folder) for folder in folders), sorted(words(name))]
        return frozenset(" ".join(word for word in one if word not in _ROLES) for one in said) - {""}

    def without(self, paths: frozenset[str]) -> Template:
        """Itself with fewer files."""
        files = {key: path for key, path in self.files.items() if path not in paths}
        return Template(self.pattern, files, self.cases, self.patients, self.unique, self.cuts, self.stars)


@dataclass
class _Draft:
    cuts: int
    stars: int
    found: list[tuple[str, tuple[str, ...], str, str, str]] = field(default_factory=list)
    """Span, folders that vary, case, patient, path."""


def _letters(pattern: str) -> str:
    text = re.sub(r"\{\w+\}|\*", " ", pattern)
    return re.sub(r"\.nii(\.gz)?$", "", text)


def templates(paths: Sequence[str]) -> list[Template]:
    """Every reading of the files that might be meant.

    Args:
        paths: NIfTI files, relative to the data folder.
    """
    split = [(path, *_parts(path)) for path in paths]
    if not split:
        return []
    affixes = _affixes([stem for _, _, stem, _ in split])
    siblings: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for _, folders, _, _ in split:
        for index, name in enumerate(folders):
            siblings[folders[:index]].add(name)
    counts = {parent: sum(not says_role(name) for name in names) for parent, names in siblings.items()}
    drafts: dict[str, dict[str, _Draft]] = defaultdict(dict)
    for path, folders, stem, extension in split:
        varying = [index for index, name in enumerate(folders) if _varies(name, counts[folders[:index]])]
        for span, named, spanned in _spans(folders):
            free = [index for index in varying if index not in spanned]
            for pattern, values, case, patient, cuts in _readings(named, folders, stem, free, affixes):
                draft = drafts[pattern].setdefault(extension, _Draft(cuts, pattern.count("*")))
                draft.found.append((span, values, case, patient, path))
    made = []
    for pattern, by_extension in drafts.items():
        merged = _Draft(*next((draft.cuts, draft.stars) for draft in by_extension.values()))
        merged.found = [item for draft in by_extension.values() for item in draft.found]
        whole = _finish(pattern + (next(iter(by_extension)) if len(by_extension) == 1 else ".nii*"), merged)
        if whole is not None and whole.unique:
            made.append(whole)
            continue
        for extension, draft in by_extension.items():
            if (part := _finish(pattern + extension, draft)) is not None:
                made.append(part)
    return made


def _parts(path: str) -> tuple[tuple[str, ...], str, str]:
    *folders, name = path.split("/")
    extension = next(ending for ending in NIFTI if name.endswith(ending))
    return tuple(folders), name.removesuffix(extension), extension


def _affixes(stems: Iterable[str]) -> frozenset[str]:
    """Beginnings and endings that many files share, or whose words say what a file is."""
    counts: Counter[str] = Counter()
    total = 0
    for stem in stems:
        total += 1
        for start, end in boundaries(stem):
            counts[stem[:end]] += 1
            counts[stem[start:]] += 1
    least = max(2, _COMMON_AFFIX * total)
    return frozenset(affix for affix, count in counts.items() if count >= least or words(affix) & (MASK | IMAGE))


def _varies(name: str, siblings: int) -> bool:
    """Whether a folder may be that of one patient among many."""
    if says_role(name) or as_delivery(name) or (says_site(name) and not says_patient(name)):
        return False
    return any(letter.isdigit() for letter in name) or siblings >= _MANY


def _spans(folders: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], frozenset[int]]]:
    """Span, folders as the pattern names them, and which of them tell the span: first as they are."""
    escaped = tuple(_plain(name) for name in folders)
    yield "", escaped, frozenset()
    for index, name in enumerate(folders):
        if found := as_delivery(name):
            yield found[1], (*escaped[:index], found[0], *escaped[index + 1 :]), frozenset([index])
        three = folders[index : index + 3]
        if len(three) == 3 and as_delivery("-".join(three)) and [len(part) for part in three] == [4, 2, 2]:
            yield "-".join(three), (*escaped[:index], *DATE, *escaped[index + 3 :]), frozenset(range(index, index + 3))


def _plain(name: str) -> str:
    """A name as a pattern has it: a star for what means something in patterns."""
    return re.sub(r"[][{}?*]+", "*", name)


def _readings(
    named: tuple[str, ...], folders: tuple[str, ...], stem: str, free: list[int], affixes: frozenset[str]
) -> Iterator[tuple[str, tuple[str, ...], str, str, int]]:
    """Pattern without extension, the folders that vary, case id, patient id, and letters cut from the case id."""
    for chosen in _folder_choices(free):
        pieces = list(named)
        patient = ""
        for index, meaning in chosen.items():
            pieces[index] = meaning
            if meaning == "{patient}":
                patient = folders[index]
        values = tuple(folders[index] for index in chosen)
        base = "".join(f"{piece}/" for piece in pieces)
        for before, case, after in _stem_cases(stem, affixes):
            cuts = bool(before) + bool(after)
            yield f"{base}{_plain(before)}{{case}}{_plain(after)}", values, case, patient, cuts
    for case_at in range(len(folders)):
        name = folders[case_at]
        if says_role(name) or NUMBER in named[case_at] or DATE[0] in named[case_at]:
            continue
        for chosen in _folder_choices([index for index in free if index != case_at]):
            pieces = list(named)
            patient = ""
            for index, meaning in chosen.items():
                pieces[index] = meaning
                if meaning == "{patient}":
                    patient = folders[index]
            pieces[case_at] = "{case}"
            values = tuple(folders[index] for index in chosen)
            yield "".join(f"{piece}/" for piece in pieces) + _plain(stem), values, name, patient, 0


def _folder_choices(free: list[int]) -> Iterator[dict[int, str]]:
    """What the varying folders mean: themselves, or one the patient and the others nothing."""
    yield {}
    for patient in free:
        yield {index: "{patient}" if index == patient else "*" for index in free}


def _stem_cases(stem: str, affixes: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """A name as what stands before its case id, that, and what stands behind it: first the whole."""
    cuts = boundaries(stem)
    begins = [0, *(end for _, end in cuts if stem[:end] in affixes)]
    ends = [len(stem), *(start for start, _ in cuts if stem[start:] in affixes)]
    for begin in begins:
        for end in ends:
            if begin < end:
                yield stem[:begin], stem[begin:end], stem[end:]


def _finish(pattern: str, draft: _Draft) -> Template | None:
    """The template; None for a reading that cannot be meant."""
    if "{patient}" in pattern:
        patients = {(span, patient) for span, _, _, patient, _ in draft.found}
        if len(draft.found) > _MOST_SCANS_OF_A_PATIENT * len(patients):
            return None
    short = {(span, case) for span, _, case, _, _ in draft.found}
    unique = len(short) == len(draft.found)
    files: dict[Key, str] = {}
    cases: dict[Key, str] = {}
    patients_of: dict[Key, str] = {}
    for span, values, case, patient, path in draft.found:
        key = (span, case) if unique else (span, *values, case)
        if key in files:
            return None
        files[key], cases[key] = path, case
        if patient:
            patients_of[key] = patient
    return Template(pattern, files, cases, patients_of, unique, draft.cuts, draft.stars)
