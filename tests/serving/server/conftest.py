"""Models and a server that the tests of a module share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models import Arithmetic, export
from tests.serving.server.running import Client, running

NETWORKS = {"plain": Arithmetic(), "low": Arithmetic(level=20.0), "high": Arithmetic(level=90.0)}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SavedModels of `NETWORKS`, and one that wants the brain's figures."""
    root = tmp_path_factory.mktemp("exported")
    for name, network in {**NETWORKS, "brain": Arithmetic(brain=True, level=35.0)}.items():
        export(root / name, network)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def push(exported: dict[str, Path], tmp_path: Path) -> Callable[[str, int], Path]:
    """Puts a network into the folder of versions `tmp_path/ich`, whole at once as the pusher does."""

    def put(name: str, version: int) -> Path:
        folder = tmp_path / "ich"
        folder.mkdir(exist_ok=True)
        shutil.copytree(exported[name], tmp_path / f"part-{version}")
        return (tmp_path / f"part-{version}").rename(folder / str(version))

    return put


@pytest.fixture(scope="module")
def client(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of the plain network as version 7, which takes up to 1 MiB."""
    root = tmp_path_factory.mktemp("served") / "ich"
    shutil.copytree(exported["plain"], root / "7")
    with running(root, max_request_mib=1) as served:
        yield served


@pytest.fixture(scope="module")
def brain_client(exported: dict[str, Path]) -> Iterator[Client]:
    """A server of one SavedModel that takes several inputs."""
    with running(exported["brain"]) as served:
        yield served
