"""Spans: deliveries of data below one folder, told apart by a number or by a date in the layout."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

from components.imaging.errors import UsageError

NUMBER = "{SPAN}"
DATE = ("{YYYY}", "{MM}", "{DD}")
EXPRESSIONS = {
    NUMBER: r"(?P<SPAN>\d+)",
    "{YYYY}": r"(?P<YYYY>\d{4})",
    "{MM}": r"(?P<MM>\d{2})",
    "{DD}": r"(?P<DD>\d{2})",
}
"""Regular expression of each placeholder, with a group of its name."""

EPOCH = datetime.date(1970, 1, 1)


def placeholders(pattern: str) -> tuple[str, ...]:
    """The span placeholders of a layout pattern: none, the number, or the three of a date.

    Raises:
        ValueError: A placeholder stands there twice, a date is incomplete, or there are both.
    """
    found = tuple(name for name in EXPRESSIONS if name in pattern)
    if any(pattern.count(name) > 1 for name in found):
        raise ValueError(f"may contain each of {', '.join(found)} only once")
    if found not in ((), (NUMBER,), DATE):
        raise ValueError(f"may tell spans by {NUMBER} or by all of {', '.join(DATE)}, found {', '.join(found)}")
    return found


def span_of(groups: Mapping[str, str | None], path: str) -> int:
    """The span that a file belongs to.

    Args:
        groups: What the placeholders of the pattern matched.
        path: The file, for messages.

    Returns:
        The number, or the days since 1970-01-01 as TFX counts dates; 0 where the layout has no spans.

    Raises:
        UsageError: The path holds a date that is none.
    """
    if groups.get("SPAN") is not None:
        return int(str(groups["SPAN"]))
    if groups.get("YYYY") is None:
        return 0
    year, month, day = (str(groups[name.strip("{}")]) for name in DATE)
    try:
        return (datetime.date(int(year), int(month), int(day)) - EPOCH).days
    except ValueError:
        raise UsageError(f"{path}: {year}-{month}-{day} is no date; rename the folder, or mend the layout") from None


def span_name(span: int, pattern: str) -> str:
    """A span as a person writes it: its number, or its date."""
    if DATE[0] in pattern:
        return (EPOCH + datetime.timedelta(days=span)).isoformat()
    return str(span)


def without_spans(pattern: str) -> str:
    """The pattern with a star for each span placeholder."""
    return re.sub("|".join(map(re.escape, EXPRESSIONS)), "*", pattern)
