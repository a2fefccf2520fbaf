"""What starts in each worker, as the launcher of Beam's own images does: fetch what was staged, install it, run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_artifact_api_pb2,
    beam_artifact_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    beam_runner_api_pb2,
)
from google.protobuf import json_format
from setuptools import build_meta


def fetch(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Path], str]:
    """Writes what was staged to a folder; returns the files by name, and the pipeline's options as JSON."""
    metadata = [("worker_id", options.id)]
    with grpc.insecure_channel(options.provision_endpoint) as channel:
        provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = provision.GetProvisionInfo(request, metadata=metadata, wait_for_ready=True, timeout=60).info
    files = {}
    with grpc.insecure_channel(options.artifact_endpoint) as channel:
        artifacts = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        for artifact in info.dependencies:
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
            chunks = artifacts.GetArtifact(beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact))
            files[role.staged_name] = folder / role.staged_name
            files[role.staged_name].write_bytes(b"".join(chunk.data for chunk in chunks))
    return files, json_format.MessageToJson(info.pipeline_options)


def install(package: Path, folder: Path) -> None:
    """Builds a source distribution and unpacks its wheel: pip without its dependencies."""
    with tarfile.open(package) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    os.chdir(source)
    wheel = build_meta.build_wheel(str(folder))
    with zipfile.ZipFile(folder / wheel) as archive:
        archive.extractall(folder / "installed")
    os.chdir("/")


def main() -> None:
    """The container contract of Beam's workers."""
    parser = argparse.ArgumentParser()
    for name in ("id", "logging_endpoint", "artifact_endpoint", "provision_endpoint", "control_endpoint"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    folder = Path(os.environ["WORKERS_FOLDER"]) / f"{os.getpid()}"
    folder.mkdir()
    with (folder / "log").open("wb") as log:  # else a pipe of the pool that nobody reads
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    before = importlib.util.find_spec("components") is not None
    files, pipeline_options = fetch(folder, options)
    install(files["workflow.tar.gz"], folder)
    sys.path.insert(0, str(folder / "installed"))
    found = importlib.util.find_spec("components")
    assert found is not None and found.origin is not None
    told = {"known_before": before, "package": found.origin, "staged": sorted(files)}
    (folder / "worker.json").write_text(json.dumps(told))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        """Notes each scan that this worker opens."""
        if event == "open" and str(arguments[0]).endswith(".nii.gz"):
            with (folder / "opened.txt").open("a") as file:
                file.write(f"{arguments[0]}\n")

    sys.addaudithook(watch)
    os.environ.update(
        WORKER_ID=options.id,
        PIPELINE_OPTIONS=pipeline_options,
        CONTROL_API_SERVICE_DESCRIPTOR=f'url: "{options.control_endpoint}"',
        LOGGING_API_SERVICE_DESCRIPTOR=f'url: "{options.logging_endpoint}"',
    )
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main()
