"""Fills the templates in for the versions that an output folder holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.imaging.errors import UsageError
from components.imaging.nifti import write_bytes
from serving.manifests.models_config import FILE_NAME, FOLDER, labels_of, models_config
from serving.versions import CARD_FILES, models, versions

IMAGE = "tensorflow/serving:2.19.1"
CORES = 2
MEMORY_MIB = 3072
"""The least that a server gets."""
FLAGS = (
    "--port=8500",
    "--rest_api_port=8501",
    "--rest_api_timeout_in_ms=300000",
    "--model_config_file_poll_wait_seconds=10",
    "--allow_version_labels_for_unavailable_models=true",
    "--file_system_poll_wait_seconds=30",
    "--num_load_threads=1",
    "--enable_model_warmup=true",
    "--enable_batching=true",
    "--batching_parameters_file=/config/batching.config",
    "--enable_per_model_batching_parameters=true",
    "--monitoring_config_file=/config/monitoring.config",
    f"--tensorflow_intra_op_parallelism={CORES}",
)
"""Of the model server, the same wherever it runs; loading has a thread of its own, so that requests do not wait."""

CONFIGS = ("batching.config", "monitoring.config")
"""What the server reads itself, besides the `models.config` that lies beside the versions."""
MANIFESTS = (
    "compose.yaml",
    "kubernetes/config.yaml",
    "kubernetes/volume.yaml",
    "kubernetes/deployment.yaml",
    "kubernetes/service.yaml",
    "kserve.yaml",
)


def model_folder(output: Path, name: str | None = None) -> Path:
    """The folder of versions of a run's output folder.

    Args:
        output: The output folder.
        name: The model's name; needed where there are several.

    Raises:
        UsageError: Nothing was pushed there, or the choice is not clear.
    """
    found = models(output)
    names = ", ".join(path.name for path in found)
    chosen = [path for path in found if name in (None, path.name)]
    if len(chosen) == 1:
        return chosen[0]
    if len(chosen) > 1:
        raise UsageError(f"{output}: holds the models {names}; give one of them with --model-name")
    wanted = f"a model {name} in service" if name else "a model in service"
    raise UsageError(f"{output}: found {names or 'none'}, wanted {wanted}; run `ich run` first or give its --output")


def render(folder: Path) -> dict[str, str]:
    """All files by their place.

    Args:
        folder: The folder of a model's versions, `<output>/serving/<model name>`.

    Raises:
        UsageError: There is no version in it.
    """
    found = versions(folder)
    if not found:
        raise UsageError(f"{folder}: found no version of a model, wanted one at least; run `ich run` first")
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # it is no HTML
    )  # fmt: skip
    templates.globals.update(
        model=folder.name,
        serving=str(folder.resolve().parent).replace("$", "$$"),  # as Compose wants it
        image=IMAGE,
        flags=(*FLAGS, f"--model_config_file={FOLDER}/{folder.name}/{FILE_NAME}"),
        cores=CORES,
        memory_mib=_memory_mib(found[-1]),
    )
    configs = {name: templates.get_template(f"{name}.j2").render() for name in CONFIGS}
    others = {name: templates.get_template(f"{name}.j2").render(configs=configs) for name in MANIFESTS}
    return {**configs, **{name: _tidy(text) for name, text in others.items()}}


def _memory_mib(version: Path) -> int:
    """Half as much again as the version needed in a process of its own, for older versions are loaded beside it."""
    try:
        peak = float(json.loads((version / CARD_FILES[1]).read_bytes())["servability"]["peak_mib"])
    except (OSError, ValueError, KeyError, TypeError):  # no card, or that of an older program
        return MEMORY_MIB
    return max(MEMORY_MIB, 512 * math.ceil(1.5 * peak / 512))


def _tidy(text: str) -> str:
    """Without the empty lines that a macro leaves behind."""
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n"


def write_manifests(folder: Path, target: Path) -> list[Path]:
    """Writes all files below a folder, and `models.config` beside the versions where it is missing; returns where.

    Raises:
        UsageError: There is no version of a model, or nothing can be written there.
    """
    texts = {target / name: text for name, text in render(folder).items()}
    if not (folder / FILE_NAME).exists():  # of a folder that was not filled by a push
        numbers = [int(path.name) for path in versions(folder)]
        texts[folder / FILE_NAME] = models_config(folder.name, labels_of(numbers))
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode())
        except OSError as error:
            raise UsageError(f"{path}: cannot write there ({error.strerror}); choose another folder") from None
    return list(texts)
