"""The input pipeline against the training step, and training against the bare step on tensors in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Result, interleaved_seconds
from pipeline.config import Config, load_config

STEPS = 12
"""Steps of one timed stretch; stretches of both sides take turns."""


def measure(output: Path, repeats: int) -> Iterator[Result]:
    """Yields both ratios.

    Args:
        output: Output folder of a finished run with the configuration `phe_sich`.
        repeats: Timed stretches of each side.
    """
    prepared = prepare(output, "phe_sich")
    step, size = prepared.step, prepared.config.training.batch_size
    batches = iter(prepared.batches())
    held = [next(batches) for _ in range(4)]
    turn = iter(range(10**9))

    def bare() -> None:
        for _ in range(STEPS):
            loss = step(*held[next(turn) % len(held)])
        loss.numpy()

    def fed() -> None:
        for _ in range(STEPS):
            loss = step(*next(batches))
        loss.numpy()

    def stream() -> None:
        for _ in range(STEPS):
            next(alone)

    ours, floor = interleaved_seconds(fed, bare, repeats)
    yield Result(
        "fit / step on tensors in memory",
        floor / ours,
        "x",
        0.95,
        False,
        f"{STEPS * size / ours:.1f} against {STEPS * size / floor:.1f} slices/s",
    )
    alone = iter(prepared.batches())
    for _ in range(STEPS):
        next(alone)  # the shuffle buffer fills once
    began = time.perf_counter()
    for _ in range(repeats):
        stream()
    rate = repeats * STEPS * size / (time.perf_counter() - began)
    yield Result(
        "tf.data / what the step consumes",
        rate / (STEPS * size / floor),
        "x",
        5.0,
        False,
        f"{rate:.0f} against {STEPS * size / floor:.1f} slices/s",
    )


@dataclass(frozen=True)
class Prepared:
    """A training about to start.

    Attributes:
        config: Its configuration.
        counts: Slices of the train split.
        step: The training step.
        batches: Starts the input pipeline.
    """

    config: Config
    counts: Any
    step: Callable[..., Any]
    batches: Callable[[], Any]


def prepare(output: Path, name: str) -> Prepared:
    """Makes the network and the input pipeline of a finished run anew.

    Args:
        output: The run's output folder.
        name: The configuration that it ran with.
    """
    import tensorflow_transform as tft

    from components.trainer.data import count_slices, list_shards, train_dataset
    from components.trainer.network import build_network
    from components.trainer.step import build_optimizer, make_train_step

    config = load_config(name)
    settings = config.model_dump(mode="json")
    graph = tft.TFTransformOutput(str(newest(output / "artifacts" / "Transform" / "transform_graph")))
    examples = newest(output / "artifacts" / "NiftiExampleGen" / "examples")
    shards = list_shards([str(examples / "Split-train" / "*")])
    counts = count_slices(shards, graph)
    network = build_network(config.grid.size, config.channels, settings["network"])
    step = make_train_step(network, build_optimizer(network, settings["training"]), settings["training"])
    return Prepared(config, counts, step, lambda: train_dataset(shards, graph, settings, counts))


def newest(folder: Path) -> Path:
    """The newest execution's artifact in a folder of TFX's artifacts."""
    return max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
