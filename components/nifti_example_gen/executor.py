"""How `NiftiExampleGen` works: each Beam element is one shard's cases, written where they are read.

No pixel passes through a shuffle, so memory does not grow with the cohort.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.util import examples_utils
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs

from components.imaging.errors import ScanError, UsageError
from components.nifti_example_gen.cases import FILE_NAME, summarise_cases
from components.nifti_example_gen.examples import CaseRecord, read_case, slice_examples
from components.nifti_example_gen.layout import Case, Quarantined, find_cases
from components.nifti_example_gen.settings import read_settings
from components.nifti_example_gen.splits import deal, refuse_empty
from components.nifti_example_gen.tfrecord import RecordBuffer
from schema.features import SPLITS

CASES_PER_SHARD = 8
SWITCH_SECONDS = 0.0005


class Shard(NamedTuple):
    """Cases that share one TFRecord file, below the folder of all splits."""

    folder: str
    split: str
    name: str
    cases: list[Case]

    @property
    def target(self) -> str:
        """Where its examples go."""
        return os.path.join(self.folder, f"Split-{self.split}", self.name)  # noqa: PTH118 - a URI

    @property
    def part(self) -> str:
        """Where they lie until they are whole: readers take `*` in the folder of a split."""
        return os.path.join(self.folder, f".{self.split}-{self.name}")  # noqa: PTH118 - a URI

    @property
    def outcomes(self) -> str:
        """Where the worker says what became of each case. A file: gathering them in Beam takes longer than reading."""
        return os.path.join(self.folder, f".{self.split}-{self.name}.json")  # noqa: PTH118 - a URI


class Executor(BaseExampleGenExecutor):
    """Reads each volume once and writes its slices straight into the shard of its split."""

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
        """Not used: splitting and writing happen inside the step that reads a volume."""
        raise TypeError("NiftiExampleGen writes its examples itself")

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples and `cases.json`.

        Raises:
            UsageError: A split is empty, too many scans are unusable, or no training scan has a lesion.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = read_settings(exec_properties)
        examples = artifact_utils.get_single_instance(output_dict[specs.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(examples, exec_properties[specs.OUTPUT_DATA_FORMAT_KEY])

        cohort = find_cases(Path(exec_properties[specs.INPUT_BASE_KEY]), settings["data"])
        listing = os.path.join(examples.uri, FILE_NAME)  # noqa: PTH118 - a URI, perhaps of a bucket
        for name in SPLITS:
            fileio.makedirs(artifact_utils.get_split_uri([examples], name))
        shards = list(_shards(deal(cohort.cases, settings["splits"]), examples))
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "Shards" >> beam.Create(shards) | "Write" >> beam.ParDo(_WriteShard(settings))
        summary = summarise_cases(*_outcomes(shards, cohort.quarantined))
        with fileio.open(listing, "w") as file:
            file.write(json.dumps(summary, indent=1))
        _check(summary, settings["data"]["max_quarantined"])


def _shards(dealt: dict[str, list[Case]], examples: Any) -> Iterator[Shard]:
    for split, cases in dealt.items():
        total = -(-len(cases) // CASES_PER_SHARD)
        for number in range(total):
            name = f"examples-{number:05d}-of-{total:05d}.gz"
            yield Shard(examples.uri, split, name, cases[number * CASES_PER_SHARD : (number + 1) * CASES_PER_SHARD])


class _WriteShard(beam.DoFn):
    """Turns a shard's cases into one TFRecord file, and a file of what became of each case."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Starts the threads: reading and resampling leave Python's lock to others most of the time."""
        self._pool = ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), CASES_PER_SHARD))
        # A thread back from inflating waits up to this long for Python's lock: 5 ms by default, a tenth of a scan.
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)

    def teardown(self) -> None:
        """Ends them."""
        sys.setswitchinterval(self._switch_interval)
        self._pool.shutdown()

    def process(self, shard: Shard) -> Iterable[None]:
        """Writes the shard's examples, and what became of its cases; yields nothing."""
        # A gzip file may have several members, so each case is packed by the thread that read it.
        members, outcomes = [], []
        for member, outcome in self._pool.map(lambda case: self._convert(case, shard.split), shard.cases):
            members.append(member)
            outcomes.append({"kind": type(outcome).__name__, "value": asdict(outcome)})
        if any(members):
            with fileio.open(shard.part, "wb") as file:
                file.write(b"".join(members))
            fileio.rename(shard.part, shard.target, overwrite=True)
        with fileio.open(shard.outcomes, "w") as file:
            file.write(json.dumps(outcomes))
        return ()

    def _convert(self, case: Case, split: str) -> tuple[bytes, CaseRecord | Quarantined]:
        try:
            scan, mask = read_case(case, self._settings["data"], self._settings["grid"])
        except ScanError as error:
            return b"", Quarantined(case.case_id, error.code, str(error))
        examples, record = slice_examples(case, split, scan, mask, self._settings["grid"]["context_slices"])
        with RecordBuffer() as buffer:
            for example in examples:
                buffer.add(example)
        return buffer.data, record


def _outcomes(shards: list[Shard], incomplete: list[Quarantined]) -> tuple[list[CaseRecord], list[Quarantined]]:
    """Cases ingested and cases left out, as the workers told; their files are removed."""
    records, quarantined = [], list(incomplete)
    for shard in shards:
        with fileio.open(shard.outcomes, "r") as file:
            for outcome in json.load(file):
                if outcome["kind"] == CaseRecord.__name__:
                    records.append(CaseRecord(**outcome["value"]))
                else:
                    quarantined.append(Quarantined(**outcome["value"]))
        fileio.remove(shard.outcomes)
    return records, quarantined


def _check(summary: dict[str, Any], max_quarantined: float) -> None:
    """Raises a UsageError when too little is left to train on."""
    bad, good = summary["quarantined"], summary["cases"]
    listed = "\n".join(f"  {item['case_id']}: {item['code']}: {item['reason']}" for item in bad[:10])
    more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
    if len(bad) > max_quarantined * (len(bad) + len(good)):
        raise UsageError(
            f"{len(bad)} of {len(bad) + len(good)} scans are unusable, allowed is a share of {max_quarantined} "
            f"(data.max_quarantined):\n{listed}{more}"
        )
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
