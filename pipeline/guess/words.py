"""What the words in a path say of the file: scan or mask, site, delivery or patient."""

from __future__ import annotations

import datetime
import re


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


MASK = _listed("""
    mask masks msk label labels lbl seg segs segm segmentation segmentations gt truth truths groundtruth groundtruths
    ground annotation annotations annot roi rois lesion lesions outline outlines contour contours manual target targets
    reader rater hemorrhage haemorrhage bleed blood
""")
IMAGE = _listed("""
    image images img imgs scan scans ct cts ncct nect volume volumes vol data raw rawdata input inputs source original
    originals orig head brain
""")
STRUCTURE = _listed("derivatives tr ts train test val training testing validation anat nii nifti gz dataset")
"""Words that neither say what a file is nor where it comes from."""

_SITE = _listed("site sites clinic center centre hospital cohort source vendor scanner dataset set fold")
_PATIENT = _listed("patient pat pt sub subject subj person")
_DELIVERY = re.compile(r"^((?:span|delivery|batch|week|round|wave|export|transfer|drop)[-_ ]?)(\d+)$", re.IGNORECASE)
_DATE = re.compile(r"(?<!\d)(\d{4})([-_.]?)(\d{2})\2(\d{2})(?!\d)")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def words(text: str) -> frozenset[str]:
    """The words of a text in small letters: `labelsTr` has two."""
    return frozenset(word.lower() for word in _WORD.findall(text))


def says_role(name: str) -> bool:
    """Whether a folder's name does nothing but say what lies in it, such as `images` or `ground truths`."""
    found = words(name)
    return bool(found & (MASK | IMAGE)) and not any(letter.isdigit() for letter in name)


def says_site(name: str) -> bool:
    """Whether a folder is that of a clinic or of another source."""
    return bool(words(name) & _SITE)


def says_patient(name: str) -> bool:
    """Whether a folder calls itself that of a patient."""
    return bool(words(name) & _PATIENT)


def as_delivery(name: str) -> tuple[str, str] | None:
    """A folder's name with span placeholders in the place of its number or date, and that; None where it has none."""
    if match := _DELIVERY.match(name):
        return f"{match[1]}{{SPAN}}", str(int(match[2]))
    if match := _DATE.search(name):
        year, between, month, day = match.groups()
        try:
            date = datetime.date(int(year), int(month), int(day))
        except ValueError:
            return None
        if 1980 <= date.year <= 2100:
            spelt = between.join(("{YYYY}", "{MM}", "{DD}"))
            return name[: match.start()] + spelt + name[match.end() :], date.isoformat()
    return None


def boundaries(stem: str) -> list[tuple[int, int]]:
    """Where a file's name may be cut: end of the part before, begin of the part after.

    Separators belong to neither part as a case id; between letters and digits nothing is lost.
    """
    cuts = [(match.start(), match.end()) for match in re.finditer(r"[-_. ]+", stem)]
    cuts += [
        (index, index)
        for index in range(1, len(stem))
        if stem[index - 1].isalnum() and stem[index].isalnum() and stem[index - 1].isdigit() != stem[index].isdigit()
    ]
    return [(start, end) for start, end in sorted(cuts) if start > 0 and end < len(stem)]
