"""The run report in a browser without a network: whole, silent, in both themes, and fitting into a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.run_report.page import render
from tests.browser.chromium import Tab, needs_chromium
from tests.components.run_report.test_page import content

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refused model, with something in every section and long names."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(content(30, prefix="a_source_with_a_name_" * 3)), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_without_an_error_or_a_request(tab: Tab, page: Path, dark: bool) -> None:
    html = tab.open(page, dark=dark).content()
    assert (tab.problems, tab.requests) == ([], [page.as_uri()])
    for text in ("Refused", "min_mean_dice", "Agreement of volumes", "Calibration", "ich run --config run.yaml"):
        assert text in html
    assert html.count("<svg") >= 10


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_no_picture_is_broken_nothing_is_loaded(tab: Tab, page: Path, width: int) -> None:
    tab.open(page, width=width)
    assert tab.sticking_out() == []
    assert tab.requests == [page.as_uri()]


def test_what_sticks_out_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "wide.html"
    path.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><title>x</title>"
        "<body><p style='width:900px'>x</p><img src=gone.png></body>"
    )
    tab.open(path, width=390)
    found = tab.sticking_out()
    assert any("900px" in item for item in found) and any("broken" in item for item in found)
    assert any(url.endswith("gone.png") for url in tab.requests)


@pytest.mark.parametrize(("dark", "brightness"), [(False, (225, 256)), (True, (0, 40))])
def test_both_themes_are_painted(tab: Tab, page: Path, dark: bool, brightness: tuple[int, int]) -> None:
    tab.open(page, dark=dark, height=1600)
    grey = tab.picture().mean(axis=-1)
    assert grey.shape == (1600, 1280)
    assert brightness[0] <= np.median(grey) < brightness[1]
    assert grey.std() > 5
