"""`Pusher`: TFX's own, which minds what was found against the data and pushes no model twice."""

from __future__ import annotations

from tfx import types
from tfx.components.pusher.component import Pusher as TfxPusher
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.types import standard_component_specs as specs
from tfx.types.component_spec import ChannelParameter
from tfx.utils import json_utils

from components.pusher.executor import DATA_REPORT_KEY, Executor
from components.types import DataReport


class PusherSpec(specs.PusherSpec):
    """TFX's, with the data report as a further input."""

    INPUTS = {**specs.PusherSpec.INPUTS, DATA_REPORT_KEY: ChannelParameter(type=DataReport)}  # noqa: RUF012 - as TFX


class Pusher(TfxPusher):
    """Copies a blessed model to `<folder>/<version>`, `saved_model.pb` last, as TF Serving wants it.

    A finding against the data of severity hold keeps the model out of service.

    Outputs:
        pushed_model: What was pushed, where, and under which version.

    Example:
        >>> pusher = Pusher(model=trainer.outputs["model"], model_blessing=evaluator.outputs["blessing"],
        ...                 data_report=validator.outputs["report"], folder="output/serving/ich", code_version="1")
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        data_report: types.BaseChannel,
        folder: str,
        code_version: str,
    ) -> None:
        """Describes the stage.

        Args:
            model: The candidate.
            model_blessing: The gate's verdict on it.
            data_report: What was found against the data.
            folder: The folder that TF Serving watches.
            code_version: Changes when the code does, so that its cached results are not reused.
        """
        spec = PusherSpec(
            model=model,
            model_blessing=model_blessing,
            data_report=data_report,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=folder)
            ),
            custom_config=json_utils.dumps({"code_version": code_version}),
            pushed_model=types.Channel(type=standard_artifacts.PushedModel),
        )
        # TFX's own constructor makes the specification itself and knows no further input.
        base_component.BaseComponent.__init__(self, spec=spec)
