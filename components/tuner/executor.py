"""TFX's executor of a search, which also keeps what was tried."""

from __future__ import annotations

import json
import os
from typing import Any

from tfx import types
from tfx.components.tuner import executor
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import io_utils

TRIALS_FILE = "trials.json"
"""Beside TFX's `tuner_results.json`, which has neither times nor failures."""


class Executor(executor.Executor):
    """Searches, and writes the best hyperparameters and the table of all trials."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Runs the search.

        Args:
            input_dict: Examples, transform graph and schema.
            output_dict: Receives `best_hyperparameters` and `tuner_results`.
            exec_properties: With `tuner_fn` and its `custom_config`.

        Raises:
            IchError: No trial succeeded.
        """
        found = executor.search(input_dict, exec_properties, self._get_tmp_dir(), print_tuning_summary=False)
        executor.write_best_hyperparameters(found, output_dict)
        uri = artifact_utils.get_single_uri(output_dict[specs.TUNER_RESULTS_KEY])
        io_utils.write_string_file(os.path.join(uri, TRIALS_FILE), json.dumps(found.table(), indent=1))  # noqa: PTH118
