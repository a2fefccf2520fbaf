"""Which files are scans, and which are their masks."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.guess.templates import Key, Template, templates
from pipeline.guess.words import IMAGE, MASK

MASK_LIKE, IMAGE_LIKE = "mask", "image"
Looks = Callable[[str], str | None]
"""What the content of a file looks like, by its path; None where it cannot be told."""

Item = TypeVar("Item")

_MOST_READINGS = 60
_ROUGHLY_LOOKED_AT, _CLOSELY_LOOKED_AT = 4000, 300
_MOST_PAIRS = 12
_MOST_SAMPLES = 3
_UNSURE = 0.3
"""How much a pair counts whose names do not say which of the two is the mask, or that come from two places."""


@dataclass(frozen=True)
class Other:
    """Files that would fit as scans or as masks of cases that have both already.

    Attributes:
        reading: Their reading.
        shared: Of how many of the cases.
        masks: Whether they are masks.
    """

    reading: Template
    shared: int
    masks: bool


@dataclass(frozen=True)
class Pair:
    """Scans and their masks.

    Attributes:
        image: Reading of the scans.
        mask: Reading of the masks.
        keys: What is complete.
        why: Why these are scans and those masks.
        others: What would fit as well in the place of one of the two.
    """

    image: Template
    mask: Template
    keys: tuple[Key, ...]
    why: str
    others: tuple[Other, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        """The files of the complete cases."""
        return frozenset(side.files[key] for side in (self.image, self.mask) for key in self.keys)


@dataclass(frozen=True)
class _Candidate:
    image: Template
    mask: Template
    common: int
    evidence: int
    score: float


def find_pairs(paths: Sequence[str], looks: Looks) -> tuple[list[Pair], list[str]]:
    """Pairs scans with masks, the largest set first.

    Args:
        paths: NIfTI files, relative to the data folder.
        looks: Says what a file's content looks like; asked of a few.

    Returns:
        The pairs, and the files that are in none.
    """
    remaining = list(paths)
    found: list[Pair] = []
    aside: set[str] = set()
    while len(found) < _MOST_PAIRS and len(remaining) > 1:
        readings = templates(remaining)
        pair = next(_confirmed(_candidates(readings), looks), None)
        if pair is None:
            break
        others = tuple(_others(pair, readings, looks))
        found.append(Pair(pair.image, pair.mask, pair.keys, pair.why, others))
        used = pair.files
        # Other masks of the same scans are no source of their own: one patient would become two.
        also = {path for other in others for path in other.reading.files.values()}
        aside |= also
        remaining = [path for path in remaining if path not in used and path not in also]
    return found, sorted({*remaining, *aside})


def _candidates(readings: Sequence[Template]) -> list[_Candidate]:
    """Pairs of readings that share cases, the likeliest first."""
    holders: dict[Key, list[int]] = defaultdict(list)
    for number, reading in enumerate(readings):
        for key in reading.files:
            holders[key].append(number)
    common: Counter[tuple[int, int]] = Counter()
    for numbers in holders.values():
        if len(numbers) <= _MOST_READINGS:
            common.update(itertools.combinations(numbers, 2))
    # First roughly, for there may be thousands: a folder a case is a reading of its own, too.
    rough = []
    for (a, b), shared in common.most_common(_ROUGHLY_LOOKED_AT):
        image, mask = readings[a], readings[b]
        evidence = _evidence(image, mask)
        if evidence < 0:
            image, mask, evidence = mask, image, -evidence
        rough.append(_Candidate(image, mask, shared, evidence, _score(image, mask, shared, evidence)))
    made = []
    for one in heapq.nsmallest(_CLOSELY_LOOKED_AT, rough, key=lambda one: -one.score):
        image, mask = _apart(one.image, one.mask)
        shared = len(image.files.keys() & mask.files.keys())
        if shared and (one.evidence or shared > 1):
            score = _score(image, mask, shared, one.evidence)
            made.append(_Candidate(image, mask, shared, one.evidence, score))
    return sorted(made, key=_order)


def _score(image: Template, mask: Template, shared: int, evidence: int) -> float:
    return shared * (1 if evidence else _UNSURE) * _together(image, mask)


def _order(one: _Candidate) -> tuple[object, ...]:
    left = len(one.image.files) + len(one.mask.files) - 2 * one.common
    return (
        -one.score,
        not (one.image.unique and one.mask.unique),
        any(_inside_out(side) for side in (one.image, one.mask)),
        one.image.stars + one.mask.stars,
        one.image.cuts + one.mask.cuts,
        -one.evidence,
        left,
        len(one.mask.pattern),
        len(one.image.pattern),
        one.mask.pattern,
        one.image.pattern,
    )


def _inside_out(template: Template) -> bool:
    """Whether patients would lie in the folders of their scans."""
    return "{patient}" in template.pattern and template.pattern.find("{case}") < template.pattern.find("{patient}")


def _evidence(image: Template, mask: Template) -> int:
    """How much their names say that the second is the mask of the first; below 0: the other way round."""
    only_image, only_mask = image.words - mask.words, mask.words - image.words
    return 2 * (bool(only_mask & MASK) - bool(only_image & MASK)) + bool(only_image & IMAGE) - bool(only_mask & IMAGE)


def _together(image: Template, mask: Template) -> float:
    """Whether both come from one place: 1, or less where their names say otherwise."""
    a, b = image.origin, mask.origin
    if a == b:
        return 1.0
    return 0.7 if a <= b or b <= a else _UNSURE


def _apart(image: Template, mask: Template) -> tuple[Template, Template]:
    """Without the files that the stricter of the two claims too, as ingestion reads them."""

    def strictness(template: Template) -> int:
        return len(template.pattern.replace("*", "").replace("{case}", "").replace("{patient}", ""))

    if strictness(mask) >= strictness(image):
        return image.without(frozenset(mask.files.values())), mask
    return image, mask.without(frozenset(image.files.values()))


def _confirmed(candidates: Sequence[_Candidate], looks: Looks) -> Iterator[Pair]:
    """Those whose content does not speak against them, with scans and masks exchanged where it says so."""
    for one in candidates:
        keys = tuple(sorted(one.image.files.keys() & one.mask.files.keys()))
        verdicts = [(looks(one.image.files[key]), looks(one.mask.files[key])) for key in spread(keys, _MOST_SAMPLES)]
        straight = verdicts.count((IMAGE_LIKE, MASK_LIKE))
        swapped = verdicts.count((MASK_LIKE, IMAGE_LIKE))
        if swapped > straight:
            said = "the names say the opposite, but" if one.evidence else "the names do not tell, but"
            yield Pair(one.mask, one.image, keys, f"{said} the content of the files does: values of a mask, and of HU")
        elif one.evidence and (straight or not any(both == (IMAGE_LIKE, IMAGE_LIKE) for both in verdicts)):
            yield Pair(one.image, one.mask, keys, _reason(one))
        elif straight:
            yield Pair(one.image, one.mask, keys, "the names do not tell, but the content of the files does")


def _reason(one: _Candidate) -> str:
    said = sorted((one.mask.words - one.image.words) & MASK)
    if said:
        return f"named {', '.join(said)}"
    shown = sorted((one.image.words - one.mask.words) & IMAGE)
    return f"the others are named {', '.join(shown)}"


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many items, evenly from the first to the last."""
    if len(items) <= count:
        return list(items)
    step = (len(items) - 1) / max(count - 1, 1)
    return [items[round(index * step)] for index in range(count)]


def _origins_of_their_own(pair: Pair, left: Sequence[Template]) -> set[frozenset[str]]:
    """Places besides the pair's that have scans and masks of their own: they are sources, whatever their case ids."""
    own = {pair.image.origin, pair.mask.origin}
    by_origin: dict[frozenset[str], list[Template]] = defaultdict(list)
    for reading in left:
        if reading.files and reading.origin not in own:
            by_origin[reading.origin].append(reading)
    return {
        origin
        for origin, found in by_origin.items()
        if any(_evidence(a, b) and a.files.keys() & b.files.keys() for a, b in itertools.combinations(found[:40], 2))
    }


def _others(pair: Pair, readings: Sequence[Template], looks: Looks) -> Iterator[Other]:
    """Readings of other files for at least half of the same cases, from the same place: each file in one of them."""
    keys = set(pair.keys)
    used = pair.files
    left = [reading.without(used) for reading in readings]
    elsewhere = _origins_of_their_own(pair, left)
    claimed: set[str] = set()
    fitting = []
    for reading in readings:
        files = {key: path for key, path in reading.files.items() if path not in used}
        shared = len(keys & files.keys())
        near = max(_together(reading, pair.image), _together(reading, pair.mask)) >= 0.7
        near = near and reading.origin not in elsewhere
        if near and shared and shared >= len(files) / 2 and 2 * shared >= min(len(keys), len(files)):
            fitting.append((reading.without(used), shared))
    for reading, shared in sorted(fitting, key=lambda item: (-item[1], item[0].cuts, item[0].pattern)):
        if not claimed & set(reading.files.values()):
            claimed |= set(reading.files.values())
            kind = looks(min(reading.files.values()))
            told = reading.words & MASK >= reading.words & IMAGE
            yield Other(reading, shared, kind == MASK_LIKE if kind else told)
