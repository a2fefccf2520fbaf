"""What many scans cost on many workers, on paper: measured cost of one scan times their number.

`python -m benchmarks.scaling` measures, and prints the tables of docs/SCALING.md. Costs are processor seconds, not wall
time, so that another load on the machine matters little; in-process against multi_processing takes turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import cohort, ingest, memory, training
from benchmarks.report import interleaved_seconds
from pipeline.config import BeamConfig, load_config

CONFIG = "phe_sich"
SCANS = 100_000
WORKERS = (1, 16, 256)
TRAINER_CORES = 16
"""Cores of the one machine that trains."""
COPIES = 4


@dataclass(frozen=True)
class Constants:
    """What one scan costs; seconds are those of one core.

    Attributes:
        slices: Its slices.
        source_bytes: Scan and mask as delivered.
        example_bytes: Its examples at rest.
        listing_bytes: Its part of `cases.json`.
        ingest_s: To read, check, resample and write it.
        driver_s: To find, deal, compare and list it, which one process does for all.
        statistics_s: To take its scalars' statistics.
        evaluate_s: To predict and measure it.
        shuffle_bytes: What the gate sends of it to where the scan's slices meet.
        train_s: One slice in one training step.
        drawn: Slices that an epoch draws of it.
    """

    slices: float
    source_bytes: float
    example_bytes: float
    listing_bytes: float
    ingest_s: float
    driver_s: float
    statistics_s: float
    evaluate_s: float
    shuffle_bytes: float
    train_s: float
    drawn: float


@dataclass(frozen=True)
class Cost:
    """What a stage costs.

    Attributes:
        stage: The stage.
        core_hours: Of all its processes.
        wall_hours: On 1, 16, ... workers of one core each.
    """

    stage: str
    core_hours: float
    wall_hours: tuple[float, ...]


def costs(constants: Constants, scans: int, workers: tuple[int, ...] = WORKERS) -> list[Cost]:
    """The stages that grow with the scans.

    Args:
        constants: What one scan costs.
        scans: How many.
        workers: Numbers of workers, of one core each.
    """
    config = load_config(CONFIG)
    train, test = (share / sum(_shares()) for share in _shares()[::2])
    steps_s = config.training.epochs * scans * train * constants.drawn * constants.train_s

    def cost(stage: str, parallel_s: float, serial_s: float = 0.0, at_most: int | None = None) -> Cost:
        hours = [(parallel_s / min(count, at_most or count) + serial_s) / 3600 for count in workers]
        return Cost(stage, (parallel_s + serial_s) / 3600, tuple(hours))

    return [
        cost("NiftiExampleGen", scans * constants.ingest_s, scans * constants.driver_s),
        cost("StatisticsGen", scans * constants.statistics_s),
        cost("Trainer", steps_s, at_most=TRAINER_CORES),
        cost("Evaluator", scans * test * constants.evaluate_s),
    ]


def _shares() -> tuple[int, int, int]:
    splits = load_config(CONFIG).splits
    return splits.train, splits.val, splits.test


def measure(data: Path, work: Path) -> Constants:
    """Measures everything on some scans.

    Args:
        data: A folder with images/ and masks/.
        work: A folder to write to.
    """
    memory.peak_gib(data, work / "run")  # for a model, and examples
    artifacts = work / "run" / "artifacts"
    examples = training.newest(artifacts / "NiftiExampleGen" / "examples")
    cases = json.loads((examples / "cases.json").read_text(encoding="utf-8"))
    scans = len(cases["cases"])
    few = _part(data, work / "few", cases["cases"])
    read = len(ingest.scan_pairs(data)) - len(ingest.scan_pairs(few))
    both = [ingest.stage(folder, work / "examples") for folder in (few, data)]
    statistics = [_statistics(examples, work / "statistics", excluded) for excluded in (["train"], [])]
    evaluations = [_evaluation(artifacts, work / "evaluation", split) for split in ("test", "train")]
    sizes = {name: counts["scans"] for name, counts in cases["splits"].items()}
    evaluate_s = _slope(evaluations, sizes["train"] - sizes["test"])
    train_s, drawn = _training(work / "run", sizes["train"])
    return Constants(
        slices=sum(counts["slices"] for counts in cases["splits"].values()) / scans,
        source_bytes=_size(data) / len(ingest.scan_pairs(data)),
        example_bytes=_size(examples, "Split-*/*") / scans,
        listing_bytes=(examples / "cases.json").stat().st_size / scans,
        ingest_s=_slope(both, read),
        driver_s=_driver(data, work / "links", cases),
        statistics_s=_slope(statistics, sizes["train"]),
        evaluate_s=evaluate_s,
        shuffle_bytes=_shuffled_bytes(evaluations[1]) / sizes["train"],
        train_s=train_s,
        drawn=drawn,
    )


def against_processes(data: Path, work: Path, repeats: int) -> Iterator[str]:
    """Yields how ingestion in several processes compares with ingestion in this one, on few scans and on many."""
    many = cohort.multiplied(data, work / "many", COPIES)
    for folder in (data, many):
        here = ingest.stage(folder, work / "here")
        there = ingest.stage(folder, work / "there", BeamConfig(runner="multi_processing"))
        ours, theirs = interleaved_seconds(here, there, repeats)
        count = len(ingest.scan_pairs(folder))
        yield f"| {count} | {ours:.1f} s | {theirs:.1f} s | {theirs / ours:.1f} |"


def _cpu_s(action: Callable[[], object]) -> float:
    """Processor seconds of an action, of all its threads."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    action()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _slope(actions: Sequence[Callable[[], object]], scans: int) -> float:
    """Processor seconds that each of so many further scans takes: the best of three of a smaller and a larger one."""
    actions[0]()
    took = [min(_cpu_s(action) for _ in range(3)) for action in actions]
    return max(0.0, took[1] - took[0]) / scans


def _size(folder: Path, pattern: str = "*/*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _part(data: Path, folder: Path, cases: list[dict[str, Any]]) -> Path:
    """The scans of val and test, and one of train: fewer, but some in each split."""
    train = [case for case in cases if case["split"] == "train"]
    chosen = {case["case_id"] for case in cases} - {case["case_id"] for case in train[1:]}
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((data / kind).iterdir()):
            if path.name.removesuffix(".nii.gz") in chosen:
                (folder / kind / path.name).symlink_to(path.resolve())
    return folder


def _context(folder: Path) -> Any:
    from tfx.dsl.components.base import base_beam_executor

    return base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=BeamConfig().pipeline_args(), tmp_dir=str(folder / "tmp"), unique_id="1"
    )


def _artifact(kind: str, folder: Path) -> Any:
    from tfx.components.util import examples_utils
    from tfx.proto import example_gen_pb2
    from tfx.types import artifact_utils, standard_artifacts

    from schema.features import SPLITS

    artifact = getattr(standard_artifacts, kind)()
    artifact.uri = str(folder)
    if kind == "Examples":
        artifact.split_names = artifact_utils.encode_split_names(list(SPLITS))
        examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
    return artifact


def _statistics(examples: Path, target: Path, excluded: list[str]) -> Callable[[], None]:
    """StatisticsGen's executor, as the pipeline runs it."""
    from tfx.components.statistics_gen.executor import Executor

    from pipeline.pipeline import create_pipeline  # noqa: F401 - what TFDV needs is imported in the right order

    import tensorflow_data_validation as tfdv  # isort: skip

    from schema.features import STATISTICS_FEATURES

    options = tfdv.StatsOptions(feature_allowlist=list(STATISTICS_FEATURES), num_values_histogram_buckets=3)
    properties = {"stats_options_json": options.to_json(), "exclude_splits": json.dumps(excluded)}

    def run() -> None:
        shutil.rmtree(target, ignore_errors=True)
        inputs = {"examples": [_artifact("Examples", examples)]}
        outputs = {"statistics": [_artifact("ExampleStatistics", target)]}
        Executor(_context(target.parent)).Do(inputs, outputs, dict(properties))

    return run


def _evaluation(artifacts: Path, target: Path, split: str) -> Callable[[], None]:
    """The gate's executor on one split, with nothing in service."""
    from tfx.types import channel_utils

    from components.evaluator.component import Evaluator

    found = {
        "examples": _artifact("Examples", training.newest(artifacts / "NiftiExampleGen" / "examples")),
        "model": _artifact("Model", training.newest(artifacts / "Trainer" / "model")),
        "baseline_model": _artifact("Model", training.newest(artifacts / "ServedModel" / "model")),
        "schema": _artifact("Schema", training.newest(artifacts / "CuratedSchema" / "schema")),
    }
    component = Evaluator(
        **{name: channel_utils.as_channel([artifact]) for name, artifact in found.items()},
        gate=load_config(CONFIG).gate.model_dump(),
        code_version="benchmark",
        split=split,
    )

    def run() -> None:
        outputs = {}
        for name, kind in (("evaluation", "ModelEvaluation"), ("blessing", "ModelBlessing")):
            shutil.rmtree(target / name, ignore_errors=True)
            (target / name).mkdir(parents=True)
            outputs[name] = [_artifact(kind, target / name)]
        executor = component.executor_spec.executor_class(_context(target))
        executor.Do({name: [artifact] for name, artifact in found.items()}, outputs, dict(component.exec_properties))

    return run


def _shuffled_bytes(evaluate: Callable[[], None]) -> int:
    """Bytes of all packed slices where the gate unpacks them, behind its shuffle."""
    from components.evaluator import patient_metrics

    real, sizes = patient_metrics.unpack_prediction, []

    def counting(data: bytes) -> Any:
        sizes.append(len(data))
        return real(data)

    with mock.patch.object(patient_metrics, "unpack_prediction", counting):
        evaluate()
    return sum(sizes)


def _training(output: Path, scans: int) -> tuple[float, float]:
    """Processor seconds of a slice in a training step, and the slices that an epoch draws of a scan."""
    prepared = training.prepare(output, CONFIG)
    batches = iter(prepared.batches())
    held = [next(batches) for _ in range(2)]

    def steps() -> None:
        for index in range(training.STEPS):
            loss = prepared.step(*held[index % 2])
        loss.numpy()

    steps()
    seconds = min(_cpu_s(steps) for _ in range(3))
    chosen = prepared.config.training
    drawn = prepared.counts.drawn(chosen.lesion_fraction) / scans
    return seconds / training.STEPS / chosen.batch_size, drawn


def _driver(data: Path, folder: Path, cases: dict[str, Any]) -> float:
    """Processor seconds a scan of what one process does for all of them."""
    from components.imaging.checks.cohort import Member, cohort_findings
    from components.nifti_example_gen.cases import summarise_cases
    from components.nifti_example_gen.examples import CaseRecord
    from components.nifti_example_gen.layout import find_cases
    from components.nifti_example_gen.splits import deal

    config = load_config(CONFIG).model_dump()
    times = -(-5000 // len(ingest.scan_pairs(data)))
    links = cohort.multiplied(data, folder, times)
    told = [CaseRecord(**case) for case in cases["cases"]]
    records = [
        replace(record, case_id=f"{copy}-{record.case_id}", patient_id=f"{copy}-{record.patient_id}",
                image_digest=f"{copy}-{record.image_digest}")
        for copy in range(times) for record in told
    ]  # fmt: skip
    members = [Member(item.case_id, item.patient_id, item.split, item.image_digest) for item in records]
    written = folder / "outcomes.json"

    def find() -> None:
        deal(find_cases(links, config["data"]).cases, config["splits"])

    def conclude() -> None:
        written.write_text(json.dumps([dataclasses.asdict(record) for record in records]))
        json.loads(written.read_text())
        cohort_findings(members, config["data"]["checks"])
        written.write_text(json.dumps(summarise_cases(records, []), indent=1))

    return _cpu_s(find) / len(ingest.scan_pairs(links)) + _cpu_s(conclude) / len(records)


def tables(constants: Constants, scans: int = SCANS) -> Iterator[str]:
    """Yields the lines of the tables in Markdown."""
    yield "| constant | measured |"
    yield "| --- | --- |"
    for name, value, unit in (
        ("ingestion", constants.ingest_s, "s a scan"),
        ("the part of it that one process does for all", 1e3 * constants.driver_s, "ms a scan"),
        ("statistics", 1e3 * constants.statistics_s, "ms a scan"),
        ("training", 1e3 * constants.train_s, "ms a slice and step"),
        ("slices drawn of a scan in an epoch", constants.drawn, f"of {constants.slices:.1f}"),
        ("gate, one model", constants.evaluate_s, "s a scan"),
        ("scan and mask as delivered", constants.source_bytes / 1e6, "MB a scan"),
        ("examples at rest", constants.example_bytes / 1e6, "MB a scan"),
        ("the gate's shuffle", constants.shuffle_bytes / 1e3, "kB a scan"),
        ("`cases.json`", constants.listing_bytes / 1e3, "kB a scan"),
    ):
        yield f"| {name} | {value:.3g} {unit} |"
    yield ""
    yield f"| {scans:,} scans | core hours | {' | '.join(f'wall on {count}' for count in WORKERS)} |"
    yield f"| --- | --- |{' --- |' * len(WORKERS)}"
    found = costs(constants, scans)
    for cost in found:
        yield f"| {cost.stage} | {cost.core_hours:,.1f} | {' | '.join(map(_hours, cost.wall_hours))} |"
    walls = [sum(cost.wall_hours[place] for cost in found) for place in range(len(WORKERS))]
    yield f"| all | {sum(cost.core_hours for cost in found):,.1f} | {' | '.join(map(_hours, walls))} |"
    yield ""
    test = _shares()[2] / sum(_shares())
    yield "| storage | size |"
    yield "| --- | --- |"
    for name, size in (
        ("scans and masks as delivered", scans * constants.source_bytes),
        ("examples", scans * constants.example_bytes),
        ("the gate's shuffle, of one model", scans * test * constants.shuffle_bytes),
        ("`cases.json`", scans * constants.listing_bytes),
    ):
        yield f"| {name} | {size / 1e9:,.2f} GB |"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--scans", type=int, default=24, help="scans to measure on (default 24)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each side (default 3)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="ich-scaling-"))
    try:
        data = cohort.scans(work / "data", options.scans)
        print(f"{options.scans} scans, {'real' if cohort.REAL.is_dir() else 'generated'}; {os.cpu_count()} cores\n")
        for line in tables(measure(data, work)):
            print(line, flush=True)
        print("\n| scans | in_process | multi_processing | ratio |\n| --- | --- | --- | --- |")
        for line in against_processes(data, work, options.repeats):
            print(line, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
