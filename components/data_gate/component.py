"""`DataGate`: what the data validator found of severity stop ends the run here.

Not in the validator itself: a stage that fails leaves nothing behind, and it is then that the report is needed most.
"""

import json
import os

import tensorflow_data_validation as tfdv
import tfx.v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from components.data_validator import store as memory
from components.data_validator.findings import FILE_NAME, Finding, refuse_stops, to_json
from components.nifti_example_gen.cases import FILE_NAME as CASES
from components.types import DataReport


@tfx.dsl.components.component
def DataGate(  # noqa: N802 - a component is named like a class
    findings: tfx.dsl.components.InputArtifact[DataReport],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    passed: tfx.dsl.components.OutputArtifact[DataReport],
    store: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Refuses stops; remembers other data, to compare that of later runs with it.

    Args:
        findings: What DataValidator wrote.
        statistics: Of the scalars, by split.
        examples: For `cases.json`.
        passed: Receives the findings that the run goes on with, as `findings.json`.
        store: Folder or URI of the statistics of earlier runs.
        code_version: Changes when the code does, so that its cached results are not reused.

    Raises:
        DataError: There is a finding of severity stop.
    """
    with fileio.open(os.path.join(findings.uri, FILE_NAME), "r") as file:  # noqa: PTH118 - a URI
        found = [Finding(**item) for item in json.load(file)]
    refuse_stops(found)
    with fileio.open(os.path.join(examples.uri, CASES), "r") as file:  # noqa: PTH118
        listing = json.load(file)
    memory.remember(
        store,
        listing,
        {
            split: tfdv.load_stats_binary(
                os.path.join(artifact_utils.get_split_uri([statistics], split), "FeatureStats.pb")  # noqa: PTH118
            )
            for split in artifact_utils.decode_split_names(statistics.split_names)
        },
    )
    with fileio.open(os.path.join(passed.uri, FILE_NAME), "w") as file:  # noqa: PTH118
        file.write(to_json(found))
