"""Which numbers and names of a scan the report shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schema import features as f

Record = Mapping[str, Any]
"""One entry of `cases` in `cases.json`."""


@dataclass(frozen=True)
class Quantity:
    """One number or name of a scan.

    Attributes:
        key: Short name, unique.
        title: As a heading.
        unit: Of the numbers; empty for names.
        about: What a reader should know of it, in a sentence.
        of: Takes it from a record: a number, a name, or None where the scan has none. KeyError: an older listing.
        classes: Lower bounds of fixed classes, the first of which is 0; else bins are made to fit the data.
    """

    key: str
    title: str
    unit: str
    about: str
    of: Callable[[Record], float | str | None]
    classes: tuple[float, ...] = ()


def _head_hu(name: str) -> Callable[[Record], float]:
    return lambda record: record["head_hu"][name]


_RANKS = {percentile: f"{percentile:g}th percentile" for percentile in f.HEAD_HU_PERCENTILES.values()}
_RANKS |= {1.0: "1st percentile", 50.0: "Median"}
_OF_HEAD = "Per scan the median over the slices that show the head."

QUANTITIES = (
    Quantity("source", "Source", "", "", lambda record: record["source"] or None),
    Quantity(
        "lesion_ml", "Blood volume", "ml", "By the masks, on the scan's own grid.",
        lambda record: record["lesion_ml"], (0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0),
    ),
    Quantity("slices", "Slices per scan", "", "", lambda record: record["slices"]),
    Quantity(
        "slice_spacing", "Slice spacing", "mm", "The distance across slices, also under gantry tilt.",
        lambda record: record["spacing_mm"][0],
    ),
    Quantity("pixel_spacing", "Pixel spacing", "mm", "Along rows.", lambda record: record["spacing_mm"][1]),
    Quantity(
        "matrix", "Matrix", "", "Columns × rows in the axial plane.",
        lambda record: f"{record['native_shape'][2]} × {record['native_shape'][1]}",
    ),
    Quantity(
        "orientation", "Orientation", "", "Axis codes of the files as stored; all are turned to one.",
        lambda record: record["orientation"],
    ),
    Quantity(
        "brain_hu_mean", "Mean of the brain", "HU", "Grey and white matter average 30 to 40 HU in true HU.",
        lambda record: record["brain_hu_mean"],
    ),
    Quantity(
        "brain_hu_sd", "Spread of the brain", "HU", "Standard deviation: noise, and how far matter and blood differ.",
        lambda record: record["brain_hu_sd"],
    ),
    *(
        Quantity(name, f"{_RANKS[percentile]} of the head", "HU", _OF_HEAD, _head_hu(name))
        for name, percentile in f.HEAD_HU_PERCENTILES.items()
    ),
)  # fmt: skip
