"""Checks of what is seen: a whole head, of a head's size, at rest. Simple statistics, so they only warn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.imaging.checks.finding import Finding
from components.imaging.checks.sample import Sample
from components.imaging.head import BONE_HU

HEAD_CM2 = (60.0, 450.0)
"""Of the largest slice."""

BODY_CM2 = 600.0
"""No head is so large in a slice, but a trunk is, and so is a head whose spacing is wrong."""

MIN_BONE_SHARE = 0.02
"""Bone in tissue. Whole heads have 0.2 or more, single slices near the vertex 0.05."""

BRAIN_MEAN_HU = (15.0, 50.0)
METAL_HU = 2800
MIN_METAL_ML = 0.3
EDGE_MM = 3.5
"""Width of the zone between air and skin. At rest 0.8 to 2.2 mm, seen double 4.7 mm and more."""

_EDGE_HU = (-700, -300)
_EDGE_REACH_MM = 12.0
_EDGE_MIN_CM2 = 60.0


def anatomy_findings(path: Path, sample: Sample) -> Iterator[Finding]:
    """Checks of the head that was found.

    Args:
        path: The scan, for messages.
        sample: Its thinned-out values.
    """
    largest = float(sample.head.area_cm2.max())
    if largest > BODY_CM2:
        text = f"{path}: the largest slice has {largest:.0f} cm2, wanted at most {BODY_CM2:.0f}"
        yield Finding.of("body-size", text, largest)
    elif not HEAD_CM2[0] <= largest <= HEAD_CM2[1]:
        yield Finding.of(
            "head-size", f"{path}: the head's largest slice has {largest:.0f} cm2, wanted {HEAD_CM2}", largest
        )
    bone = float((sample.hu[sample.tissue] > BONE_HU).mean()) if sample.tissue.any() else 0.0
    if bone < MIN_BONE_SHARE:
        yield Finding.of("no-skull", f"{path}: bone is {bone:.1%} of the head, wanted {MIN_BONE_SHARE:.0%}", bone)
    brain = sample.head.brain_mean
    if np.isfinite(brain) and not BRAIN_MEAN_HU[0] <= brain <= BRAIN_MEAN_HU[1]:
        yield Finding.of("brain-hu", f"{path}: the brain's mean is {brain:.1f} HU, wanted {BRAIN_MEAN_HU}", brain)
    metal = float((sample.hu >= METAL_HU).sum()) * sample.voxel_ml
    if metal >= MIN_METAL_ML:
        yield Finding.of("metal", f"{path}: {metal:.1f} ml above {METAL_HU} HU, wanted below {MIN_METAL_ML}", metal)
    width = edge_width_mm(sample)
    if width > EDGE_MM:
        yield Finding.of("motion", f"{path}: the head's outline is {width:.1f} mm wide, wanted below {EDGE_MM}", width)


def edge_width_mm(sample: Sample) -> float:
    """Area of what is neither air nor tissue around the head over the outline's length; median over slices, in mm."""
    inside = _dilated(sample.tissue)
    near = inside
    for _ in range(max(1, round(_EDGE_REACH_MM / sample.spacing_mm[1]))):
        near = _dilated(near)
    between = near & ~inside & (sample.hu > _EDGE_HU[0]) & (sample.hu < _EDGE_HU[1])
    large = inside.sum(axis=(1, 2)) * sample.pixel_mm2 >= 100 * _EDGE_MIN_CM2
    if not large.any():
        return 0.0
    steps = [
        (inside[large, 1:] != inside[large, :-1]).sum(axis=(1, 2)) * sample.spacing_mm[2],
        (inside[large, :, 1:] != inside[large, :, :-1]).sum(axis=(1, 2)) * sample.spacing_mm[1],
    ]
    # Steps along the axes make an outline 4 / pi longer than it is, on average over directions.
    length = np.maximum(sum(steps) * np.pi / 4, 1.0)
    return float(np.median(between[large].sum(axis=(1, 2)) * sample.pixel_mm2 / length))


def _dilated(mask: np.ndarray) -> np.ndarray:
    """In-plane dilation by the 4-neighbourhood."""
    result = mask.copy()
    result[:, 1:] |= mask[:, :-1]
    result[:, :-1] |= mask[:, 1:]
    result[:, :, 1:] |= mask[:, :, :-1]
    result[:, :, :-1] |= mask[:, :, 1:]
    return result
