"""The tiny cohort of the trainer's tests, and what TFX hands to a tuner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.transform.preprocessing import CONFIG_KEY
from pipeline.config import TunerConfig
from tests.components.trainer.conftest import cohort, small_config, transform_output

__all__ = ["cohort", "transform_output"]


def tuner_section(**changes: Any) -> dict[str, Any]:
    """The section `tuner`: two trials of one epoch that choose between rates and widths."""
    space: dict[str, Any] = dict.fromkeys(
        ("learning_rate", "dice_weight", "cross_entropy_weight", "miss_weight", "base_filters")
    )
    space |= changes.pop("space", {"learning_rate": [1e-4, 2e-2], "base_filters": [4, 8]})
    section = {"enabled": True, "trials": 2, "epochs": 1, **changes, "space": space}
    found: dict[str, Any] = TunerConfig.model_validate(section).model_dump(mode="json")
    return found


@pytest.fixture
def arguments(
    cohort: dict[str, list[str]],
    transform_output: Callable[[dict[str, Any]], str],
    tmp_path: Path,
) -> Callable[..., Any]:
    """Makes FnArgs for the tiny cohort; every call with the same section and folder belongs to the same search."""

    def make(folder: Path = tmp_path, **changes: Any) -> Any:
        config = small_config(**changes.pop("training", {}))
        config["tuner"] = tuner_section(**changes)
        return SimpleNamespace(
            train_files=[str(Path(cohort["train"][0]).parent / "*")],
            eval_files=[str(Path(cohort["val"][0]).parent / "*")],
            transform_graph_path=transform_output(config),
            custom_config={CONFIG_KEY: json.dumps(config), "work_dir": str(folder / "work"), "code_version": "1"},
        )

    return make
