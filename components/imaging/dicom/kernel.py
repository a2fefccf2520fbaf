"""Whether a convolution kernel is soft (for brain) or sharp (for bone), by the makers' names."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["soft", "unknown", "sharp"]

_SIEMENS = re.compile(r"^[A-Z][A-Z]?(\d{2})[A-Z]*")  # H30s, J40s, Hr38f, UB is Philips
_SIEMENS_SHARP_FROM = 50
_CANON = re.compile(r"^FC(\d{2})")  # FC30-39, FC80-89: bone, inner ear, lung
_WORDS: dict[Kind, tuple[str, ...]] = {
    "soft": ("SOFT", "STANDARD", "STND", "BRAIN", "SMOOTH", "UA", "UB", "UC", "A", "B", "C"),
    "sharp": ("BONE", "BONEPLUS", "EDGE", "LUNG", "SHARP", "DETAIL", "ULTRA", "D", "E", "L", "YC", "YD", "YE"),
}


def kernel_kind(kernel: str) -> Kind:
    """Sorts a kernel by its first word that says anything.

    Siemens numbers kernels by sharpness (H30, J40 against H60, H70), Canon by use (FC2x against FC3x, FC8x), GE has
    words (SOFT, STANDARD, BONE), Philips letters (UB, UC against D, YC).
    """
    for word in re.split(r"[\s_\\/,-]+", kernel.upper()):
        if match := _CANON.match(word):
            return "sharp" if match[1][0] in "358" else "soft"
        if match := _SIEMENS.match(word):
            return "sharp" if int(match[1]) >= _SIEMENS_SHARP_FROM else "soft"
        for kind, words in _WORDS.items():
            if word in words:
                return kind
    return "unknown"
