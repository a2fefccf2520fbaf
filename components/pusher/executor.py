"""How `Pusher` differs from TFX's: findings hold a push, a model goes with its card, and none is pushed twice."""

from __future__ import annotations

import datetime
import json
import os
import time
from typing import Any

from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import json_utils, proto_utils

from components.data_validator.findings import FILE_NAME, holding
from components.evaluator.verdict import FILE_NAME as VERDICT
from components.nifti_example_gen.cases import FILE_NAME as CASES
from components.pusher.card import model_card, to_markdown
from components.pusher.place import copy_whole, next_version, same_export, write_labels
from components.servability.rules import FILE_NAME as SERVABILITY
from components.storage.files import copy_tree
from components.storage.served import served_versions, version_name
from serving.versions import CARD_FILES, CONTRACT_FILE

DATA_REPORT_KEY, EVALUATION_KEY, EXAMPLES_KEY = "data_report", "evaluation", "examples"
CONFIG_KEY = "config"


class Executor(tfx_pusher.Executor):
    """Pushes unless the newest version came from the same export; versions never go backwards."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes a blessed model whose data is sound; a folder receives it and its card in one atomic step.

        So does a bucket, as far as anybody can see who goes by `saved_model.pb`, which is uploaded last.
        """
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[specs.PUSH_DESTINATION_KEY], destination)
        base = destination.filesystem.base_directory
        pushed = artifact_utils.get_single_instance(output_dict[specs.PUSHED_MODEL_KEY])
        if _is_held(artifact_utils.get_single_uri(input_dict[DATA_REPORT_KEY])):
            self._MarkNotPushed(pushed)
            return
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        candidate, served = self.GetModelPath(input_dict), served_versions(base)
        if served and same_export(candidate, served[-1]):
            target = served[-1]
        else:
            target = next_version(base)
            copy_whole(candidate, target, _card(candidate, input_dict, exec_properties, version_name(target)))
        write_labels(base)
        copy_tree(target, pushed.uri)
        self._MarkPushed(pushed, pushed_destination=target, pushed_version=version_name(target))


def _card(candidate: str, input_dict: dict[str, Any], exec_properties: dict[str, Any], version: str) -> dict[str, str]:
    """The texts of the model's card by their place in the version's folder."""
    config = json_utils.loads(exec_properties[specs.CUSTOM_CONFIG_KEY])[CONFIG_KEY]
    card = model_card(
        _read(artifact_utils.get_single_uri(input_dict[EVALUATION_KEY]), VERDICT),
        _read(artifact_utils.get_single_uri(input_dict[EXAMPLES_KEY]), CASES),
        _read(candidate, CONTRACT_FILE),
        _read(artifact_utils.get_single_uri(input_dict[specs.INFRA_BLESSING_KEY]), SERVABILITY),
        config=json.loads(config),
        version=version,
        pushed=datetime.datetime.fromtimestamp(time.time(), datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    texts = (to_markdown(card), json.dumps(card, indent=1, allow_nan=False))
    return dict(zip(CARD_FILES, texts, strict=True))


def _read(uri: str, name: str) -> Any:
    with fileio.open(os.path.join(uri, name), "r") as file:  # noqa: PTH118 - a URI
        return json.load(file)


def _is_held(report: str) -> bool:
    """Whether a finding against the data forbids the push."""
    with fileio.open(os.path.join(report, FILE_NAME), "r") as file:  # noqa: PTH118 - a URI
        return bool(holding(file.read()))
