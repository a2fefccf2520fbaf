"""`Evaluator`: TFX's own, with metrics per patient on the native grid and an optional baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import wrappers_pb2
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components.evaluator.component import Evaluator as TfxEvaluator
from tfx.dsl.components.base import executor_spec

from components.evaluator.executor import Executor
from components.evaluator.patient_metrics import KEYS
from schema import features as f

SIGNATURE = "serving_default"
BATCH = 8


class Evaluator(TfxEvaluator):
    """Measures the candidate, and the model in service where there is one, on the same scans.

    Outputs:
        evaluation: TFMA's results, and `verdict.json`.
        blessing: Blessed when every threshold holds.

    Example:
        >>> evaluator = Evaluator(examples=example_gen.outputs["examples"], model=trainer.outputs["model"],
        ...                       baseline_model=served.outputs["model"], schema=schema.outputs["schema"],
        ...                       gate={"min_mean_dice": 0.5, "max_dice_drop": 0.02, "min_test_patients": 3},
        ...                       code_version="1")
    """

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
        super().__init__(
            examples=examples,
            model=model,
            baseline_model=baseline_model,
            schema=schema,
            example_splits=[split],
            eval_config=eval_config(gate, code_version),
            module_path="components.evaluator.extractors",
        )


def eval_config(gate: Mapping[str, Any], code_version: str) -> config_pb2.EvalConfig:
    """TFMA's configuration: which models, which slices, which thresholds.

    Args:
        gate: The configuration's section `gate`.
        code_version: Becomes part of the metrics' configuration, and so of the cache key.
    """

    def bound(value: float) -> config_pb2.GenericValueThreshold:
        return config_pb2.GenericValueThreshold(lower_bound=wrappers_pb2.DoubleValue(value=value))

    thresholds = {
        "patient_dice": config_pb2.MetricThreshold(
            value_threshold=bound(gate["min_mean_dice"]),
            change_threshold=config_pb2.GenericChangeThreshold(
                absolute=wrappers_pb2.DoubleValue(value=-gate["max_dice_drop"]),
                direction=config_pb2.MetricDirection.HIGHER_IS_BETTER,
            ),
        ),
        "patients": config_pb2.MetricThreshold(value_threshold=bound(gate["min_test_patients"])),
    }
    # A threshold without a slice would hold for every slice, down to the single scan.
    whole_split = [config_pb2.SlicingSpec()]
    metrics = [
        config_pb2.MetricConfig(
            class_name="PatientMetric",
            module="components.evaluator.patient_metrics",
            config=json.dumps({"name": key, "code_version": code_version}),
            per_slice_thresholds=[
                config_pb2.PerSliceMetricThreshold(slicing_specs=whole_split, threshold=thresholds[key])
            ]
            if key in thresholds
            else [],
        )
        for key in KEYS
    ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=name, signature_name=SIGNATURE, is_baseline=baseline, inference_batch_size=BATCH
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
