"""Histograms as inline SVG that takes its colours and fonts from the page, so that one chart suits every theme."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.data_report.distributions import PREVIOUS

SVG = "http://www.w3.org/2000/svg"
_WIDTH_INCHES, _ROW_INCHES = 4.4, 0.46
_LABEL_INCHES, _UNIT_INCHES = 0.24, 0.14
# Colours that no plotting library uses by itself, each replaced by a variable of the page's style sheet.
_INK, _LINE = "#010203", "#010204"
_ROLES = {_INK: "currentColor", _LINE: "var(--line)"}
_GROUPS = {"train": "#010205", "val": "#010206", "test": "#010207", PREVIOUS: "#010208"}
_ROLES |= {colour: f"var(--{name})" for name, colour in _GROUPS.items()}
# Text stays text; a dollar sign in a name is no formula.
_SETTINGS: Any = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 8, "path.simplify": False}


def chart(distribution: Mapping[str, Any]) -> str:
    """One row of bars for each group on one axis; the bars are shares of the group's scans.

    Args:
        distribution: An entry of `distributions.distributions`.

    Returns:
        An `<svg>` element without ids, scripts, styles or references of its own.
    """
    groups = {name: group for name, group in distribution["groups"].items() if _size(group)}
    breaks = max((label.count("\n") for label in _labels(distribution)), default=0)
    foot = _LABEL_INCHES + (_UNIT_INCHES if distribution["unit"] else 0.0) + 0.13 * breaks
    height = _ROW_INCHES * len(groups) + foot
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_INCHES, height))
        FigureCanvasSVG(figure)
        rows = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=0.19, right=0.985, top=1 - 0.06 / height, bottom=foot / height, hspace=0.28)
        for axes, (name, group) in zip(rows, groups.items(), strict=True):
            _row(axes, distribution, group, _GROUPS[name])
            beyond = group["below"] + group["above"]
            lines = ((name, 8, 5), (f"{_size(group)} scans", 6.5, -4), (f"{beyond} beyond" if beyond else "", 6, -12))
            for text, size, drop in lines:
                axes.annotate(
                    text, (0, 0.5), xytext=(-6, drop), xycoords="axes fraction", textcoords="offset points",
                    ha="right", va="center", color=_INK, size=size,
                )  # fmt: skip
        _foot(rows[-1], distribution)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _themed(buffer.getvalue())


def _size(group: Mapping[str, Any]) -> int:
    return sum(group["counts"]) + group["below"] + group["above"]


def _row(axes: Axes, distribution: Mapping[str, Any], group: Mapping[str, Any], colour: str) -> None:
    shares = [count / _size(group) for count in group["counts"]]
    top = max(*shares, 1e-3) * 1.12
    if "edges" in distribution:
        edges = distribution["edges"]
        places = [(low, high - low) for low, high in pairwise(edges)]
        axes.set_xlim(edges[0], edges[-1])
    else:
        places = [(index - 0.36, 0.72) for index in range(len(shares))]
        axes.set_xlim(-0.5, max(len(shares), 3) - 0.5)
    for (left, width), share in zip(places, shares, strict=True):
        if share:
            # The line around it keeps a bar of one scan among hundreds visible.
            axes.bar(left, share, width, align="edge", color=colour, edgecolor=colour, linewidth=0.7)
    if "edges" in distribution:
        median = group["summary"]["median"]
        if edges[0] <= median <= edges[-1]:
            axes.plot([median] * 2, [0, top], color=_INK, linewidth=1.1)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=_LINE, linewidth=0.8)
    # Marks on the axis would be definitions that several charts on one page share by name.
    axes.tick_params(axis="x", length=0, labelbottom=False)
    for artist in (*axes.patches, *axes.lines):
        artist.set_clip_on(False)


def _foot(axes: Axes, distribution: Mapping[str, Any]) -> None:
    axes.tick_params(axis="x", labelbottom=True, pad=3, colors=_INK)
    if "labels" in distribution:
        labels = _labels(distribution)
        axes.set_xticks(range(len(labels)), labels)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if distribution["unit"]:
        axes.set_xlabel(distribution["unit"], color=_INK, labelpad=1)


def _labels(distribution: Mapping[str, Any]) -> list[str]:
    """Class names, a matrix on two lines: eight of them stand side by side."""
    return [label.replace(" × ", "\n× ") for label in distribution.get("labels", ())]


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
            size = next((part.split()[1] for part in parts if part.startswith("font: ")), "8px")
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
