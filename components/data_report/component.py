"""`DataReporter`: writes what is known of a run's data as one page and as JSON, whatever it means for the run."""

import datetime
import json
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tfx.v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from components.data_report.contact_sheet import choose_shards, choose_tiles
from components.data_report.content import collect
from components.data_report.page import render
from components.data_report.pictures import thumbnails
from components.data_validator.component import COMPARISON, PREVIOUS
from components.data_validator.findings import FILE_NAME as FINDINGS
from components.imaging.checks.registry import CHECKS
from components.nifti_example_gen.cases import FILE_NAME
from components.types import DataReport
from schema.features import SPLITS

PAGE, CONTENT = "data_report.html", "data_report.json"
_MOST_THUMBNAILS = 120
_MOST_VOXELS = 512 * 512 * 400
"""A larger scan gets no picture: its file is suspect, and the picture is not worth the memory."""


def _records(examples: Any, fingerprint: str) -> Iterator[tuple[str, bytes]]:
    """Split and serialised example of each slice of the chosen shards."""
    for split in SPLITS:
        files = tf.io.gfile.glob(os.path.join(artifact_utils.get_split_uri([examples], split), "*"))  # noqa: PTH118
        shards = choose_shards(files, split, fingerprint)
        if shards:
            for record in tf.data.TFRecordDataset(shards, compression_type="GZIP").as_numpy_iterator():
                yield split, record


def _read_json(uri: str, name: str) -> Any:
    """A JSON file of an artifact; None where there is none."""
    path = os.path.join(uri, name)  # noqa: PTH118 - a URI
    if not fileio.exists(path):
        return None
    with fileio.open(path, "r") as file:
        return json.load(file)


@tfx.dsl.components.component
def DataReporter(  # noqa: N802 - a component is named like a class
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    findings: tfx.dsl.components.InputArtifact[DataReport],
    report: tfx.dsl.components.OutputArtifact[DataReport],
    name: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes `data_report.html` and, with the same content, `data_report.json`. It judges nothing: a gate comes after.

    Args:
        examples: Slices to look at, and `cases.json`.
        findings: What DataValidator wrote.
        report: Receives both files.
        name: The configuration's name.
        code_version: Changes when the code does, so that its cached results are not reused.
    """
    listing = _read_json(examples.uri, FILE_NAME)
    images = {item["case_id"]: item.get("image", "") for item in listing["quarantined"]}
    content = collect(
        listing,
        _read_json(findings.uri, FINDINGS),
        name=name,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        previous=_read_json(findings.uri, PREVIOUS),
        comparison=_read_json(findings.uri, COMPARISON),
        explanations={code: (check.explanation, check.remedy) for code, check in CHECKS.items()},
        pictured=_MOST_THUMBNAILS,
        thumbnails=thumbnails(images, max_voxels=_MOST_VOXELS, most=_MOST_THUMBNAILS),
        tiles=choose_tiles(_records(examples, listing["fingerprint"]), listing["fingerprint"]),
    )
    for file_name, text in ((PAGE, render(content)), (CONTENT, json.dumps(content, indent=1, allow_nan=False))):
        with fileio.open(os.path.join(report.uri, file_name), "w") as file:  # noqa: PTH118
            file.write(text)
