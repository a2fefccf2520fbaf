"""`Pusher`: TFX's own, which does not put the model that already is in service there a second time."""

from __future__ import annotations

from tfx import types
from tfx.components.pusher.component import Pusher as TfxPusher
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2

from components.pusher.executor import Executor


class Pusher(TfxPusher):
    """Copies a blessed model to `<folder>/<version>`, `saved_model.pb` last, as TF Serving wants it.

    Outputs:
        pushed_model: What was pushed, where, and under which version.

    Example:
        >>> pusher = Pusher(model=trainer.outputs["model"], model_blessing=evaluator.outputs["blessing"],
        ...                 folder="output/serving/ich", code_version="1")
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, *, model: types.BaseChannel, model_blessing: types.BaseChannel, folder: str, code_version: str
    ) -> None:
        """Describes the stage.

        Args:
            model: The candidate.
            model_blessing: The gate's verdict on it.
            folder: The folder that TF Serving watches.
            code_version: Changes when the code does, so that its cached results are not reused.
        """
        super().__init__(
            model=model,
            model_blessing=model_blessing,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=folder)
            ),
            custom_config={"code_version": code_version},
        )
