"""What axe-core says of the pages, in both themes, on a screen and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.run_report.content import complete
from components.run_report.page import render
from tests.browser.chromium import Tab, needs_chromium
from tests.browser.test_data_report import page as data_page
from tests.components.run_report.test_page import STAGES, content

pytestmark = needs_chromium
data_page = data_page  # the same page as that module's own tests


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refused model, with something in every section, after the run has ended."""
    servability = {"measures": {"load_seconds": 1.5, "seconds_per_scan": 2.5, "slices": 28, "peak_mib": 700.0}}
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(complete(content(30), STAGES, servability=servability)), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_stands_in_a_readers_way_on_the_run_report(
    tab: Tab, run_page: Path, width: int, dark: bool
) -> None:
    tab.open(run_page, width=width, dark=dark)
    assert tab.barriers() == []
    assert tab.problems == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_stands_in_a_readers_way_on_the_data_report(
    tab: Tab, data_page: Path, width: int, dark: bool
) -> None:
    tab.open(data_page, width=width, dark=dark)
    assert tab.barriers() == []
    assert tab.problems == []


def test_a_barrier_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><html lang=en><title>x</title><main><h1>x</h1><p style='color:#999;background:#fff'>pale</p>"
        "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=='></main></html>"
    )
    tab.open(path)
    found = " ".join(tab.barriers())
    assert "color-contrast" in found and "image-alt" in found
