"""`Tuner`: TFX's own, with a table of everything that was tried."""

from __future__ import annotations

import tfx.v1 as tfx
from tfx import types
from tfx.dsl.components.base import executor_spec

from components.transform.preprocessing import CONFIG_KEY
from components.tuner.executor import Executor


class Tuner(tfx.components.Tuner):
    """Searches learning rate, loss weights and width for the best Dice on the validation split.

    Outputs:
        best_hyperparameters: For a Trainer, as KerasTuner's JSON.
        tuner_results: `trials.json`: hyperparameters, epochs, status, val Dice and minutes of every trial.

    Example:
        >>> tuner = Tuner(examples=example_gen.outputs["examples"], schema=schema.outputs["schema"],
        ...               transform_graph=transform.outputs["transform_graph"], work_dir="training", code_version="1",
        ...               config=config.subset("grid", "windows", "normalisation", "network", "training", "postprocess",
        ...                                    "tuner"))
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        schema: types.BaseChannel,
        config: str,
        work_dir: str,
        code_version: str,
    ) -> None:
        """Describes the stage.

        Args:
            examples: Slice examples, with the splits train and val.
            transform_graph: From Transform.
            schema: Schema of the examples.
            config: The sections grid, windows, normalisation, network, training, postprocess and tuner as JSON.
            work_dir: Folder or URI where the search and its trials live, so that a killed one goes on.
            code_version: Changes when the code does, so that its cached results are not reused.
        """
        super().__init__(
            examples=examples,
            transform_graph=transform_graph,
            schema=schema,
            tuner_fn="components.tuner.tuner_fn.tuner_fn",
            train_args=tfx.proto.TrainArgs(splits=["train"]),
            eval_args=tfx.proto.EvalArgs(splits=["val"]),
            custom_config={CONFIG_KEY: config, "work_dir": work_dir, "code_version": code_version},
        )
