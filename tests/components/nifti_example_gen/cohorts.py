"""The stage on a generated cohort: its configuration, and the executor run as the pipeline runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx.components.example_gen import utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import artifact_utils, standard_artifacts

from components.nifti_example_gen.component import NiftiExampleGen
from components.nifti_example_gen.executor import Executor
from pipeline.config import BeamConfig, Config

LAYOUT: dict[str, Any] = {"image": "images/{case}.nii.gz", "mask": "masks/{case}.nii.gz", "max_quarantined": 0.5}
SECTIONS = ("data", "grid", "splits", "beam")


def component(root: Path | str, *, code_version: str = "1", **sections: Any) -> NiftiExampleGen:
    """The stage for a data folder, on a small grid."""
    tree = {
        "name": "test",
        "data": LAYOUT,
        "grid": {"size": 64, "spacing_mm": 3.6},
        "splits": {"train": 50, "val": 25, "test": 25},
        **sections,
    }
    config = Config.model_validate(tree).subset(*SECTIONS)
    return NiftiExampleGen(input_base=str(root), config=config, code_version=code_version)


def execute(
    root: Path, output: Path, *, beam: BeamConfig | None = None, named_span: int | None = None, **sections: Any
) -> dict[str, Any]:
    """Runs the executor on a data folder; the content of `cases.json`.

    Args:
        root: The data folder.
        output: The artifact's folder.
        beam: How Beam runs.
        named_span: The span that the driver has named; None where no driver ran.
        **sections: Sections of the configuration.
    """
    examples = standard_artifacts.Examples()
    examples.uri = str(output)
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=(beam or BeamConfig()).pipeline_args(), tmp_dir=str(output.parent), unique_id="1"
    )
    properties = dict(component(root, **sections).exec_properties)
    if named_span is not None:
        properties[utils.SPAN_PROPERTY_NAME] = named_span
    Executor(context).Do({}, {"examples": [examples]}, properties)
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "val", "test"]
    summary: dict[str, Any] = json.loads((output / "cases.json").read_text())
    assert examples.get_int_custom_property(utils.SPAN_PROPERTY_NAME) == summary["span"]
    return summary
