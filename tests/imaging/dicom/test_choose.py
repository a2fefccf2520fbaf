"""Which series of a study is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.imaging.dicom.choose import choose_series
from components.imaging.dicom.kernel import kernel_kind
from components.imaging.dicom.series import Series, find_series
from components.imaging.errors import ScanError
from tests.imaging.dicom.files import AXIAL, SECRET, positions, stored, write_series

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def study(tmp_path: Path, *series: dict[str, Any]) -> tuple[Series, ...]:
    """A study with one series for each; numbered from 1, soft, axial, 6 slices every 5 mm unless said otherwise."""
    for number, values in enumerate(series, start=1):
        fields: dict[str, Any] = {
            "ConvolutionKernel": "H30s", "SeriesNumber": number, "SeriesInstanceUID": f"1.2.{number}", **values
        }  # fmt: skip
        count, step = fields.pop("count", 6), fields.pop("step", 5.0)
        orientation = fields.pop("orientation", AXIAL)
        normal = np.cross(orientation[:3], orientation[3:])
        write_series(
            tmp_path / str(number), stored(count, (4, 4)), positions(count, step * normal), orientation, **fields
        )  # fmt: skip
    return find_series(tmp_path).series


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("H30s", "soft"), ("J30s 3", "soft"), ("Hr38f", "soft"), ("FC21", "soft"), ("FC26", "soft"), ("UB", "soft"),
        ("SOFT", "soft"), ("STANDARD", "soft"), ("H60s", "sharp"), ("H70h", "sharp"), ("J70h", "sharp"),
        ("FC30", "sharp"), ("FC81", "sharp"), ("BONE", "sharp"), ("BONEPLUS", "sharp"), ("YC", "sharp"),
        ("Hr64h", "sharp"), ("", "unknown"), ("XYZ", "unknown"),
    ],
)  # fmt: skip
def test_kernels(kernel: str, kind: str) -> None:
    assert kernel_kind(kernel) == kind


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"ConvolutionKernel": "H60s"}, {}, "soft kernel"),
        ({"ConvolutionKernel": "BONE", "step": 1.0, "count": 30}, {"ConvolutionKernel": "STANDARD"}, "soft kernel"),
        ({"ConvolutionKernel": None}, {}, "soft kernel"),
        ({"ContrastBolusAgent": "X", "step": 1.0}, {}, "no contrast agent"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, {}, "original images"),
        ({}, {"step": 2.5}, "thinnest slices"),
        ({"step": 0.2}, {}, "no overly thin slices"),
        ({}, {"count": 8}, "most slices"),
        ({"Modality": "MR"}, {}, "the only axial head CT"),
        ({"orientation": SAGITTAL, "count": 40}, {}, "the only axial head CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "count": 9}, {}, "the only axial head CT"),
        ({"ImageType": ["DERIVED", "SECONDARY", "DOSE"], "count": 9}, {}, "the only axial head CT"),
        ({"count": 4}, {}, "the only axial head CT"),
    ],
)
def test_the_second_is_chosen_and_the_reason_said(
    first: dict[str, Any], second: dict[str, Any], why: str, tmp_path: Path
) -> None:
    series = study(tmp_path, first, second)
    for order in (series, series[::-1]):
        chosen, reason = choose_series(order)
        assert chosen.number == "2" and why in reason and SECRET not in reason


@pytest.mark.parametrize(("degrees", "fits"), [(25, True), (35, False)])
def test_a_gantry_may_tilt_up_to_30_degrees(degrees: float, fits: bool, tmp_path: Path) -> None:
    angle = np.radians(degrees)
    series = study(tmp_path, {"orientation": (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))})
    if fits:
        assert choose_series(series)[0] is series[0]
        return
    with pytest.raises(ScanError, match="more than 30 degrees off axial") as caught:
        choose_series(series)
    assert caught.value.code == "no-series"


def test_equal_series_are_listed_instead_of_guessed(tmp_path: Path) -> None:
    series = study(tmp_path, {}, {}, {"ConvolutionKernel": "H60s"})
    with pytest.raises(ScanError) as caught:
        choose_series(series)
    assert caught.value.code == "series-unclear" and SECRET not in str(caught.value)
    for text in ("(#1, #2)", "#3 series 3, CT, 6 slices every 5 mm, kernel H60s, 0 degrees off axial"):
        assert text in str(caught.value)


@pytest.mark.parametrize("wanted", ["2", "#2", "1.2.2", "BONE thin"])
def test_a_series_can_be_asked_for(wanted: str, tmp_path: Path) -> None:
    series = study(tmp_path, {"SeriesDescription": "brain"}, {"SeriesDescription": "Bone Thin 1.0", "count": 2})
    assert choose_series(series, wanted)[0].number == "2"


@pytest.mark.parametrize(("wanted", "code"), [("7", "no-series"), ("", "no-series"), ("head", "series-unclear")])
def test_what_is_asked_for_must_be_one(wanted: str, code: str, tmp_path: Path) -> None:
    series = study(tmp_path, {}, {})
    with pytest.raises(ScanError, match="#2 series 2") as caught:
        choose_series(series, wanted)
    assert caught.value.code == code
