"""A page in headless Chromium, without a network: what it holds, what it logs, how it looks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BINARY = next((path for name in _NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(BINARY is None, reason="no chromium on PATH (Debian: apt-get install chromium)")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


_PROBE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(item =>
    !item.closest(".scroll, .skip, .unseen-text, thead") && item.getBoundingClientRect().right > innerWidth + 1);
  const broken = [...document.images].filter(image => image.complete && image.naturalWidth === 0);
  document.body.dataset.probe = JSON.stringify([innerWidth, document.documentElement.scrollWidth,
    wide.map(item => item.outerHTML.slice(0, 80)), broken.length, performance.getEntriesByType("resource")
    .map(entry => entry.name).filter(name => !name.startsWith("data:"))]);
});
</script>
"""


def run(
    page: Path, profile: Path, *flags: str, width: int = 1280, height: int = 1000, dark: bool = False
) -> tuple[str, str]:
    """Opens a file; returns standard output and what the page and its loading logged.

    Args:
        page: The file.
        profile: Folder for the browser's own files.
        *flags: What to do with it.
        width: Of the window in CSS pixels.
        height: Likewise.
        dark: Ask for the dark theme.
    """
    assert BINARY is not None
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [
        BINARY, *FLAGS, theme, f"--user-data-dir={profile}", f"--window-size={width},{height}",
        "--enable-logging=stderr", "--v=0", *flags, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(profile)}
    process = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout, process.stderr


def dom(page: Path, profile: Path, *flags: str, width: int = 1280, dark: bool = False) -> tuple[str, list[str]]:
    """The document after loading, and the lines of its console; arguments as of `run`."""
    html, log = run(page, profile, "--dump-dom", *flags, width=width, dark=dark)
    return html, re.findall(r".*CONSOLE.*", log)


def sticking_out(page: Path, folder: Path, width: int) -> list[object]:
    """What is wrong with a page of that width: elements beyond its edge, broken pictures, requests, console errors.

    Within a frame, as headless windows have a least width; the probe needs the policy lifted.

    Args:
        page: The file; all its details are opened.
        folder: For the browser's files and the frame.
        width: In CSS pixels.
    """
    html = page.read_text(encoding="utf-8")
    start = html.index("<meta http-equiv")
    html = html[:start] + html[html.index(">", start) + 1 :]
    html = html.replace("<details>", "<details open>").replace("</body>", _PROBE + "</body>")
    (folder / "probed.html").write_text(html, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        f"<!doctype html><title>x</title><iframe id=f src=probed.html style='width:{width}px;height:900px;border:0'>"
        "</iframe><script>f.onload = () => setTimeout(() => document.title = f.contentDocument.body.dataset.probe, 50)"
        "</script>"
    )
    shown, console = dom(
        frame, folder / "profile", "--allow-file-access-from-files", "--virtual-time-budget=5000", width=1400
    )
    title = unescape(shown[shown.index("<title>") + len("<title>") : shown.index("</title>")])
    inner, whole, wide, broken, requests = json.loads(title)
    found: list[object] = [*console, *wide, *requests]
    if (inner, whole) != (width, width):
        found.append(f"{whole} pixels wide in a window of {inner}, wanted {width}")
    return found + ([f"{broken} broken pictures"] if broken else [])
