"""How `Evaluator` differs from TFX's: the baseline may be missing, our rules decide, and say why in plain JSON."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from typing import Any

from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as tfx_evaluator
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import json_utils

from components.evaluator.rules import decide
from components.evaluator.verdict import FILE_NAME, make_verdict, read_results
from components.nifti_example_gen.cases import FILE_NAME as CASES

GATE_KEY = "gate"

_M_MMAP_THRESHOLD = -3  # malloc.h


class Executor(tfx_evaluator.Executor):
    """Runs TFMA, with a baseline only where one is in service, and blesses by `components.evaluator.rules`."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Evaluates, writes `verdict.json` beside TFMA's results, and then blesses or refuses.

        Raises:
            ValueError: Not just the scans of the split were measured.
        """
        _keep_large_blocks_apart()
        inputs = dict(input_dict)
        baseline = inputs.get(specs.BASELINE_MODEL_KEY) or []
        if baseline and not fileio.exists(os.path.join(baseline[0].uri, "Format-Serving")):  # noqa: PTH118 - a URI
            del inputs[specs.BASELINE_MODEL_KEY]
        super().Do(inputs, output_dict, exec_properties)  # without thresholds it measures and blesses nothing
        uri = artifact_utils.get_single_uri(output_dict[specs.EVALUATION_KEY])
        results = read_results(uri)
        splits = json_utils.loads(exec_properties[specs.EXAMPLE_SPLITS_KEY])
        decision = decide(
            json.loads(exec_properties[GATE_KEY]),
            _cases(inputs[specs.EXAMPLES_KEY], splits),
            results["by_case"],
            results["baseline"].get("by_case"),
        )
        if baseline:
            results["baseline"] = {**_read(baseline[0].uri, "baseline.json"), **results["baseline"]}
        with fileio.open(os.path.join(uri, FILE_NAME), "w") as file:  # noqa: PTH118
            file.write(json.dumps(make_verdict(results, decision), indent=1))
        _bless(artifact_utils.get_single_instance(output_dict[specs.BLESSING_KEY]), decision.blessed, inputs)


def _read(uri: str, name: str) -> dict[str, Any]:
    with fileio.open(os.path.join(uri, name), "r") as file:  # noqa: PTH118
        content: dict[str, Any] = json.load(file)
    return content


def _cases(examples: list[Any], splits: list[str]) -> dict[str, dict[str, Any]]:
    """The scans of some splits by case id, as ingestion listed them."""
    listed = [case for artifact in examples for case in _read(artifact.uri, CASES)["cases"]]
    return {case["case_id"]: case for case in listed if case["split"] in splits}


def _bless(blessing: Any, blessed: bool, inputs: dict[str, Any]) -> None:
    """Marks the artifact as TFX's own Evaluator does, so that everything that reads blessings can read it."""
    (model,) = inputs[specs.MODEL_KEY]
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    for served in inputs.get(specs.BASELINE_MODEL_KEY) or []:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, served.uri)
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, served.id)
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY,
        constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE,
    )
    name = constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME
    with fileio.open(os.path.join(blessing.uri, name), "w") as file:  # noqa: PTH118
        file.write("")


def _keep_large_blocks_apart() -> None:
    """Makes glibc return batches of pixels to the system at once.

    Else they leave holes between the small things that TFMA keeps of each slice, and memory grows with the scans:
    1.97 GiB against 1.71 GiB at the peak of this stage alone, on 36 scans.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library, which does as it likes
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
