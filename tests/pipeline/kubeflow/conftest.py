"""A cluster's API, a configuration that leads to it, and a compiled pipeline."""

# Without postponed annotations: kfp looks at them.
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kfp import compiler, dsl

from pipeline.config import Config, load_config
from pipeline.kubeflow import connection
from tests.pipeline.kubeflow.fake_api import FakeApi, serving


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine gets in, and nobody waits between attempts."""
    for name in (connection.ENDPOINT, connection.TOKEN_FILE, connection.TOKEN, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(connection, "PAUSE_SECONDS", 0)


@pytest.fixture
def api() -> FakeApi:
    """What is on the cluster."""
    return FakeApi()


@pytest.fixture
def host(api: FakeApi) -> Iterator[str]:
    """Its address."""
    with serving(api) as address:
        yield address


@pytest.fixture
def config(host: str) -> Callable[..., Config]:
    """Makes configurations that lead there."""
    return lambda *settings: load_config("demo", [f"kubeflow.host={host}", "kubeflow.timeout_seconds=20", *settings])


def compile_to(path: Path, text: str) -> None:
    """Compiles a pipeline of one step with kfp itself."""

    @dsl.container_component
    def step() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image="ich:1", command=["echo"], args=[text])

    @dsl.pipeline(name="demo")
    def demo() -> None:
        step()

    compiler.Compiler().compile(demo, str(path))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two compiled pipelines."""
    folder = tmp_path_factory.mktemp("packages")
    for text in ("first", "second"):
        compile_to(folder / f"{text}.yaml", text)
    return [folder / "first.yaml", folder / "second.yaml"]
