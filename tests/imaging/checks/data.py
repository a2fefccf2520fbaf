"""The configuration's section `data` as the checks see it."""

from __future__ import annotations

from typing import Any

from pipeline.config import DataConfig


def data_section(**changes: Any) -> dict[str, Any]:
    """The defaults, with changes, validated as a configuration file would be."""
    return DataConfig(image="images/{case}.nii.gz", mask="masks/{case}.nii.gz", **changes).model_dump(mode="json")
