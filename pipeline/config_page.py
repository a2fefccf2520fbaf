"""docs/CONFIG.md: every key of a configuration, from the very fields that read it. `python -m pipeline.config_page`."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import Config

PAGE = Path(__file__).parents[1] / "docs" / "CONFIG.md"

_INTRODUCTION = """\
# Configuration

Every key of a configuration with its default. A file names what differs; `ich config NAME` prints a shipped one whole,
`--set key.path=value` overrides a value, and an unknown key or an impossible value is refused before anything starts.
Written by `python -m pipeline.config_page` from the fields themselves.
"""


def page() -> str:
    """The page, as Markdown."""
    return "\n".join([_INTRODUCTION, *_sections(Config, "")]) + "\n"


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """A table of a model's own keys, then those of the sections in it."""
    nested = [(name, section) for name, field in model.model_fields.items() if (section := _section(field.annotation))]
    names = {name for name, _ in nested}
    own = {name: field for name, field in model.model_fields.items() if name not in names}
    if prefix:
        yield f"## {prefix}\n"
        yield " ".join((model.__doc__ or "").strip().split("\n\n")[0].split()) + "\n"
    if own:
        yield "| key | type | default | |"
        yield "| --- | --- | --- | --- |"
        for name, field in own.items():
            yield f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {field.description or ''} |"
        yield ""
    for name, section in nested:
        yield from _sections(section, f"{prefix}.{name}" if prefix else name)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field is, or holds one of by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _type(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(item) for item in arguments if item is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{item}`" for item in arguments)
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return ", ".join(f"`{name}`" for name in annotation.model_fields)
    return {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}.get(annotation, "")


def _default(field: FieldInfo) -> str:
    """A default as YAML would have it."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, list):
        value = [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    if value is None:
        return ""
    return f"`{json.dumps(value)}`" if not isinstance(value, str) or not value else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
