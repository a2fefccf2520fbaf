"""A tab of headless Chromium without a network, read and used as by a person; Playwright drives it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BINARY = next((path for name in _NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(BINARY is None, reason="no chromium on PATH (Debian: apt-get install chromium)")

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
_FLAGS = (
    "--no-sandbox", "--disable-quic", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",  # WebGL on the processor
)  # fmt: skip
_PATIENCE_MS = 90_000
_SERIOUS = ("serious", "critical")


class Tab:
    """One page at a time.

    Attributes:
        page: Playwright's page.
        problems: Errors and warnings of its console, and exceptions that nobody caught.
        requests: What it asked for, without addresses that hold their content themselves.
    """

    page: Page

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.problems: list[str] = []
        self.requests: list[str] = []

    def open(
        self,
        where: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
        first: str = "",
    ) -> Page:
        """Loads a file or an address in a window of its own; what was open before is closed.

        Args:
            where: The file or address.
            width: Of the window in CSS pixels; a narrow one is a phone's.
            height: Likewise.
            dark: The reader prefers the dark theme.
            scripts: The page may run scripts.
            first: A script that runs before the page's own.
        """
        self.close()
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=width < 600, java_script_enabled=scripts,
            color_scheme="dark" if dark else "light", offline=isinstance(where, Path),
        )  # fmt: skip
        context.set_default_timeout(_PATIENCE_MS)
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._request)
        if first:
            self.page.add_init_script(first)
        self.page.goto(where.as_uri() if isinstance(where, Path) else where)
        return self.page

    def close(self) -> None:
        """Closes what is open, and forgets what it said."""
        for context in self._browser.contexts:
            context.close()
        self.problems.clear()
        self.requests.clear()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.problems.append(f"{message.text} {message.location.get('url', '')}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.requests.append(request.url)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is in the window, after scrolling to it."""
        x, y = self.page.evaluate(
            "(item => { item.scrollIntoView({block: 'center'}); const box = item.getBoundingClientRect(); return "
            f"[box.x + box.width / 2, box.y + box.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def press(self, *keys: str) -> None:
        """Presses keys where the focus is, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def picture(self, **part: float) -> np.ndarray:
        """What the window shows, uint8 of shape (height, width, 3).

        Args:
            **part: `x`, `y`, `width` and `height` of a part of the page, wherever the window stands.
        """
        # Two frames on, what the last event changed has been painted.
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")
        clip: Any = {"clip": part, "full_page": True} if part else {}
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(**clip))).convert("RGB"))

    def barriers(self) -> list[str]:
        """What axe-core finds to be a serious or critical barrier, with the elements concerned."""
        self.page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
        self.page.evaluate(AXE.read_text(encoding="utf-8") + "; null")
        found = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(item => "
            "[item.impact, item.id, item.help, item.nodes.slice(0, 3).map(node => node.html.slice(0, 160))]))"
        )
        return [f"{impact} {rule}: {text} {nodes}" for impact, rule, text, nodes in found if impact in _SERIOUS]

    def sticking_out(self) -> list[str]:
        """What is wrong with the width of a page, all its details opened, and its broken pictures."""
        self.page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
        inner, whole, wide, broken = self.page.evaluate(
            """[document.documentElement.clientWidth, document.documentElement.scrollWidth,
            [...document.querySelectorAll("body *")].filter(item =>
              !item.closest(".scroll, .skip, .unseen-text, thead") && item.getBoundingClientRect().right >
              document.documentElement.clientWidth + 1).map(item => item.outerHTML.slice(0, 80)),
            [...document.images].filter(item => item.complete && item.naturalWidth === 0).map(item => item.src)]"""
        )
        found = [f"sticks out: {item}" for item in wide] + [f"broken: {item}" for item in broken]
        return found + ([f"{whole} pixels wide in a window of {inner}"] if whole != inner else [])


@contextmanager
def chromium() -> Iterator[Tab]:
    """Starts the browser, and ends it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BINARY, args=list(_FLAGS))
        tab = Tab(browser)
        yield tab
        tab.close()
        browser.close()
