"""How `NiftiExampleGen` works: each Beam element is one shard's cases, written where they are read.

No pixel passes through a shuffle, so memory does not grow with the cohort.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from tfx.components.example_gen import utils
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.util import examples_utils
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs

from components.imaging.errors import ScanError, UsageError
from components.nifti_example_gen.cases import FILE_NAME, summarise_cases
from components.nifti_example_gen.examples import CaseRecord, read_case, slice_examples
from components.nifti_example_gen.layout import Case, Cohort, Quarantined, find_cases
from components.nifti_example_gen.settings import read_settings
from components.nifti_example_gen.splits import deal, refuse_empty
from components.nifti_example_gen.tfrecord import RecordBuffer
from schema.features import SPLITS

CASES_PER_SHARD = 8


class Shard(NamedTuple):
    """Cases that share one TFRecord file, below the folder of all splits."""

    folder: str
    split: str
    name: str
    cases: list[Case]


class Executor(BaseExampleGenExecutor):
    """Reads each volume once and writes its slices straight into the shard of its split."""

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
        """Not used: splitting and writing happen inside the step that reads a volume."""
        raise TypeError("NiftiExampleGen writes its examples itself")

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples and `cases.json`.

        Raises:
            UsageError: A split is empty, or no training scan has a lesion.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = read_settings(exec_properties)
        examples = artifact_utils.get_single_instance(output_dict[specs.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(examples, exec_properties[specs.OUTPUT_DATA_FORMAT_KEY])

        # The driver has named the newest span: one that arrived since must not go under its name. Where no driver
        # runs (Kubeflow's open backend), the newest now is taken.
        newest = exec_properties.get(utils.SPAN_PROPERTY_NAME)
        cohort = find_cases(Path(exec_properties[specs.INPUT_BASE_KEY]), settings["data"], newest=newest)
        examples.set_int_custom_property(utils.SPAN_PROPERTY_NAME, cohort.span)
        listing = os.path.join(examples.uri, FILE_NAME)  # noqa: PTH118 - a URI, perhaps of a bucket
        for name in SPLITS:
            fileio.makedirs(artifact_utils.get_split_uri([examples], name))
        shards = list(_shards(deal(cohort.cases, settings["splits"]), examples))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.ParDo(_WriteShard(settings))
                | "Gather" >> beam.combiners.ToList()
                | "List" >> beam.Map(_write_listing, listing, cohort)
            )
        with fileio.open(listing, "r") as file:
            _check(json.load(file))


def _shards(dealt: dict[str, list[Case]], examples: Any) -> Iterator[Shard]:
    for split, cases in dealt.items():
        total = -(-len(cases) // CASES_PER_SHARD)
        for number in range(total):
            name = f"examples-{number:05d}-of-{total:05d}.gz"
            yield Shard(examples.uri, split, name, cases[number * CASES_PER_SHARD : (number + 1) * CASES_PER_SHARD])


class _WriteShard(beam.DoFn):
    """Turns a shard's cases into one TFRecord file; yields what became of each case."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Starts the threads: reading and resampling leave Python's lock to others most of the time."""
        self._pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), CASES_PER_SHARD))

    def teardown(self) -> None:
        """Ends them."""
        self._pool.shutdown()

    def process(self, shard: Shard) -> Iterable[CaseRecord | Quarantined]:
        """Yields a `CaseRecord` or a `Quarantined` per case."""
        with RecordBuffer() as buffer:
            for examples, outcome in self._pool.map(lambda case: self._convert(case, shard.split), shard.cases):
                for example in examples:
                    buffer.add(example)
                yield outcome
        if buffer.count:
            # Readers take `*` in the folder, so a file gets its place there only when it is whole.
            part = os.path.join(shard.folder, f".{shard.split}-{shard.name}")  # noqa: PTH118 - a URI
            with fileio.open(part, "wb") as file:
                file.write(buffer.data)
            fileio.rename(part, os.path.join(shard.folder, f"Split-{shard.split}", shard.name), overwrite=True)  # noqa: PTH118

    def _convert(self, case: Case, split: str) -> tuple[list[bytes], CaseRecord | Quarantined]:
        try:
            scan, mask = read_case(case, self._settings["data"], self._settings["grid"])
        except ScanError as error:
            return [], Quarantined(case.case_id, error.code, str(error), str(case.image))
        return slice_examples(case, split, scan, mask, self._settings["grid"]["context_slices"])


def _write_listing(outcomes: list[CaseRecord | Quarantined], uri: str, cohort: Cohort) -> None:
    summary = summarise_cases(
        [item for item in outcomes if isinstance(item, CaseRecord)],
        [*cohort.quarantined, *(item for item in outcomes if isinstance(item, Quarantined))],
        spans=cohort.spans,
        superseded=cohort.superseded,
    )
    with fileio.open(uri, "w") as file:
        file.write(json.dumps(summary, indent=1))


def _check(summary: dict[str, Any]) -> None:
    """Raises a UsageError when the later stages cannot even look at what is left."""
    bad = summary["quarantined"]
    listed = "\n".join(f"  {item['case_id']}: {item['code']}: {item['reason']}" for item in bad[:10])
    more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
    try:
        refuse_empty({name: counts["patients"] for name, counts in summary["splits"].items()})
    except UsageError as error:
        raise UsageError(f"{error}; quarantined were {len(bad)}:\n{listed}{more}" if bad else str(error)) from None
    train = summary["splits"]["train"]
    if train["lesion_slices"] == 0:
        raise UsageError(
            f"no lesion in the whole training split ({train['scans']} scans, {train['slices']} slices): "
            "check the masks and data.lesion_labels"
        )
