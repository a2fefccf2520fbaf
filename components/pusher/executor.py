"""How `Pusher` differs from TFX's: findings against the data hold a push, and pushing a model again changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import proto_utils

from components.data_validator.findings import FILE_NAME, holding
from components.imaging.errors import UsageError
from serving.versions import read_contract, versions

DATA_REPORT_KEY = "data_report"


class Executor(tfx_pusher.Executor):
    """Pushes unless the newest version came from the same export; versions never go backwards."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes a blessed model whose data is sound; a local folder receives it in one atomic step."""
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[specs.PUSH_DESTINATION_KEY], destination)
        base = destination.filesystem.base_directory
        pushed = artifact_utils.get_single_instance(output_dict[specs.PUSHED_MODEL_KEY])
        if _is_held(artifact_utils.get_single_uri(input_dict[DATA_REPORT_KEY])):
            self._MarkNotPushed(pushed)
            return
        if "://" in base:
            super().Do(input_dict, output_dict, exec_properties)
            return
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        candidate, served = Path(self.GetModelPath(input_dict)), versions(Path(base))
        if served and _same(candidate, served[-1]):
            target = served[-1]
        else:
            # Unix time as TFX has it, but a clock that was set back must not put a new model behind an old one, nor
            # behind a folder that holds no model: TF Serving goes by the number alone.
            newest = max((int(path.name) for path in Path(base).glob("*") if path.name.isdecimal()), default=0)
            target = Path(base) / str(max(int(time.time()), newest + 1))
            _copy_whole(candidate, target)
        shutil.copytree(candidate, pushed.uri, dirs_exist_ok=True)
        self._MarkPushed(pushed, pushed_destination=str(target), pushed_version=target.name)


def _is_held(report: str) -> bool:
    """Whether a finding against the data forbids the push."""
    with fileio.open(os.path.join(report, FILE_NAME), "r") as file:  # noqa: PTH118 - a URI
        return bool(holding(file.read()))


def _copy_whole(source: Path, target: Path) -> None:
    """Copies a folder under a hidden name first: TF Serving takes only folders whose name is a number.

    What an earlier push that was killed left behind is removed.
    """
    for leftover in target.parent.glob(".*.part"):
        shutil.rmtree(leftover)
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copytree(source, part)
        part.rename(target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _same(candidate: Path, served: Path) -> bool:
    """Whether two models came from the same export."""
    try:
        return read_contract(candidate) == read_contract(served)
    except UsageError:
        return False
