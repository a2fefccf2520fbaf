"""Templates of pages, and figures as text."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent
_DIGITS = ((1000, 0), (100, 1), (1, 2))
"""Digits after the point, by the least size of the number."""


def environment(folder: Path) -> Environment:
    """Reads the templates of a folder; text is escaped, and whatever is missing is an error."""
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"number": number, "percent": percent, "sentence": sentence}
    return made


def style(*more: Path) -> Markup:
    """The style sheet of all pages, and further ones after it."""
    return Markup("".join(path.read_text(encoding="utf-8") for path in (_FOLDER / "page.css", *more)))


def script(path: Path) -> tuple[Markup, str]:
    """A script of a page, and what its content security policy must allow so that it runs, and nothing else does.

    Args:
        path: The script.

    Returns:
        The text for a `<script>` element, and the source for `script-src`.
    """
    text = path.read_text(encoding="utf-8")
    return Markup(text), f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def sentence(text: str) -> str:
    """With a capital first; the rest as it is."""
    return text[:1].upper() + text[1:]


def number(value: Any) -> str:
    """A figure with three or four digits that count, and thin spaces between thousands; a dash for none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int) or value == int(value):
        text = f"{value:,.0f}"
    elif abs(value) < 1:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{next(digits for least, digits in _DIGITS if abs(value) >= least)}f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")


def percent(part: float, whole: float) -> str:
    """A share, such as `12 %`; a dash of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f}\N{NARROW NO-BREAK SPACE}%" if share >= 1 or not part else "< 1\N{NARROW NO-BREAK SPACE}%"
