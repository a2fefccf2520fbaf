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

from components.pusher.executor import CONFIG_KEY, DATA_REPORT_KEY, EVALUATION_KEY, EXAMPLES_KEY, Executor
from components.types import DataReport


class PusherSpec(specs.PusherSpec):
    """TFX's, with the data report and what the model's card tells as further inputs."""

    INPUTS = {  # noqa: RUF012 - as TFX
        **specs.PusherSpec.INPUTS,
        DATA_REPORT_KEY: ChannelParameter(type=DataReport),
        EVALUATION_KEY: ChannelParameter(type=standard_artifacts.ModelEvaluation),
        EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
    }


class Pusher(TfxPusher):
    """Copies a blessed model to `<folder>/<version>`, `saved_model.pb` last, as TF Serving wants it.

    A model that `Servability` did not bless stays out of service, and so does one where a finding against the data has
    the severity hold. With the model goes its card, as `assets.extra/model_card.md` and `.json`;
    `<folder>/models.config` gives it the label `canary`, and the one before it `stable`.

    Outputs:
        pushed_model: What was pushed, where, and under which version.

    Example:
        >>> pusher = Pusher(model=trainer.outputs["model"], model_blessing=evaluator.outputs["blessing"],
        ...                 infra_blessing=servability.outputs["blessing"],
        ...                 data_report=validator.outputs["report"], evaluation=evaluator.outputs["evaluation"],
        ...                 examples=example_gen.outputs["examples"], folder="output/serving/ich", config="{}",
        ...                 code_version="1")
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        infra_blessing: types.BaseChannel,
        data_report: types.BaseChannel,
        evaluation: types.BaseChannel,
        examples: types.BaseChannel,
        folder: str,
        config: str,
        code_version: str,
    ) -> None:
        """Describes the stage.

        Args:
            model: The candidate.
            model_blessing: The gate's verdict on it.
            infra_blessing: Whether it can be served, with what was measured, for the card.
            data_report: What was found against the data.
            evaluation: What the gate measured, for the card.
            examples: For `cases.json`, for the card.
            folder: The folder that TF Serving watches.
            config: JSON of the configuration's sections that make the recipe, for the card.
            code_version: Changes when the code does, so that its cached results are not reused.
        """
        spec = PusherSpec(
            model=model,
            model_blessing=model_blessing,
            infra_blessing=infra_blessing,
            data_report=data_report,
            evaluation=evaluation,
            examples=examples,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=folder)
            ),
            custom_config=json_utils.dumps({"code_version": code_version, CONFIG_KEY: config}),
            pushed_model=types.Channel(type=standard_artifacts.PushedModel),
        )
        # TFX's own constructor makes the specification itself and knows no further input.
        base_component.BaseComponent.__init__(self, spec=spec)
