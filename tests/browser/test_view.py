"""The page of `ich view` in a browser: what it draws, which way round, what its controls and keys do, what it loads."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from serving.viewer.scene import COLOURS, WINDOWS, Scene, open_scene
from serving.viewer.server import File, Server, files_of
from tests.browser.chromium import Tab, needs_chromium
from tests.cases import SHAPE, SPACING_MM, Sample, cuboid
from tests.imaging.scans import ellipse_head, lps_affine, rotated, save, stored_as, to_lps

pytestmark = needs_chromium
BLOOD = [cuboid((1, 4), (24, 36), (36, 50)), cuboid((4, 5), (44, 48), (16, 22))]
SIZE = (1000, 700)

Opened = Callable[..., AbstractContextManager[tuple[Tab, Server]]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two components on a small grid; a second mask has one of them."""
    folder = tmp_path_factory.mktemp("scan")
    Sample("a", BLOOD, BLOOD).save(folder / "head.nii.gz", folder / "drawn.nii.gz")
    Sample("a", BLOOD, BLOOD[1:]).save(folder / "same.nii.gz", folder / "found.nii.gz")
    return open_scene(folder / "head.nii.gz", [folder / "drawn.nii.gz", folder / "found.nii.gz"])


@pytest.fixture
def shown(tab: Tab) -> Opened:
    """Shows a scene, or the files of one, and waits until it is drawn; afterwards nothing may have gone wrong."""

    @contextmanager
    def show(
        what: Scene | dict[str, File], *, ready: bool = True, width: int = 1000, dark: bool = False, first: str = ""
    ) -> Iterator[tuple[Tab, Server]]:
        with Server(files_of(what) if isinstance(what, Scene) else what) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            page = tab.open(server.url, width=width, height=700, dark=dark, first=first)
            if ready:
                page.wait_for_selector("body[data-ready=true]")
            yield tab, server
            if ready:
                assert not [one for one in tab.problems if "ReadPixels" not in one]  # of taking the screenshot
            assert tab.requests and all(url.startswith(server.url) for url in tab.requests)
            tab.close()
            server.shutdown()

    return show


def picture(tab: Tab) -> np.ndarray:
    """What the canvas shows, float of shape (height, width, 3)."""
    box = tab.page.evaluate("(({x, y, width, height}) => [x, y, width, height])($('picture').getBoundingClientRect())")
    x, y, width, height = (round(value) for value in box)
    return tab.picture()[y : y + height, x : x + width].astype(float)


def red(shot: np.ndarray) -> float:
    """How much red there is beyond grey; the crosshair and the letters are of other colours."""
    return float(np.clip(shot[..., 0] - shot[..., 1:].max(axis=-1), 0, None).sum())


def window(page: Page) -> tuple[float, float]:
    """Level and width of what is drawn."""
    low, high = page.evaluate("[nv.volumes[0].cal_min, nv.volumes[0].cal_max]")
    return (low + high) / 2, high - low


def test_it_draws_three_planes_and_3d_without_an_error_or_a_request_elsewhere(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, server):
        page = tab.page
        shot = picture(tab)
        middle, across = shot.shape[0] // 2, shot.shape[1] // 2
        for part in (shot[:middle, :across], shot[:middle, across:], shot[middle:, :across], shot[middle:, across:]):
            assert part.std() > 20
        names = [url.removeprefix(server.url) for url in tab.requests]
        assert sorted(names) == sorted(set(files_of(scene)) - {"licences.txt"})
        assert page.evaluate("document.title") == "head.nii.gz – ich view"
        text = page.evaluate("document.body.innerText")
        for words in ("head.nii.gz", "64 × 64 × 5 voxels of 3 × 3 × 5 mm", "drawn.nii.gz", "found.nii.gz",
                      "23.8 ml in 2 components", "1.1 ml in 1 component", "Not a medical device"):  # fmt: skip
            assert words in text
        assert page.evaluate("[...document.querySelectorAll('#masks button')].map(one => one.textContent)") == [
            "1: 22.7 ml, 55 mm across", "2: 1.1 ml, 22 mm across", "1: 1.1 ml, 22 mm across"
        ]  # fmt: skip


def test_windows_by_name_and_by_number(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        before = picture(tab)
        assert window(page) == (40, 80)
        for position, wanted in reversed(list(enumerate(WINDOWS))):
            page.click(f"input[name=window][value='{position}']")
            assert window(page) == (wanted.level, wanted.width)
            assert page.evaluate("[Number($('level').value), Number($('width').value)]") == [wanted.level, wanted.width]
            after = picture(tab)
            assert np.abs(after - before).mean() > 1 or position == 0
            if position == 2:  # brain of 35 HU, in the middle of the axial slice
                assert np.median(after[after > 20]) == pytest.approx((35 + 500) / 2000 * 255, abs=12)
        np.testing.assert_allclose(picture(tab), before, atol=2)  # the brain window, back again
        page.evaluate("$('level').value = 300; $('level').dispatchEvent(new Event('change'))")
        assert window(page) == (300, 80)
        assert page.evaluate("document.querySelector('input[name=window]:checked')") is None


def test_opacity_masks_and_outlines(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        page.evaluate("setView(1)")
        half = red(picture(tab))

        def opacity(percent: int) -> float:
            page.evaluate(f"$('opacity').value = {percent}; $('opacity').dispatchEvent(new Event('input'))")
            assert page.evaluate("$('opacity-value').textContent") == f"{percent} %"
            return red(picture(tab))

        none, full = opacity(0), opacity(100)
        assert none < 0.02 * half and full > 1.5 * half > 0
        page.click("#outline")
        assert 0.1 * full < red(picture(tab)) < 0.8 * full
        page.click("#outline")
        assert red(picture(tab)) == pytest.approx(full, rel=0.02)
        page.click("#mask-0")
        assert red(picture(tab)) < 0.02 * half


def test_both_masks_are_drawn_in_their_colours(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        page.evaluate("setView(1); $('opacity').value = 100; setOpacity(); goToComponent(2); nv.setCrosshairWidth(0)")
        shot = picture(tab)
        assert [(np.abs(shot - colour).max(axis=-1) < 12).sum() > 50 for colour in COLOURS[:3]] == [False, True, False]
        page.evaluate("goToComponent(0)")
        shot = picture(tab)
        assert (np.abs(shot - COLOURS[0]).max(axis=-1) < 12).sum() > 50


def test_a_component_in_the_list_is_gone_to(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        for number, (mask, place) in enumerate([(0, 0), (0, 1), (1, 0)]):
            page.click(f"#masks > li:nth-child({mask + 1}) li:nth-child({place + 1}) button")
            wanted = scene.masks[mask].places[place]
            np.testing.assert_allclose(
                page.evaluate("[...nv.frac2mm(nv.scene.crosshairPos, 0, true)].slice(0, 3)"), wanted, atol=0.01
            )
            where = page.evaluate("$('where').textContent")
            found = re.fullmatch(r"(\S+) ([RL]), (\S+) ([AP]), (\S+) ([SI]) mm: 70 HU, in drawn\.nii\.gz.*", where)
            assert found, where
            signed = [float(found[i]) * (1 if found[i + 1] in "RAS" else -1) for i in (1, 3, 5)]
            np.testing.assert_allclose(signed, wanted, atol=0.06)
            assert ("found.nii.gz" in where) == (number > 0)
            inside = np.linalg.inv(scene.volume.affine) @ [*wanted, 1]
            assert page.evaluate("$('slice-name').textContent") == f"Axial slice {round(inside[2]) + 1} of 5"
            marked = page.evaluate("[...document.querySelectorAll('[aria-current=true]')].length")
            assert marked == 1


def test_keys_in_the_picture(scene: Scene, shown: Opened) -> None:
    voxel = "[...nv.frac2vox(nv.scene.crosshairPos)]"
    with shown(scene) as (tab, _):
        page = tab.page
        page.evaluate("$('picture').focus()")
        tab.press("3")
        assert window(page) == (500, 2000)
        tab.press("1")
        assert window(page) == (40, 80)
        for key, step in (("ArrowLeft", (1, 0, 0)), ("ArrowUp", (0, 1, 0)), ("ArrowRight", (-1, 0, 0)),
                          ("ArrowDown", (0, -1, 0)), ("PageUp", (0, 0, 1)), ("PageDown", (0, 0, -1))):  # fmt: skip
            before = page.evaluate(voxel)  # right, anterior, superior; the patient's right is on the left
            tab.press(key)
            assert tuple(np.subtract(page.evaluate(voxel), before)) == step, key
        tab.press("n")
        assert page.evaluate("current") == 1
        tab.press("Shift+N")
        tab.press("Shift+N")
        assert page.evaluate("current") == 2
        shot = picture(tab)
        tab.press("m")
        assert page.evaluate("[$('mask-0').checked, $('mask-1').checked]") == [False, False]
        assert np.abs(picture(tab) - shot).max() > 50
        tab.press("m")
        assert page.evaluate("[$('mask-0').checked, $('mask-1').checked]") == [True, True]
        for wanted in ("AXIAL", "CORONAL", "SAGITTAL", "RENDER"):
            tab.press("v")
            assert page.evaluate("view") == wanted
        turned = page.evaluate("nv.scene.renderAzimuth")
        tab.press("ArrowRight")
        assert page.evaluate("nv.scene.renderAzimuth") != turned
        tab.press("v")
        assert page.evaluate("[view, document.activeElement.id]") == ["MULTIPLANAR", "picture"]


def test_everything_can_be_reached_and_used_with_the_keyboard_alone(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        reached: list[str] = []
        for _ in range(40):
            tab.press("Tab")
            item = page.evaluate("(one => one.id || one.name || one.textContent.trim())(document.activeElement)")
            if reached and item == reached[0]:
                break
            reached.append(item)
        for wanted in (
            "To the picture", "picture", "window", "level", "width", "view", "slice", "radiological", "cut", "opacity",
            "outline", "mask-0", "mask-1", "1: 22.7 ml, 55 mm across", "Keys and mouse",
        ):  # fmt: skip
            assert wanted in reached, (wanted, reached)
        page.evaluate("document.querySelector('input[name=window]:checked').focus()")
        tab.press("ArrowRight")
        assert window(page) == (50, 130)
        page.evaluate("$('slice').focus()")
        before = page.evaluate("$('slice-name').textContent")
        tab.press("ArrowRight")
        assert page.evaluate("$('slice-name').textContent") != before
        page.evaluate("document.querySelectorAll('#masks button')[1].focus()")
        tab.press("Enter")
        assert page.evaluate("current") == 1


def test_every_control_has_a_name(scene: Scene, shown: Opened) -> None:
    with shown(scene) as (tab, _):
        page = tab.page
        nodes: list[dict[str, Any]] = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        controls = {"button", "checkbox", "radio", "slider", "spinbutton", "application", "link", "DisclosureTriangle"}
        found = [node for node in nodes if node.get("role", {}).get("value") in controls and not node["ignored"]]
        assert {node["role"]["value"] for node in found} == controls
        assert not [node for node in found if not node["name"]["value"].strip()]
        names = [node["name"]["value"] for node in found]
        assert "Go to component 2: 1.1 ml, 22 mm across of drawn.nii.gz" in names


@pytest.mark.parametrize(
    ("codes", "turned"),
    [("LPS", (0, 0, 0)), ("RAS", (0, 0, 0)), ("ARI", (0, 0, 0)), ("LPS", (14, -9, 20)), ("RSP", (-12, 8, -25))],
)  # fmt: skip
def test_left_is_left_however_the_scan_is_stored(
    shown: Opened, tmp_path: Path, codes: str, turned: tuple[float, float, float]
) -> None:
    """A bright block on the patient's left, in front and above: where it is drawn, and which letters are beside it."""
    head = ellipse_head((9, *SHAPE[1:]), SPACING_MM)
    head[6:8, 16:22, 44:50] = 3000
    scan = save(
        tmp_path / "scan.nii.gz",
        *stored_as(to_lps(head), rotated(lps_affine(SPACING_MM), turned), codes),
    )
    with shown(open_scene(scan)) as (tab, _):
        page = tab.page
        page.evaluate("setWindow(2000, 1000); nv.setCrosshairWidth(0)")
        at = np.argwhere(open_scene(scan).volume.data == 3000).mean(axis=0)
        affine = open_scene(scan).volume.affine
        page.evaluate(f"goTo({(affine[:3, :3] @ at + affine[:3, 3]).tolist()})")
        page.evaluate(
            "window.letters = {}; for (const side of ['Right', 'Left', 'Below', 'Above']) "
            "{ const name = `drawText${side}`; const draw = nv[name].bind(nv); nv[name] = (at, text, ...more) => { "
            "letters[text] = [...at]; return draw(at, text, ...more); }; } null"
        )

        def block(index: int) -> tuple[np.ndarray, np.ndarray]:
            page.evaluate(f"window.letters = {{}}; setView({index}); nv.drawScene()")
            shot = picture(tab)
            bright = np.argwhere((shot > 250).all(axis=-1))
            assert len(bright) > 20
            return bright.mean(axis=0), np.array(shot.shape[:2]) / 2

        letters = "Object.fromEntries(Object.entries(letters))"
        (y, x), (middle, across) = block(1)
        assert x > across * 1.1 and y < middle * 0.9
        found = page.evaluate(letters)
        assert found["R"][0] < across < found["L"][0] and found["A"][1] < middle < found["P"][1]
        (y, x), (middle, across) = block(2)
        assert x > across * 1.1 and y < middle
        found = page.evaluate(letters)
        assert found["R"][0] < across < found["L"][0] and found["S"][1] < middle < found["I"][1]
        page.click("#radiological")
        (y, x), (middle, across) = block(1)
        assert x < across * 0.9 and y < middle * 0.9
        found = page.evaluate(letters)
        assert found["L"][0] < across < found["R"][0]


@pytest.mark.parametrize(("dark", "brightness"), [(False, (225, 256)), (True, (0, 45))])
def test_both_themes(scene: Scene, shown: Opened, dark: bool, brightness: tuple[int, int]) -> None:
    with shown(scene, dark=dark) as (tab, _):
        shot = tab.picture()
        assert brightness[0] <= np.median(shot[:, -300:]) < brightness[1]
        assert shot[:, -300:].std() > 5


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(scene: Scene, shown: Opened, width: int) -> None:
    with shown(replace(scene, name="a-very-long-name-of-a-file-" * 8), width=width) as (tab, _):
        page = tab.page
        page.evaluate("$('keys').open = true")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        wide = (
            "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
        )
        assert page.evaluate(f"{wide}.filter(one => !one.closest('.skip')).map(one => one.outerHTML)") == []
        assert picture(tab).std() > 20


def test_names_are_text(scene: Scene, shown: Opened) -> None:
    name = "<img src=x onerror=alert(1)>.nii.gz"
    masks = (replace(scene.masks[0], name=name),)
    with shown(replace(scene, name=name, masks=masks)) as (tab, _):
        page = tab.page
        assert page.evaluate("[document.images.length, $('name').textContent, document.title]") == [
            0,
            name,
            f"{name} – ich view",
        ]
        assert name in page.evaluate("$('masks').textContent")


def test_a_scan_without_masks(scene: Scene, shown: Opened) -> None:
    with shown(replace(scene, masks=())) as (tab, _):
        page = tab.page
        assert "None given." in page.evaluate("document.body.innerText")
        assert page.evaluate("$('some').checkVisibility()") is False
        page.evaluate("$('picture').focus()")
        for key in ("n", "m", "2"):
            tab.press(key)
        assert window(page) == (50, 130)
        assert picture(tab).std() > 20


def test_what_cannot_be_shown_says_so(scene: Scene, shown: Opened) -> None:
    content = files_of(scene)
    del content["scan.nii"]
    with shown(content, ready=False) as (tab, _):
        page = tab.page
        page.wait_for_selector("#message:text-matches('^Cannot be shown: ')")
    content = files_of(scene)
    without = "HTMLCanvasElement.prototype.getContext = () => null"
    with shown(content, ready=False, first=without) as (tab, _):
        page = tab.page
        page.wait_for_selector("#message:has-text('no WebGL 2')")
        assert page.evaluate("$('message').textContent").endswith("ich view --png writes pictures without it.")
