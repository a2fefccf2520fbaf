"""The run report's strips under a reader's hands: slider, keys, wheel, finger, and without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.run_report.page import render
from tests.browser.chromium import Tab, needs_chromium
from tests.components.run_report.test_page import content

pytestmark = needs_chromium
STAGE = ".viewer:nth-of-type(2) .stage"
SLIDER = ".viewer:nth-of-type(2) input"
SHOWN = """() => [...document.querySelectorAll('.viewer')].map(viewer => [...viewer.querySelectorAll('.slices > li')]
    .map((slice, index) => slice.offsetParent ? index : -1).filter(index => index >= 0))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four strips of twelve slices."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(content(30, drawn={"slices": 12})), encoding="utf-8")
    return path


@pytest.fixture
def opened(tab: Tab, page: Path) -> Tab:
    """The page, as if never touched, on a screen."""
    tab.open(page)
    return tab


def second(opened: Tab) -> int:
    """The slice of the second strip on top; all others must show what they did at first."""
    others: list[Any] = opened.page.evaluate(SHOWN)
    (found,) = others.pop(1)
    assert others == [[6]] * 3
    slider, said, output = opened.page.evaluate(
        f"(item => [Number(item.value), item.getAttribute('aria-valuetext'),"
        f" item.parentElement.querySelector('output').textContent])(document.querySelector('{SLIDER}'))"
    )
    assert (slider, said, output) == (found, f"{found + 1} of 12", f"{found + 1} of 12")
    return int(found)


def test_each_strip_starts_at_its_largest_lesion(opened: Tab) -> None:
    assert opened.page.evaluate(SHOWN) == [[6]] * 4
    assert opened.page.evaluate("document.querySelectorAll('.viewer.stacked .controls:not([hidden])').length") == 4
    assert opened.problems == []


def test_the_arrow_keys_go_from_slice_to_slice(opened: Tab) -> None:
    opened.page.click(STAGE)
    opened.press("ArrowRight", "ArrowRight", "ArrowUp")
    assert second(opened) == 9
    opened.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowDown")
    assert second(opened) == 5
    for key, wanted in (("End", 11), ("ArrowRight", 11), ("PageDown", 6), ("Home", 0), ("ArrowLeft", 0), ("PageUp", 5)):
        opened.press(key)
        assert second(opened) == wanted, key


def test_without_a_mouse_one_gets_to_the_pictures_and_the_slider(opened: Tab) -> None:
    opened.page.evaluate("document.querySelector('.viewer input').focus()")
    opened.press("ArrowRight")  # the slider's own key
    assert opened.page.evaluate(SHOWN)[0] == [7]
    opened.press("Tab")
    assert opened.page.evaluate("document.activeElement.classList.contains('stage')")
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    opened.press("ArrowRight")
    assert opened.page.evaluate(SHOWN)[0] == [8]
    assert outline == "solid"  # one sees where one is
    opened.press("Tab")
    assert opened.page.evaluate("document.activeElement.id") == "slice-2"


def test_the_wheel_turns_what_was_clicked_on_and_else_the_page(opened: Tab) -> None:
    page = opened.page
    page.mouse.move(*opened.middle(STAGE))
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 60)
    page.wait_for_timeout(400)
    assert second(opened) == 6 and page.evaluate("scrollY") > before
    page.click(STAGE)
    page.mouse.move(*opened.middle(STAGE))
    before = page.evaluate("scrollY")
    for _ in range(3):
        page.mouse.wheel(0, 60)
        page.wait_for_timeout(50)
    assert second(opened) == 9 and page.evaluate("scrollY") == before
    opened.press("End")
    page.mouse.wheel(0, 60)  # at its end the stack holds nobody
    page.wait_for_timeout(400)
    assert second(opened) == 11 and page.evaluate("scrollY") > before


def test_a_drag_sideways_goes_through_the_slices(opened: Tab) -> None:
    x, y = opened.middle(STAGE)
    width = opened.page.evaluate(f"document.querySelector('{STAGE}').clientWidth")
    mouse = opened.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 3.1 * width / 12, y)
    mouse.up()
    mouse.move(x - 200, y)  # a hand that let go
    assert second(opened) == 9


@pytest.mark.parametrize(("width", "columns"), [(1280, 4), (390, 2)])
def test_the_four_pictures_of_a_slice_are_painted(tab: Tab, page: Path, width: int, columns: int) -> None:
    """CT alone is grey; truth, prediction and errors have their colours; on a phone there are two in a row."""
    boxes = tab.open(page, width=width).evaluate(
        "[...document.querySelectorAll('.viewer:nth-of-type(2) li.shown .panel')].map(panel => {"
        "const box = panel.getBoundingClientRect(); return [box.x, box.y + scrollY, box.width, box.height]})"
    )
    assert len(boxes) == 4 and len({round(y) for _, y, _, _ in boxes}) == 4 // columns
    colours = []
    for x, y, wide, high in boxes:
        picture = tab.picture(x=x, y=y, width=wide, height=high).astype(int)
        assert picture.std() > 20
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        colours.append(
            {
                "blue": int(((blue - red) > 60).sum()),
                "yellow": int((np.minimum(red, green) - blue > 60).sum()),
                "red": int((red - np.maximum(green, blue) > 60).sum()),
            }
        )
    seen = [{name for name, count in found.items() if count > 20} for found in colours]
    assert seen == [set(), {"blue"}, {"yellow"}, {"blue", "red"}]
    assert tab.problems == []


def test_without_scripts_the_slices_lie_side_by_side(tab: Tab, page: Path) -> None:
    opened = tab.open(page, width=390, scripts=False)
    assert opened.evaluate(SHOWN) == [list(range(12))] * 4
    assert opened.evaluate("document.querySelectorAll('.controls:not([hidden])').length") == 0
    wide, inner = opened.evaluate(f"(item => [item.scrollWidth, item.clientWidth])(document.querySelector('{STAGE}'))")
    assert wide > 11 * inner and opened.evaluate("document.documentElement.scrollWidth") == 390
