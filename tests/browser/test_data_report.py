"""The data report in a browser without a network: whole, silent, and fitting into a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data_report.contact_sheet import choose_tiles
from components.data_report.content import collect
from components.data_report.page import render
from components.pages.pictures import data_uri
from tests.browser.chromium import Tab, needs_chromium
from tests.cases import Sample, cuboid
from tests.components.data_report.listings import finding, listing, quarantined, random_cohort

pytestmark = needs_chromium
BLOOD = [cuboid((1, 4), (30, 38), (30, 40))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with something in every section and long names."""
    examples = [("train", record) for name in ("a", "b" * 60) for record in Sample(name, BLOOD, BLOOD).examples()]
    long = "/a/folder/with/a/long/name/" + "x" * 80 + "/image.nii.gz: lies 25.00 mm away; copy the affine over"
    data = listing(
        *random_cohort(60),
        quarantined=[quarantined("q" * 40, "mask-affine", long), quarantined("q2")],
        findings=[{"case_id": "patient_0001", "code": "metal", "severity": "warning", "message": long}],
    )
    measured: dict[str, Any] = {
        "split": "train", "feature": "slice_spacing_mm", "kind": "drift", "reference": "the data before",
        "distance": "Jensen-Shannon divergence", "value": 0.05, "threshold": 0.1, "bound": 0.2,
    }  # fmt: skip
    content = collect(
        data,
        [finding("hold"), finding("note", feature="a_long_name_of_a_feature_of_scans")],
        name="a_configuration",
        created="2000-01-01 00:00 UTC",
        previous=listing(*random_cohort(30, seed=1), span=3),
        comparison={"references": [{"name": "the data before", "fingerprint": "aa"}], "measurements": [measured]},
        thumbnails={"q2": data_uri(np.full((60, 96), 90, np.uint8))},
        tiles=choose_tiles(examples, "aa"),
    )
    path = tmp_path_factory.mktemp("page") / "data.html"
    path.write_text(render(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_without_an_error_or_a_request(tab: Tab, page: Path, dark: bool) -> None:
    html = tab.open(page, dark=dark).content()
    assert (tab.problems, tab.requests) == ([], [page.as_uri()])
    for text in ("a_configuration", "Held", "mask-affine", "Blood volume", "Show the outlines", "patient_0059"):
        assert text in html
    assert html.count("<svg") >= 10


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_no_picture_is_broken_nothing_is_loaded(tab: Tab, page: Path, width: int) -> None:
    tab.open(page, width=width)
    assert tab.sticking_out() == []
    assert tab.requests == [page.as_uri()]


def test_a_console_error_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><title>x</title><script>console.error('oh'); nothing.there()</script>")
    tab.open(path)
    assert len(tab.problems) == 2 and any("nothing is not defined" in line for line in tab.problems)


@pytest.mark.parametrize(("dark", "brightness"), [(False, (225, 256)), (True, (0, 40))])
def test_both_themes_are_painted(tab: Tab, page: Path, dark: bool, brightness: tuple[int, int]) -> None:
    tab.open(page, dark=dark, height=800)
    grey = tab.picture().mean(axis=-1)
    assert grey.shape == (800, 1280)
    assert brightness[0] <= np.median(grey) < brightness[1]
    assert grey.std() > 5
