"""How `Pusher` differs from TFX's: pushing the same model again changes nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tfx.components.pusher import executor as tfx_pusher
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import proto_utils

from components.imaging.errors import UsageError
from serving.versions import read_contract, versions


class Executor(tfx_pusher.Executor):
    """Pushes unless the newest version came from the same data, configuration and code."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Pushes a blessed model."""
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[specs.PUSH_DESTINATION_KEY], destination)
        served = versions(Path(destination.filesystem.base_directory))
        if served and self.CheckBlessing(input_dict) and _same(Path(self.GetModelPath(input_dict)), served[-1]):
            pushed = artifact_utils.get_single_instance(output_dict[specs.PUSHED_MODEL_KEY])
            self._MarkPushed(pushed, pushed_destination=str(served[-1]), pushed_version=served[-1].name)
            return
        if served:
            # Versions are seconds: a clock that was set back must not put a new model behind an old one.
            while int(time.time()) <= int(served[-1].name) < int(time.time()) + 5:
                time.sleep(0.2)
        super().Do(input_dict, output_dict, exec_properties)


def _same(candidate: Path, served: Path) -> bool:
    """Whether two models came from the same export."""
    try:
        return read_contract(candidate) == read_contract(served)
    except UsageError:
        return False
