"""How the stage's configuration travels through TFX's own properties."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import wrappers_pb2
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs as specs
from tfx.utils import proto_utils


def read_settings(exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    """The sections data, grid and splits of the configuration that the component was made with."""
    custom = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[specs.CUSTOM_CONFIG_KEY], custom)
    payload = wrappers_pb2.StringValue()
    custom.custom_config.Unpack(payload)
    settings: dict[str, Any] = json.loads(json.loads(payload.value)["config"])
    return settings
