"""A hash of our own code, because TFX's cache key knows a component's parameters but not what it does."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SOURCES = (".py", ".pbtxt", ".j2", ".css", ".js")


def all_parts() -> list[str]:
    """Everything that `code_version` can hash."""
    components = sorted(path.parent.name for path in ROOT.glob("components/*/__init__.py"))
    return ["schema", "serving", "pipeline", *components]


@cache
def code_version(*parts: str) -> str:
    """Hash of the sources of some parts, without their subfolders (the phantoms of `imaging` shape no model).

    Args:
        *parts: Folders below `components/`, or `schema`, `serving`, `pipeline` and folders below these.

    Returns:
        16 hexadecimal digits; other code, other digits.
    """
    digest = hashlib.sha256()
    for part in sorted(parts):
        top = part.partition("/")[0] in ("schema", "serving", "pipeline")
        folder = ROOT / part if top else ROOT / "components" / part
        sources = sorted(path for path in folder.glob("*") if path.suffix in _SOURCES)
        if not sources:
            raise FileNotFoundError(f"{folder}: no sources to hash")
        for path in sources:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
