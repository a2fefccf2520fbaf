"""What each container of the compiled pipeline runs: the stage's driver where it has one, then its executor.

Kubeflow's open-source backend asks no driver, hands artifacts over as `s3://`, `gs://` or `minio://` while it has put
them into local folders, and adds parameters by which it tells runs apart. TFX's own entry point minds none of it.

Exit codes are those of `ich`: 2 for what the user must mend in configuration or data, 1 for anything else.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.imaging.errors import IchError, root_cause
from pipeline.kubeflow.compile import STATES

ROOT_VARIABLE = "ICH_LAUNCHER_ROOT"
"""Names the folder below which the launcher puts artifacts; `/` where it is not set."""

_FOLDERS = {"gs://": "gcs/", "s3://": "s3/", "minio://": "minio/"}
"""Where Kubeflow's launcher keeps the content of a URI, by how that begins."""

_EXAMPLE_GEN = "components.nifti_example_gen.executor.Executor"


def to_local(value: Any, root: str) -> Any:
    """JSON with the launcher's folder in place of every URI that it maps."""
    return _replaced(value, {scheme: root + folder for scheme, folder in _FOLDERS.items()})


def to_remote(value: Any, root: str) -> Any:
    """The way back."""
    return _replaced(value, {root + folder: scheme for scheme, folder in _FOLDERS.items()})


def _replaced(value: Any, prefixes: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, prefixes) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, prefixes) for item in value]
    if isinstance(value, str):
        for start, other in prefixes.items():
            if value.startswith(start):
                return other + value[len(start) :]
    return value


def prepare(executor_input: dict[str, Any], executor: str, root: str) -> dict[str, Any]:
    """What the executor is to see.

    Args:
        executor_input: The launcher's `ExecutorInput`, as JSON.
        executor: Import path of the executor.
        root: The folder below which the launcher puts artifacts.

    Returns:
        The same with local artifacts, without the parameters that are none of the executor's, and with what the
        driver resolved.
    """
    found: dict[str, Any] = json.loads(json.dumps(executor_input))
    for side in ("inputs", "outputs"):
        for artifacts in found.get(side, {}).get("artifacts", {}).values():
            for artifact in artifacts.get("artifacts", ()):
                artifact["uri"] = to_local(artifact["uri"], root)
    parameters: dict[str, Any] = found.setdefault("inputs", {}).setdefault("parameterValues", {})
    for state in STATES:
        parameters.pop(state, None)
    if executor == _EXAMPLE_GEN:
        from components.nifti_example_gen.driver import Driver

        resolved = Driver(None).resolve_exec_properties(dict(parameters), None, None)
        parameters.update({name: value for name, value in resolved.items() if value is not None})
    return found


def run(arguments: Sequence[str], root: str) -> None:
    """Runs one stage.

    Args:
        arguments: As TFX's entry point takes them.
        root: The folder below which the launcher puts artifacts.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True)
    options, beam_args = parser.parse_known_args(arguments)
    executor_input = prepare(json.loads(options.json_serialized_invocation_args), options.executor_class_path, root)
    declared = json.loads(options.json_serialized_inputs_spec_args)
    for name, value in executor_input["inputs"]["parameterValues"].items():
        kind = "NUMBER_INTEGER" if isinstance(value, int) else "STRING"
        declared.setdefault("parameters", {}).setdefault(name, {"parameterType": kind})
    options.json_serialized_invocation_args = json.dumps(executor_input)
    options.json_serialized_inputs_spec_args = json.dumps(declared)

    from absl import flags
    from absl import logging as absl_logging
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    import components.storage.filesystem  # noqa: F401 - data, models, statistics and checkpoints may lie in buckets

    flags.FLAGS(["ich", "--tfxio_use_byte_size_batching"])  # else readers batch up to 1000 examples, images and all
    absl_logging.set_verbosity(absl_logging.INFO)
    outputs = executor_input["outputs"]
    for name, artifacts in outputs.get("artifacts", {}).items():
        for artifact in artifacts["artifacts"]:  # executors expect a folder, as TFX's own runner makes it
            folder = Path(artifact["uri"])
            is_value = name in outputs.get("parameters", {})  # a file
            (folder.parent if is_value else folder).mkdir(parents=True, exist_ok=True)
    kubeflow_v2_run_executor.main((options, beam_args))
    told = Path(executor_input["outputs"]["outputFile"])
    told.write_text(json.dumps(to_remote(json.loads(told.read_text(encoding="utf-8")), root)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        run(sys.argv[1:] if arguments is None else arguments, os.environ.get(ROOT_VARIABLE, "/"))
    except Exception as error:
        cause = root_cause(error)
        if not isinstance(cause, IchError):
            traceback.print_exc()
            return IchError.exit_code
        print(f"error: {cause}", file=sys.stderr, flush=True)
        return cause.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
