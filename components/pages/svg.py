"""Drawings as inline SVG that takes its colours and fonts from the page, so that one chart suits every theme."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
_NAMES = ("ink", "line", "train", "val", "test", "previous", "clean", "notes", "held", "stopped")
COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(_NAMES, 3)}
"""Colours to draw with, which no plotting library uses by itself: each becomes that name's of the style sheet."""

INK, LINE = COLOURS["ink"], COLOURS["line"]
_ROLES = {colour: "currentColor" if name == "ink" else f"var(--{name})" for name, colour in COLOURS.items()}
# Text stays text; a dollar sign in a name is no formula.
_SETTINGS: Any = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 8, "path.simplify": False}


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure to draw on, of so many inches; `as_svg` ends it."""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        yield figure


def as_svg(figure: Figure) -> str:
    """The drawing as an `<svg>` element without ids, scripts, styles or references of its own."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _themed(buffer.getvalue())


def bare(axes: Axes, *, grid: str = "") -> None:
    """Axes as quiet lines without marks, which would be definitions that several charts share by name.

    Args:
        axes: To change.
        grid: `x`, `y` or `both` for lines across; none by default.
    """
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=LINE, linewidth=0.8)
    axes.tick_params(length=0, colors=INK, pad=3)
    if grid:
        axes.grid(axis=grid, color=LINE, linewidth=0.5)  # type: ignore[arg-type]
        axes.set_axisbelow(True)


def unclipped(axes: Axes) -> None:
    """Lets everything drawn so far stick out: to clip it takes a definition with an id."""
    for artist in (*axes.patches, *axes.lines, *axes.collections):
        artist.set_clip_on(False)


def _themed(svg: bytes) -> str:
    """The drawing without metadata, ids and styles, with the page's colours and font."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}defs"):
                parent.remove(child)
    for element in root.iter():
        element.attrib.pop("id", None)
        element.attrib.pop("clip-path", None)
        style = element.get("style")
        if element.tag == f"{{{SVG}}}text" and style:
            parts = [part.strip() for part in style.split(";")]
            # Versions of matplotlib differ in how they write it; as in `font: 8px 'DejaVu Sans'` it comes first.
            sizes = [part.split()[1] for part in parts if part.startswith(("font: ", "font-size: "))]
            size = sizes[0] if sizes else "8px"
            kept = [part for part in parts if not part.startswith(("font: ", "font-size", "font-family"))]
            style = "; ".join([f"font-size: {size}", *kept])
            if "fill" not in style:
                style += "; fill: currentColor"
        if style:
            for colour, role in _ROLES.items():
                style = style.replace(colour, role)
            element.set("style", style)
    _prune(root)
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    return ET.tostring(root, encoding="unicode")


def _prune(element: ET.Element) -> None:
    """Drops what draws nothing, from the leaves up, and the white space between elements."""
    for child in list(element):
        _prune(child)
        invisible = child.get("style") == "fill: none"
        if invisible or (child.tag == f"{{{SVG}}}g" and not len(child)):
            element.remove(child)
    element.tail = None
    if element.tag != f"{{{SVG}}}text":
        element.text = None
