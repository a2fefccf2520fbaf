"""The browser that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.chromium import Tab, chromium


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """Of one module: while it is open, nothing else of this process can use asyncio."""
    with chromium() as opened:
        yield opened
