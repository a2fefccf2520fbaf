"""How `Evaluator` differs from TFX's: the baseline may be missing, and the verdict is written in plain JSON."""

from __future__ import annotations

import json
import os
from typing import Any

from tfx.components.evaluator import executor as tfx_evaluator
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs

from components.evaluator.verdict import read_verdict


class Executor(tfx_evaluator.Executor):
    """Runs TFMA, with a baseline only where one is in service."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Evaluates, blesses or refuses, and writes `verdict.json` beside TFMA's results."""
        inputs = dict(input_dict)
        baseline = inputs.get(specs.BASELINE_MODEL_KEY) or []
        if baseline and not fileio.exists(os.path.join(baseline[0].uri, "Format-Serving")):  # noqa: PTH118 - a URI
            del inputs[specs.BASELINE_MODEL_KEY]
        super().Do(inputs, output_dict, exec_properties)
        uri = artifact_utils.get_single_uri(output_dict[specs.EVALUATION_KEY])
        verdict = read_verdict(uri)
        if baseline:
            with fileio.open(os.path.join(baseline[0].uri, "baseline.json"), "r") as file:  # noqa: PTH118
                verdict["baseline"] = {**json.load(file), **verdict["baseline"]}
        with fileio.open(os.path.join(uri, "verdict.json"), "w") as file:  # noqa: PTH118
            file.write(json.dumps(verdict, indent=1))
