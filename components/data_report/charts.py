"""Histograms of the cohort as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from components.data_report.distributions import PREVIOUS
from components.pages.svg import COLOURS, INK, LINE, as_svg, drawing, unclipped
from schema.features import SPLITS

_WIDTH_INCHES, _ROW_INCHES = 4.4, 0.46
_LABEL_INCHES, _UNIT_INCHES = 0.24, 0.14
_GROUPS = {name: COLOURS[name] for name in (*SPLITS, PREVIOUS)}


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
    with drawing(_WIDTH_INCHES, height) as figure:
        rows = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=0.19, right=0.985, top=1 - 0.06 / height, bottom=foot / height, hspace=0.28)
        for axes, (name, group) in zip(rows, groups.items(), strict=True):
            _row(axes, distribution, group, _GROUPS[name])
            beyond = group["below"] + group["above"]
            lines = ((name, 8, 5), (f"{_size(group)} scans", 6.5, -4), (f"{beyond} beyond" if beyond else "", 6, -12))
            for text, size, drop in lines:
                axes.annotate(
                    text, (0, 0.5), xytext=(-6, drop), xycoords="axes fraction", textcoords="offset points",
                    ha="right", va="center", color=INK, size=size,
                )  # fmt: skip
        _foot(rows[-1], distribution)
        return as_svg(figure)


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
            axes.plot([median] * 2, [0, top], color=INK, linewidth=1.1)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=LINE, linewidth=0.8)
    # Marks on the axis would be definitions that several charts on one page share by name.
    axes.tick_params(axis="x", length=0, labelbottom=False)
    unclipped(axes)


def _foot(axes: Axes, distribution: Mapping[str, Any]) -> None:
    axes.tick_params(axis="x", labelbottom=True, pad=3, colors=INK)
    if "labels" in distribution:
        labels = _labels(distribution)
        axes.set_xticks(range(len(labels)), labels)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if distribution["unit"]:
        axes.set_xlabel(distribution["unit"], color=INK, labelpad=1)


def _labels(distribution: Mapping[str, Any]) -> list[str]:
    """Class names, a matrix on two lines: eight of them stand side by side."""
    return [label.replace(" × ", "\n× ") for label in distribution.get("labels", ())]
