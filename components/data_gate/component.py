"""`DataGate`: reads the anomalies that ExampleValidator found and stops the run on errors.

ExampleValidator itself only writes them down.
"""

import os

import tfx.v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from components.data_gate.findings import refuse_errors, split_findings, to_json
from components.types import DataReport


@tfx.dsl.components.component
def DataGate(  # noqa: N802 - a component is named like a class
    anomalies: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleAnomalies],
    report: tfx.dsl.components.OutputArtifact[DataReport],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes the findings of all splits to `findings.json` and refuses errors.

    Args:
        anomalies: What ExampleValidator found, by split.
        report: Receives `findings.json`.
        code_version: Changes when the code does, so that its cached results are not reused.

    Raises:
        DataError: A split holds an anomaly of severity error.
    """
    findings = []
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        folder = artifact_utils.get_split_uri([anomalies], split)
        with fileio.open(os.path.join(folder, "SchemaDiff.pb"), "rb") as file:  # noqa: PTH118 - a URI
            findings += split_findings(split, file.read())
    with fileio.open(os.path.join(report.uri, "findings.json"), "w") as file:  # noqa: PTH118
        file.write(to_json(findings))
    refuse_errors(findings)
