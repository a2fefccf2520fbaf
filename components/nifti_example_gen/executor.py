"""How `NiftiExampleGen` works: each Beam element is one shard's cases, written where they are read.

No pixel passes through a shuffle, so memory does not grow with the cohort.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import apache_beam as beam
from tfx.components.example_gen import utils
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.util import examples_utils
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs

from components.imaging.checks.cohort import Member, cohort_findings
from components.imaging.errors import ScanError, UsageError
from components.nifti_example_gen.cases import FILE_NAME, summarise_cases
from components.nifti_example_gen.examples import CaseRecord, read_case, slice_examples
from components.nifti_example_gen.layout import Case, Quarantined, find_cases
from components.nifti_example_gen.settings import read_settings
from components.nifti_example_gen.splits import deal, refuse_empty
from components.nifti_example_gen.tfrecord import RecordBuffer
from components.storage.mirror import as_named, local_copy, renamed
from schema.features import SPLITS

CASES_PER_SHARD = 8
SWITCH_SECONDS = 0.0005


class Shard(NamedTuple):
    """Cases that share one TFRecord file, below the folder of all splits."""

    folder: str
    split: str
    name: str
    cases: tuple[Case, ...]

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
        place = exec_properties[specs.INPUT_BASE_KEY]
        root = local_copy(place)
        with as_named(place, root):
            cohort = find_cases(root, settings["data"], newest=newest)
        examples.set_int_custom_property(utils.SPAN_PROPERTY_NAME, cohort.span)
        listing = os.path.join(examples.uri, FILE_NAME)  # noqa: PTH118 - a URI, perhaps of a bucket
        for name in SPLITS:
            fileio.makedirs(artifact_utils.get_split_uri([examples], name))
        shards = list(_shards(deal(cohort.cases, settings["splits"]), examples))
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "Shards" >> beam.Create(shards) | "Write" >> beam.ParDo(_WriteShard(settings))
        outcomes = [*cohort.quarantined, *_compare(_collect(shards), settings["data"]["checks"])]
        summary = summarise_cases(
            [item for item in outcomes if isinstance(item, CaseRecord)],
            [item for item in outcomes if isinstance(item, Quarantined)],
            spans=cohort.spans,
            superseded=cohort.superseded,
        )
        summary = renamed(summary, place, root)  # the copy is this machine's own
        with fileio.open(listing, "w") as file:
            file.write(json.dumps(summary, indent=1))
        _check(summary)


def _shards(dealt: dict[str, list[Case]], examples: Any) -> Iterator[Shard]:
    for split, cases in dealt.items():
        total = -(-len(cases) // CASES_PER_SHARD)
        for number in range(total):
            name = f"examples-{number:05d}-of-{total:05d}.gz"
            part = cases[number * CASES_PER_SHARD : (number + 1) * CASES_PER_SHARD]
            yield Shard(examples.uri, split, name, tuple(part))


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
            outcomes.append({"kind": type(outcome).__name__, "value": asdict(outcome), "size": len(member)})
        if any(members):
            _write(shard, b"".join(members))
        with fileio.open(shard.outcomes, "w") as file:
            file.write(json.dumps(outcomes))
        return ()

    def _convert(self, case: Case, split: str) -> tuple[bytes, CaseRecord | Quarantined]:
        try:
            ingested = read_case(case, self._settings["data"], self._settings["grid"])
        except ScanError as error:
            return b"", Quarantined(case.case_id, error.code, str(error), str(case.image))
        examples, record = slice_examples(case, split, ingested, self._settings["grid"]["context_slices"])
        with RecordBuffer() as buffer:
            for example in examples:
                buffer.add(example)
        return buffer.data, record


class _Written(NamedTuple):
    """A case as its worker left it, and the bytes that its examples take in the shard."""

    shard: Shard
    case: Case
    outcome: CaseRecord | Quarantined
    size: int


def _collect(shards: list[Shard]) -> list[_Written]:
    """What became of each case, as the workers told; their files are removed."""
    written = []
    for shard in shards:
        with fileio.open(shard.outcomes, "r") as file:
            told = json.load(file)
        for case, item in zip(shard.cases, told, strict=True):
            kind = CaseRecord if item["kind"] == CaseRecord.__name__ else Quarantined
            written.append(_Written(shard, case, kind(**item["value"]), item["size"]))
        fileio.remove(shard.outcomes)
    return written


def _compare(written: list[_Written], policy: Mapping[str, str]) -> list[CaseRecord | Quarantined]:
    """Applies the checks between cases; the examples of a case that they refuse are taken out of its shard."""
    records = [item.outcome for item in written if isinstance(item.outcome, CaseRecord)]
    members = [Member(record.case_id, record.patient_id, record.split, record.image_digest) for record in records]
    between = cohort_findings(members, policy)
    outcomes: list[CaseRecord | Quarantined] = []
    dropped: dict[Shard, set[str]] = {}
    for shard, case, outcome, _ in written:
        findings = between.get(case.case_id, ())
        error = next((finding for finding in findings if finding.severity == "error"), None)
        if isinstance(outcome, CaseRecord) and error is not None:
            outcomes.append(Quarantined(case.case_id, error.code, error.message, str(case.image)))
            dropped.setdefault(shard, set()).add(case.case_id)
        elif isinstance(outcome, CaseRecord):
            outcomes.append(replace(outcome, findings=[*outcome.findings, *map(asdict, findings)]))
        else:
            outcomes.append(outcome)
    for shard, cases in dropped.items():
        _drop(shard, [item for item in written if item.shard == shard], cases)
    return outcomes


def _drop(shard: Shard, members: list[_Written], cases: Container[str]) -> None:
    """Takes the gzip members of some cases out of a shard; nothing is packed again."""
    with fileio.open(shard.target, "rb") as file:
        data = file.read()
    kept, start = [], 0
    for member in members:
        end = start + member.size
        if member.case.case_id not in cases:
            kept.append(data[start:end])
        start = end
    if any(kept):
        _write(shard, b"".join(kept))
    else:
        fileio.remove(shard.target)


def _write(shard: Shard, data: bytes) -> None:
    """Writes a shard that appears whole or not at all."""
    with fileio.open(shard.part, "wb") as file:
        file.write(data)
    fileio.rename(shard.part, shard.target, overwrite=True)


def _check(summary: dict[str, Any]) -> None:
    """Raises a UsageError when the later stages cannot even look at what is left."""
    bad = summary["quarantined"]
    listed = "\n".join(f"  {item['case_id']}: {item['code']}: {item['reason']}" for item in bad[:10])
    more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
    try:
        refuse_empty({name: counts["patients"] for name, counts in summary["splits"].items()})
    except UsageError as error:
        if not bad:
            raise
        hint = "`ich check DATA --html PAGE` shows each of them with what to do"
        raise UsageError(f"{error}; quarantined were {len(bad)}:\n{listed}{more}\n{hint}") from None
    train = summary["splits"]["train"]
    if train["lesion_slices"] == 0:
        raise UsageError(
            f"no lesion in the whole training split ({train['scans']} scans, {train['slices']} slices): "
            "check the masks and data.lesion_labels"
        )
