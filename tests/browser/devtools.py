"""A tab of headless Chromium that is driven as by a reader: real keys, wheel and themes, over Chromium's own pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_core_python

from tests.browser.chromium import BINARY, FLAGS

AXE = Path(axe_core_python.__file__).with_name("axe.min.js")
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "PageUp": 33, "PageDown": 34, "End": 35,
         "Home": 36, "Tab": 9}  # fmt: skip
_PATIENCE = 60
_HAND_OVER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
for place, pipe in enumerate(pipes, 3):
    os.dup2(pipe, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes answers to 4."""
_SERIOUS = ("serious", "critical")


class Tab:
    """One page.

    Attributes:
        troubles: Errors and warnings of the console, exceptions, and what was asked of a network.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._loaded = False
        self._number = 0
        self._session = ""
        self.troubles: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer; events in between are looked at."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
            self._look_at(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._answers], [], [], _PATIENCE)[0], f"the browser is silent for {_PATIENCE} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _look_at(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.troubles.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.troubles.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.troubles.append(str(params["args"]))
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "file:")):
            self.troubles.append(params["request"]["url"])

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Loads a file in a window of that size and theme; a narrow one is a phone's."""
        if not self._session:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
        self.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])
        self._loaded = False
        self.send("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._look_at(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """Presses a key, so often."""
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is in the window, after scrolling to it."""
        x, y = self.evaluate(
            "(item => { item.scrollIntoView({block: 'center'}); const box = item.getBoundingClientRect(); return "
            f"[box.x + box.width / 2, box.y + box.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """An event of the mouse: `mousePressed`, `mouseMoved`, `mouseReleased` or `mouseWheel`."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector: str) -> None:
        """Clicks on the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def barriers(self) -> list[str]:
        """What axe-core finds to be a serious or critical barrier, with the elements concerned."""
        self.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
        self.evaluate(AXE.read_text(encoding="utf-8") + "; null")
        found = self.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(item => "
            "[item.impact, item.id, item.help, item.nodes.slice(0, 3).map(node => node.html.slice(0, 160))]))"
        )
        return [f"{impact} {rule}: {text} {nodes}" for impact, rule, text, nodes in found if impact in _SERIOUS]

    def screenshot(self, path: Path, **clip: Any) -> None:
        """Saves what the window shows, or a part of the page."""
        more: dict[str, Any] = {"clip": {"scale": 1, **clip}, "captureBeyondViewport": True} if clip else {}
        data = self.send("Page.captureScreenshot", format=path.suffix[1:].replace("jpg", "jpeg"), **more)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A browser without a network.

    Args:
        profile: Folder for its files.
    """
    assert BINARY is not None
    to_browser, from_browser = os.pipe(), os.pipe()

    command = [BINARY, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    pipes = to_browser[0], from_browser[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _HAND_OVER, *map(str, pipes), *command], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=pipes, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    opened = Tab(to_browser[1], from_browser[0])
    try:
        yield opened
        opened._session = ""
        opened.send("Browser.close")
    finally:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
