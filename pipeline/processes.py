"""Beam's runner for `beam.runner: multi_processing`: its in-process runner, with workers that start as they must."""

from __future__ import annotations

from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo

PLUGIN = "tfx"
"""What workers import before anything else: TFX fills a gap in tfx-bsl that TFDV and TFMA fall into."""


class MultiProcessingRunner(FnApiRunner):
    """Tells its workers what to import first; Beam's own sends them no options in this mode."""

    def __init__(self) -> None:
        info = beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused")
        info.pipeline_options.update({"beam:option:beam_plugins:v1": [PLUGIN]})
        super().__init__(provision_info=ExtendedProvisionInfo(info))
