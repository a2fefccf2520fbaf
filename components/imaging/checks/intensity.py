"""Checks of whether values are HU at all.

Every head CT shows air: around the head, or at least in its cavities. Values without any are something else, and how
they lie says what.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.imaging.checks.finding import Finding
from components.imaging.checks.sample import Sample

AIR_BELOW_HU = -300
MIN_AIR_SHARE = 0.005
WRAPPED_ABOVE = 40_000
"""Air stored as unsigned 16-bit is near 64500; no voxel of a CT is so bright."""

SHIFTED_SOFT = (1000, 1115)
"""Where brain and blood lie when 1000 or 1024 was added."""

_TRANSITIONS = ((-900, -150), (150, 900))


def intensity_findings(path: Path, sample: Sample) -> Iterator[Finding]:
    """At most one finding: the first that explains the histogram.

    Args:
        path: The scan, for messages.
        sample: Its thinned-out values.
    """
    hu = sample.hu
    low, high = float(hu.min()), float(hu.max())
    span = f"{path}: values from {low:g} to {high:g}"
    if low == high:
        yield Finding.of("constant", f"{path}: every voxel is {low:g}", low)
        return
    if float((hu > WRAPPED_ABOVE).mean()) > MIN_AIR_SHARE:
        yield Finding.of("hu-wrapped", f"{span}, wanted HU (air about -1000)", high)
        return
    if float((hu < AIR_BELOW_HU).mean()) >= MIN_AIR_SHARE:
        yield from _clipped(path, sample)
        return
    wanted = "none of them air; wanted HU (air about -1000, brain about 35)"
    soft = float(((hu > SHIFTED_SOFT[0]) & (hu < SHIFTED_SOFT[1])).mean())
    dark = float((hu < 200).mean())
    between = float(((hu > 250) & (hu < 850)).mean())
    if high - low < 20:
        yield Finding.of("hu-normalised", f"{span}, {wanted}", high)
    elif soft > 0.03 and dark > 0.03 and soft > between:
        yield Finding.of("hu-shifted", f"{span}, with soft tissue near 1060; {wanted}", soft)
    elif low >= 0 and 200 < high <= 255:
        yield Finding.of("hu-8bit", f"{span}, {wanted}", high)
    elif high <= 400 and float((hu <= low).mean()) > 0.02:
        yield Finding.of("hu-windowed", f"{span}, cut off at both ends; {wanted}", high)
    elif low >= -50:
        yield Finding.of("hu-foreign", f"{span}, {wanted}", low)


def _clipped(path: Path, sample: Sample) -> Iterator[Finding]:
    """Partial volume gives every real head values between air and skin and between brain and bone."""
    size = max(1, int(sample.tissue.sum()))
    shares = [float(((sample.hu > low) & (sample.hu < high)).sum()) / size for low, high in _TRANSITIONS]
    if max(shares) < 1e-4 and size > 1000:
        inside = sample.hu[(sample.hu > -150) & (sample.hu < 150)]
        found = f"from {inside.min():g} to {inside.max():g} HU" if inside.size else "nothing"
        yield Finding.of("hu-clipped", f"{path}: beside air and bone there is only {found}", max(shares))
