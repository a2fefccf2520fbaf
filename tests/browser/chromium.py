"""A page in headless Chromium, without a network: what it holds, what it logs, how it looks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BINARY = next((path for name in _NAMES if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(BINARY is None, reason="no chromium on PATH (Debian: apt-get install chromium)")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


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
        BINARY, *_FLAGS, theme, f"--user-data-dir={profile}", f"--window-size={width},{height}",
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
