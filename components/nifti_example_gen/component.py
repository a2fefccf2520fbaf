"""`NiftiExampleGen`: scans and masks to TFRecords of slice examples, split by patient."""

from __future__ import annotations

import json

from google.protobuf import any_pb2, wrappers_pb2
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from components.nifti_example_gen.driver import Driver
from components.nifti_example_gen.executor import Executor
from components.nifti_example_gen.layout import layouts, pattern_to_glob
from components.nifti_example_gen.splits import SPLITS


class NiftiExampleGen(FileBasedExampleGen):
    """Reads a folder of NIfTI scans with masks and writes one `tf.train.Example` per axial slice.

    Outputs:
        examples: Examples with the splits train, val and test. `cases.json` beside the splits lists what went in
            and what was quarantined.

    Example:
        >>> example_gen = NiftiExampleGen(input_base="scans", config=config.subset("data", "grid", "splits"),
        ...                               code_version="1")
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, input_base: str, *, config: str, code_version: str) -> None:
        """Describes the stage.

        Args:
            input_base: The data folder, or its URI: the machine that reads the scans then holds a copy, so workers of
                Beam on other machines need the cache folder on a volume that they share.
            config: JSON of the configuration's sections data, grid and splits.
            code_version: Changes when the code does, so that its cached results are not reused.
        """
        inputs: dict[str, str] = {}
        for layout in layouts(json.loads(config)["data"]):
            prefix = f"{layout.source}_" if layout.source else ""
            if layout.manifest:
                inputs[f"{prefix}manifest"] = layout.manifest
            else:
                inputs[f"{prefix}images"] = pattern_to_glob(layout.image)
                inputs[f"{prefix}masks"] = pattern_to_glob(layout.mask)
        payload = any_pb2.Any()
        payload.Pack(wrappers_pb2.StringValue(value=json.dumps({"config": config, "code_version": code_version})))
        super().__init__(
            input_base=input_base,
            input_config=example_gen_pb2.Input(
                splits=[example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in inputs.items()]
            ),
            output_config=example_gen_pb2.Output(
                split_config=example_gen_pb2.SplitConfig(
                    splits=[
                        example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=json.loads(config)["splits"][name])
                        for name in SPLITS
                    ]
                )
            ),
            custom_config=example_gen_pb2.CustomConfig(custom_config=payload),
        )
