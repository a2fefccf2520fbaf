"""The pipeline, from scans to a served model, as one graph for every runner. Read it from top to bottom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tfx.v1 as tfx
from tensorflow_data_validation import StatsOptions

from components.curated_schema.component import CuratedSchema
from components.data_gate.component import DataGate
from components.data_report.component import DataReporter
from components.data_validator.component import DataValidator
from components.evaluator.component import Evaluator
from components.nifti_example_gen.component import NiftiExampleGen
from components.pusher.component import Pusher
from components.run_report.component import RunReporter
from components.servability.component import Servability
from components.served_model.component import ServedModel
from components.starting_point.component import StartingPoint
from components.starting_point.state import State
from components.transform.preprocessing import CONFIG_KEY
from components.tuner.component import Tuner
from pipeline.code_version import all_parts, code_version
from pipeline.config import NO_RESULT, BeamConfig, Config
from schema import features as f

SCHEMA = Path(__file__).parents[1] / "schema" / "schema.pbtxt"


@dataclass(frozen=True)
class Places:
    """Where a pipeline reads and writes; every value may be a folder or a URI.

    Attributes:
        data: The data folder.
        artifacts: TFX's pipeline root.
        serving: The folder that TF Serving watches.
        statistics: Statistics of the data of earlier runs.
        work: Checkpoints and TensorBoard logs.
        metadata: Options of the metadata store's connection; None where the runner brings its own.
    """

    data: str
    artifacts: str
    serving: str
    statistics: str
    work: str
    metadata: Path | None = None


def create_pipeline(config: Config, places: Places, state: State | None) -> tfx.dsl.Pipeline:
    """Builds the graph.

    Args:
        config: The configuration.
        places: Where to read and write.
        state: What there is as the pipeline starts: another model in service makes the gate look anew, other
            statistics the validator. None where the pipeline is compiled ahead: a stage of its own looks then.
    """
    starting_point = None
    if state is None:
        starting_point = StartingPoint(
            folder=places.data, data=config.subset("data"), statistics=places.statistics, serving=places.serving
        )
        state = State()  # the compiler passes on what that stage finds

    # 1. Scans and masks become slice examples, split by patient.
    example_gen = NiftiExampleGen(
        places.data,
        config=config.subset("data", "grid", "splits"),
        code_version=code_version("imaging", "nifti_example_gen", "schema", "storage"),
    )

    # 2. Statistics of the scalars are held against the curated schema, the data before, and that of the model in
    # service. What is found holds the push, is only said, or stops the run, but not before the report is written.
    statistics = tfx.components.StatisticsGen(
        examples=example_gen.outputs["examples"],
        stats_options=StatsOptions(feature_allowlist=list(f.STATISTICS_FEATURES), num_values_histogram_buckets=3),
    )
    schema = CuratedSchema(text=SCHEMA.read_text(encoding="utf-8"))
    validator = DataValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        examples=example_gen.outputs["examples"],
        validation=config.subset("validation"),
        max_quarantined=json.dumps(config.data.max_quarantined),
        store=places.statistics,
        serving=places.serving,
        state=f"{state.serving}|{state.statistics}",
        code_version=code_version("data_validator", "serving", "storage"),
    )
    reporter = DataReporter(
        examples=example_gen.outputs["examples"],
        findings=validator.outputs["report"],
        name=config.name,
        code_version=code_version("data_report", "imaging", "pages", "schema"),
    )
    data_gate = DataGate(
        findings=validator.outputs["report"],
        statistics=statistics.outputs["statistics"],
        examples=example_gen.outputs["examples"],
        store=places.statistics,
        code_version=code_version("data_gate", "data_validator", "storage"),
    )
    data_gate.add_upstream_node(reporter)

    # 3. HU windows, in the graph: no pass over the data, no second copy of the images.
    transform = tfx.components.Transform(
        examples=example_gen.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="components.transform.preprocessing.preprocessing_fn",
        custom_config={
            CONFIG_KEY: config.subset("grid", "windows", "normalisation"),
            "code_version": code_version("transform", "schema"),
        },
        splits_config=tfx.proto.SplitsConfig(analyze=["train"], transform=[]),
        materialize=False,
        disable_statistics=True,
    )
    transform.add_upstream_node(data_gate)

    # 4. The network; where it is asked for, after a search for its recipe.
    tuner = None
    if config.tuner.enabled:
        tuner = Tuner(
            examples=example_gen.outputs["examples"],
            transform_graph=transform.outputs["transform_graph"],
            schema=schema.outputs["schema"],
            config=config.subset(
                "grid",
                "windows",
                "normalisation",
                "network",
                "training",
                "postprocess",
                "tuner",
                *(["inference"] if config.network.kind == "3d" else []),  # trials validate with windows that overlap
            ),
            work_dir=places.work,
            code_version=code_version("imaging", "transform", "trainer", "schema", "tuner"),
        )
    trainer = tfx.components.Trainer(
        run_fn="components.trainer.run_fn.run_fn",
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema.outputs["schema"],
        hyperparameters=tuner.outputs["best_hyperparameters"] if tuner else None,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["val"]),
        custom_config={
            CONFIG_KEY: config.subset(
                "grid", "windows", "normalisation", "network", "training", "inference", "postprocess", "output"
            ),
            "config_fingerprint": config.fingerprint(),
            "model_name": config.output.model_name,
            "work_dir": places.work,
            "code_version": code_version("imaging", "transform", "trainer", "schema", "serving"),
        },
    )

    # 5. The gate: per patient, on the native grid, against the model in service.
    served = ServedModel(
        folder=places.serving,
        grid=config.subset("grid"),
        state=state.serving,
        code_version=code_version("served_model", "storage"),
    )
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=served.outputs["model"],
        schema=schema.outputs["schema"],
        gate=json.loads(config.subset("gate"))["gate"],
        code_version=code_version("evaluator", "imaging"),
    )

    # Of two Beam arguments the later one wins. Transform but traces its graph, which pays for no job on an engine.
    for stage in (example_gen, statistics, transform, evaluator):
        if stage.id not in config.beam.stages:
            stage.with_beam_pipeline_args(BeamConfig().pipeline_args())

    # 6. Whatever it decides is put on one page, with all that the decision rests on.
    left_out = NO_RESULT if config.tuner.enabled else NO_RESULT | {"tuner"}  # what is off reruns nothing
    settings = config.subset(*(name for name in type(config).model_fields if name not in left_out))
    run_reporter = RunReporter(
        evaluation=evaluator.outputs["evaluation"],
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        findings=validator.outputs["report"],
        name=config.name,
        config=settings,
        program=code_version(*all_parts()),
        code_version=code_version("run_report", "evaluator", "imaging", "pages", "pusher", "schema", "serving"),
    )

    # 7. What the gate blessed must be servable, too: a fresh process loads it and asks it all that clients will ask.
    servability = Servability(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        bounds=config.subset("servability"),
        code_version=code_version("servability", "imaging", "serving", "schema"),
    )

    # 8. Only a model that both blessed goes into service, if nothing in the data holds it; its card goes with it.
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=servability.outputs["blessing"],
        data_report=validator.outputs["report"],
        evaluation=evaluator.outputs["evaluation"],
        examples=example_gen.outputs["examples"],
        folder=places.serving,
        config=settings,
        code_version=code_version("pusher", "data_validator", "serving/manifests", "storage"),
    )

    return tfx.dsl.Pipeline(
        pipeline_name=config.name.replace("_", "-"),  # Kubeflow takes no underscores
        pipeline_root=places.artifacts,
        components=[
            *([starting_point] if starting_point else []),
            example_gen,
            statistics,
            schema,
            validator,
            reporter,
            data_gate,
            transform,
            *([tuner] if tuner else []),
            trainer,
            served,
            evaluator,
            run_reporter,
            servability,
            pusher,
        ],
        enable_cache=True,
        metadata_connection_config=(
            tfx.orchestration.metadata.sqlite_metadata_connection_config(str(places.metadata))
            if places.metadata
            else None
        ),
        beam_pipeline_args=config.beam.pipeline_args(),
    )
