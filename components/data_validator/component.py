"""`DataValidator`: applies the schema, with its drift and skew comparators, and says what follows.

TFX's ExampleValidator looks neither at comparators nor at environments, and what it finds stops nothing.
"""

import json
import os
from dataclasses import asdict

import tfx.v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

import tensorflow_data_validation as tfdv  # isort: skip - tfx goes first: it stands in for a module that is gone

from components.data_validator import store as memory
from components.data_validator.compare import compare
from components.data_validator.findings import FILE_NAME, to_json
from components.nifti_example_gen.cases import FILE_NAME as CASES
from components.types import DataReport

COMPARISON, PREVIOUS = "comparison.json", "previous.json"


@tfx.dsl.components.component
def DataValidator(  # noqa: N802 - a component is named like a class
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    report: tfx.dsl.components.OutputArtifact[DataReport],
    validation: tfx.dsl.components.Parameter[str],
    max_quarantined: tfx.dsl.components.Parameter[str],
    store: tfx.dsl.components.Parameter[str],
    serving: tfx.dsl.components.Parameter[str],
    state: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes `findings.json`, a list, and beside it with what was compared and how far it is.

    `comparison.json` holds the references and all measured distances; `previous.json` is `cases.json` of the data
    before, where there is any. Whatever is found, the run goes on to its report; DataGate ends it.

    Args:
        statistics: Of the scalars, by split.
        schema: The curated schema.
        examples: For `cases.json`.
        report: Receives the files.
        validation: JSON of the configuration's section validation.
        max_quarantined: JSON of the share of quarantined scans above which a run stops.
        store: Folder or URI of the statistics of earlier runs.
        serving: The folder that TF Serving watches, or its URI.
        state: Names what is remembered and in service now; another value defeats the cache.
        code_version: Changes when the code does, so that its cached results are not reused.
    """

    def write(name: str, text: str) -> None:
        with fileio.open(os.path.join(report.uri, name), "w") as file:  # noqa: PTH118 - a URI
            file.write(text)

    with fileio.open(os.path.join(examples.uri, CASES), "r") as file:  # noqa: PTH118
        listing = json.load(file)
    splits = artifact_utils.decode_split_names(statistics.split_names)
    folders = {split: artifact_utils.get_split_uri([statistics], split) for split in splits}
    found = {
        split: tfdv.load_stats_binary(os.path.join(folder, "FeatureStats.pb"))  # noqa: PTH118
        for split, folder in folders.items()
    }
    curated = tfdv.load_schema_text(os.path.join(schema.uri, "schema.pbtxt"))  # noqa: PTH118
    known = memory.entries(store)
    rules = json.loads(validation)["validation"]
    result = compare(listing, found, curated, rules, known, serving, most_quarantined=json.loads(max_quarantined))
    write(FILE_NAME, to_json(result.findings))
    compared = {"references": result.references, "measurements": [asdict(item) for item in result.measurements]}
    write(COMPARISON, json.dumps(compared, indent=1))
    if result.previous is not None:
        write(PREVIOUS, json.dumps(result.previous.listing(), indent=1))
