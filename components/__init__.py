"""The stages of the pipeline, one folder each; `imaging` holds the domain code they share."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The artifact types, imported only when asked for: most of what is below here must not import tfx."""
    if name[:1].isupper():
        from components import types

        return getattr(types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
