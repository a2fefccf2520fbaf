"""`RunReporter`: writes what a run came to as one page and as JSON, whether the gate blesses or refuses the model."""

import datetime
import json
import os
from typing import Any

import tfx.v1 as tfx
from tfx.dsl.io import fileio

from components.data_validator.findings import FILE_NAME as FINDINGS
from components.evaluator.verdict import FILE_NAME as VERDICT
from components.nifti_example_gen.cases import FILE_NAME as CASES
from components.run_report.content import collect
from components.run_report.page import render
from components.run_report.predicted import outline_scans
from components.run_report.strips import choose, draw
from components.types import DataReport, RunReport
from serving.contract import Contract

PAGE, CONTENT = "run_report.html", "run_report.json"
_SERVING = "Format-Serving"
_CONTRACT = (_SERVING, "assets.extra", "contract.json")
_HISTORY = "history.json"


def _read_json(uri: str, *parts: str) -> Any:
    """A JSON file of an artifact; None where there is none."""
    path = os.path.join(uri, *parts)  # noqa: PTH118 - a URI
    if not fileio.exists(path):
        return None
    with fileio.open(path, "r") as file:
        return json.load(file)


@tfx.dsl.components.component
def RunReporter(  # noqa: N802 - a component is named like a class
    evaluation: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    model_run: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelRun],
    findings: tfx.dsl.components.InputArtifact[DataReport],
    report: tfx.dsl.components.OutputArtifact[RunReport],
    name: tfx.dsl.components.Parameter[str],
    config: tfx.dsl.components.Parameter[str],
    program: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes `run_report.html` and, with the same content, `run_report.json`. It judges nothing.

    Args:
        evaluation: For `verdict.json`.
        examples: For `cases.json`, and the few test scans that are shown slice by slice.
        model: For its contract, and to outline these scans again: the gate keeps no pixels.
        model_run: For the history of the training, where one was kept.
        findings: What DataValidator wrote.
        report: Receives both files.
        name: The configuration's name.
        config: JSON of all its sections.
        program: Hash of the whole program, to show.
        code_version: Changes when the code does, so that its cached results are not reused.
    """
    verdict, listing = _read_json(evaluation.uri, VERDICT), _read_json(examples.uri, CASES)
    contract = _read_json(model.uri, *_CONTRACT)
    roles = choose(verdict["by_case"], {case["case_id"]: case for case in listing["cases"]})
    drawn = {
        case: draw(scan, hu)
        for case, scan, hu in outline_scans(
            os.path.join(model.uri, _SERVING),  # noqa: PTH118
            Contract.from_json(json.dumps(contract)),
            examples,
            roles,
        )
    }
    content = collect(
        verdict,
        listing,
        contract,
        name=name,
        config=json.loads(config),
        history=_read_json(model_run.uri, _HISTORY),
        findings=_read_json(findings.uri, FINDINGS),
        strips=[{"case_id": case, "roles": list(found), **drawn[case]} for case, found in roles.items()],
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        code=program,
    )
    for file_name, text in ((PAGE, render(content)), (CONTENT, json.dumps(content, indent=1, allow_nan=False))):
        with fileio.open(os.path.join(report.uri, file_name), "w") as file:  # noqa: PTH118
            file.write(text)
