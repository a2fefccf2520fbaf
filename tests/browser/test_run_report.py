"""The run report in a browser without a network: whole, silent, in both themes, and fitting into a phone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.run_report.page import render
from tests.browser.chromium import dom, needs_chromium, run, sticking_out
from tests.components.run_report.test_page import content

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refused model, with something in every section and long names."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(content(30, prefix="a_source_with_a_name_" * 3)), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_disk_without_an_error_or_a_request(page: Path, tmp_path: Path, dark: bool) -> None:
    html, console = dom(page, tmp_path, dark=dark)
    assert console == []
    for text in ("Refused", "min_mean_dice", "Agreement of volumes", "Calibration", "ich run --config run.yaml"):
        assert text in html
    assert html.count("<svg") >= 10 and html.rstrip().endswith("</html>")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_no_picture_is_broken_nothing_is_loaded(page: Path, tmp_path: Path, width: int) -> None:
    assert sticking_out(page, tmp_path, width) == []


def test_what_sticks_out_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "wide.html"
    path.write_text(
        "<!doctype html><title>x</title><meta http-equiv=x content=y><body><p style='width:900px'>x</p>"
        "<img src=gone.png></body>"
    )
    found = sticking_out(path, tmp_path, 390)
    assert any("900px" in str(item) for item in found) and any("broken" in str(item) for item in found)


@pytest.mark.parametrize(("dark", "brightness"), [(False, (225, 256)), (True, (0, 40))])
def test_both_themes_are_painted(page: Path, tmp_path: Path, dark: bool, brightness: tuple[int, int]) -> None:
    target = tmp_path / "shot.png"
    run(page, tmp_path / "profile", f"--screenshot={target}", dark=dark, height=1600)
    grey = np.asarray(Image.open(io.BytesIO(target.read_bytes())).convert("L"))
    assert brightness[0] <= np.median(grey) < brightness[1]
    assert grey.std() > 5
