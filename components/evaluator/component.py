"""`Evaluator`: TFX's own, with metrics per patient on the native grid and an optional baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import wrappers_pb2
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator.component import Evaluator as TfxEvaluator
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts
from tfx.types import standard_component_specs as specs
from tfx.types.component_spec import ExecutionParameter
from tfx.utils import json_utils

from components.evaluator.executor import GATE_KEY, Executor
from components.evaluator.patient_metrics import KEYS
from schema import features as f
from serving.signatures import EXAMPLES_SIGNATURE

BATCH = 8


class EvaluatorSpec(specs.EvaluatorSpec):
    """TFX's, with the gate as a further parameter."""

    PARAMETERS = {**specs.EvaluatorSpec.PARAMETERS, GATE_KEY: ExecutionParameter(type=str)}  # noqa: RUF012 - as TFX


class Evaluator(TfxEvaluator):
    """Measures the candidate, and the model in service where there is one, on the same scans, and decides.

    TFMA measures and has no thresholds; `components.evaluator.rules` alone decides.

    Outputs:
        evaluation: TFMA's results, and `verdict.json`.
        blessing: Blessed when every rule of the gate holds.

    Example:
        >>> evaluator = Evaluator(examples=example_gen.outputs["examples"], model=trainer.outputs["model"],
        ...                       baseline_model=served.outputs["model"], schema=schema.outputs["schema"],
        ...                       gate={"min_mean_dice": 0.5, "max_dice_drop": 0.02, "min_test_patients": 3},
        ...                       code_version="1")
    """

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        schema: types.BaseChannel,
        gate: Mapping[str, Any],
        code_version: str,
        split: str = "test",
    ) -> None:
        """Describes the stage.

        Args:
            examples: Slice examples.
            model: The candidate.
            baseline_model: The model in service; may be an empty artifact.
            schema: Schema of the examples.
            gate: The configuration's section `gate`.
            code_version: Changes when the code does, so that its cached results are not reused.
            split: The split to measure on.
        """
        spec = EvaluatorSpec(
            examples=examples,
            model=model,
            baseline_model=baseline_model,
            schema=schema,
            example_splits=json_utils.dumps([split]),
            eval_config=eval_config(code_version),
            gate=json.dumps(gate, sort_keys=True),
            fairness_indicator_thresholds=json_utils.dumps(None),
            module_path="components.evaluator.extractors",
            evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
            blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        )
        # TFX's own constructor makes the specification itself and knows no further parameter.
        base_beam_component.BaseBeamComponent.__init__(self, spec=spec)


def eval_config(code_version: str) -> config_pb2.EvalConfig:
    """TFMA's configuration: which models, which slices, which metrics.

    Args:
        code_version: Becomes part of the metrics' configuration, and so of the cache key.
    """
    metrics = [
        config_pb2.MetricConfig(
            class_name="PatientMetric",
            module="components.evaluator.patient_metrics",
            config=json.dumps({"name": key, "code_version": code_version}),
        )
        for key in KEYS
    ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name, signature_name=EXAMPLES_SIGNATURE, is_baseline=baseline, inference_batch_size=BATCH
            )
            for name, baseline in (("candidate", False), ("baseline", True))
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            config_pb2.SlicingSpec(feature_keys=[f.SIZE_BIN]),
            config_pb2.SlicingSpec(feature_keys=[f.CASE_ID]),
        ],
        metrics_specs=[config_pb2.MetricsSpec(query_key=f.CASE_ID, metrics=metrics)],
        options=config_pb2.Options(include_default_metrics=wrappers_pb2.BoolValue(value=False)),
    )
