"""The real TF Serving, in a container."""

from __future__ import annotations

import os
import shutil

from components.imaging.errors import UsageError
from serving.manifests.render import IMAGE
from serving.prediction.predictor import find_model
from serving.server.options import Options
from serving.versions import read_contract, version_number


def command(options: Options) -> list[str]:
    """The command that starts the container; it ends as the container does.

    Raises:
        UsageError: There is no model.
    """
    newest = find_model(options.model)
    name = read_contract(newest).model_name
    # TF Serving wants a folder of versions; a single SavedModel becomes one.
    single = newest == options.model
    folder = newest.resolve() if single else newest.absolute().parent
    inside = f"/models/{name}/{version_number(folder)}" if single else f"/models/{name}"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return [
        "docker",
        "run",
        "--rm",
        *("-p", f"{host}:{options.grpc_port}:8500"),
        *("-p", f"{host}:{options.rest_port}:8501"),
        *("--mount", f"type=bind,source={folder},target={inside},readonly"),
        *("-e", f"MODEL_NAME={name}"),
        IMAGE,
        f"--file_system_poll_wait_seconds={max(1, round(options.poll_seconds))}",
        "--enable_model_warmup=true",
    ]


def start(options: Options) -> None:
    """Becomes that command, so that signals reach it.

    Raises:
        UsageError: There is no model, or no Docker.
    """
    arguments = command(options)
    if shutil.which(arguments[0]) is None:
        raise UsageError(
            "--docker: found no command docker, wanted Docker Engine; install it, or leave --docker out for the "
            "server that is built in"
        )
    os.execvp(arguments[0], arguments)
