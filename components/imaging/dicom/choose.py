"""Which series of a study is the head CT to use, and why."""

from __future__ import annotations

from collections.abc import Sequence

from components.imaging.dicom.kernel import Kind, kernel_kind
from components.imaging.dicom.series import Series
from components.imaging.errors import ScanError

MAX_TILT_DEGREES = 30.0
"""Gantries tilt up to 30 degrees; more is sagittal, coronal or a reformat."""
MIN_STEP_MM = 0.4
"""Slices that are thinner than this hold more noise than detail."""
_NO_IMAGES = {
    "LOCALIZER", "SCOUT", "TOPOGRAM", "DOSE", "DOSE_INFO", "SCREEN SAVE", "SCREENSHOT", "MIP", "MINIP", "PROJECTION",
    "PROJECTION IMAGE", "MAX_IP", "VRT", "3D", "PERFUSION", "OTHER",
}  # fmt: skip
_KERNEL_RANK: dict[Kind, int] = {"soft": 0, "unknown": 1, "sharp": 2}
_KERNEL_TEXT: dict[Kind, str] = {"soft": "soft kernel", "unknown": "kernel not known", "sharp": "sharp kernel"}


def choose_series(series: Sequence[Series], wanted: str | None = None, *, min_slices: int = 5) -> tuple[Series, str]:
    """Chooses the axial CT without contrast agent, of a soft kernel, original, thinnest, of most slices, in this order.

    Args:
        series: As `find_series` gives them.
        wanted: Overrides the choice: a place in the list (`#2`), series number, series UID, or part of the
            description, tried in this order.
        min_slices: Fewer are no scan of a head, unless the series is asked for.

    Returns:
        The series and one line that says why.

    Raises:
        ScanError: `no-series` or `series-unclear`; the message lists the series.
    """
    if wanted is not None:
        return _asked_for(series, wanted)
    refused = {one.key: _unfit(one, min_slices) for one in series}
    fit = [one for one in series if not refused[one.key]]
    if not fit:
        raise ScanError(
            "no-series",
            f"none of {len(series)} series is an axial head CT of {min_slices} slices or more; "
            f"name one to use it all the same:{_listed(series, refused)}",
        )
    ranked = sorted(fit, key=_rank)
    best = ranked[0]
    equal = [one for one in ranked if _rank(one) == _rank(best)]
    if len(equal) > 1:
        raise ScanError(
            "series-unclear",
            f"{len(equal)} series fit equally well ({', '.join(one.key for one in equal)}); name one:"
            f"{_listed(series, refused)}",
        )
    return best, f"{describe(best)}: {_reason(best, ranked[1:])}"


def describe(series: Series) -> str:
    """A series by its geometry, as lists and reasons show it."""
    kernel = f"kernel {series.kernel}" if series.kernel else "no kernel named"
    number = f"series {series.number}" if series.number else "series without number"
    tilt, step = series.tilt_degrees, series.step_mm
    where = "no geometry" if tilt is None else f"{tilt:.0f} degrees off axial"
    every = "" if step is None else f" every {step:g} mm"
    contrast = ", contrast agent" if series.contrast else ""
    return f"{series.key} {number}, {series.modality}, {len(series.slices)} slices{every}, {kernel}, {where}{contrast}"


def _asked_for(series: Sequence[Series], wanted: str) -> tuple[Series, str]:
    tests = (
        ("place", lambda one: one.key == wanted),
        ("number", lambda one: one.number == wanted),
        ("UID", lambda one: one.series_uid == wanted),
        ("description", lambda one: bool(wanted) and wanted.casefold() in one.description.casefold()),
    )
    for name, test in tests:
        matches = [one for one in series if test(one)]
        if len(matches) == 1:
            return matches[0], f"{describe(matches[0])}: asked for by {name}"
        if matches:
            raise ScanError(
                "series-unclear", f"{len(matches)} series match by {name}; name one by its place:{_listed(matches, {})}"
            )
    raise ScanError("no-series", f"no series matches what was asked for; name one by its place:{_listed(series, {})}")


def _unfit(series: Series, min_slices: int) -> str:
    """Why a series is no axial head CT; empty if it is one."""
    if series.modality != "CT":
        return f"modality {series.modality or 'unset'}"
    if unwanted := sorted(set(series.image_type) & _NO_IMAGES):
        return f"image type {unwanted[0]}"
    tilt = series.tilt_degrees
    if tilt is None:
        return "no slices with a position"
    if tilt > MAX_TILT_DEGREES:
        return f"more than {MAX_TILT_DEGREES:.0f} degrees off axial"
    if len(series.slices) < min_slices:
        return f"fewer than {min_slices} slices"
    return ""


def _rank(series: Series) -> tuple[bool, int, bool, bool, float, int]:
    """Smallest is best. Steps are compared to a tenth of a millimetre."""
    step = series.step_mm or 0.0
    return (
        series.contrast,
        _KERNEL_RANK[kernel_kind(series.kernel)],
        "DERIVED" in series.image_type,
        step < MIN_STEP_MM,
        round(step, 1),
        -len(series.slices),
    )


def _reason(best: Series, others: Sequence[Series]) -> str:
    if not others:
        return "the only axial head CT"
    names = (
        "no contrast agent", _KERNEL_TEXT[kernel_kind(best.kernel)], "original images", "no overly thin slices",
        "thinnest slices", "most slices",
    )  # fmt: skip
    pairs = zip(names, _rank(best), _rank(others[0]), strict=True)
    deciding = next(name for name, mine, theirs in pairs if mine != theirs)
    return f"{deciding}, among {len(others) + 1} that fit"


def _listed(series: Sequence[Series], refused: dict[str, str]) -> str:
    lines = [f"\n  {describe(one)}" + (f" - {refused[one.key]}" if refused.get(one.key) else "") for one in series[:40]]
    if len(series) > 40:
        lines.append(f"\n  and {len(series) - 40} more")
    return "".join(lines)
