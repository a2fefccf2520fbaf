"""Fitting: it learns, repeats itself, goes on after a kill, stops early, and gives the best weights back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.errors import IchError
from components.storage.files import copy_tree
from components.trainer.data import count_slices, train_dataset
from components.trainer.fit import TENSORBOARD, Task, fit
from components.trainer.network import build_network
from components.trainer.progress import Silent
from components.trainer.step import build_optimizer, make_predict, make_train_step
from components.trainer.validation import Validation
from tests.buckets import Bucket
from tests.components.trainer.conftest import small_config

Make = Callable[[dict[str, Any]], str]


def task_for(
    shards: list[str],
    transform: str,
    config: dict[str, Any],
    folder: Path | str,
    scores: list[float],
    *,
    steps: int = 2,
) -> Task:
    """A task whose validations return the given scores in turn."""
    output = tft.TFTransformOutput(transform)
    counts = count_slices(shards, output)
    remaining = iter(scores)
    return Task(
        build_network(32, 3, config["network"], seed=config["training"]["seed"]),
        lambda epoch, step: train_dataset(
            shards, output, config, counts, first_epoch=epoch, first_step=step, steps=steps
        ),
        steps,
        lambda: Validation({"case": next(remaining)}),
        config["training"],
        str(folder),
    )


def weights(task: Task) -> list[np.ndarray]:
    return task.network.get_weights()


def assert_close(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_overfits_a_few_blobs(optimizer: str) -> None:
    training = {**small_config()["training"], "optimizer": optimizer, "learning_rate": 0.01}
    if optimizer == "sgd":
        training["learning_rate"] = 0.1
    rng = np.random.default_rng(0)
    mask = np.zeros((4, 32, 32, 1), np.float32)
    for index in range(3):
        row, column = rng.integers(2, 20, 2)
        mask[index, row : row + 9, column : column + 7] = 1
    image = np.clip(mask * 0.4 + 0.3 + rng.normal(0, 0.1, mask.shape), 0, 1).astype(np.float32)
    image = np.repeat(image, 3, axis=-1)
    network = build_network(32, 3, small_config()["network"])
    step = make_train_step(network, build_optimizer(network, training), training)
    losses = [float(step(tf.constant(image), tf.constant(mask))) for _ in range(60)]
    found = make_predict(network)(tf.constant(image)).numpy() > 0.5
    dice = 2 * (found & (mask > 0)).sum() / (found.sum() + mask.sum())
    assert losses[-1] < losses[0] / 4
    assert dice > 0.9


@pytest.mark.parametrize(("ema", "remote"), [(0.0, False), (0.8, False), (0.8, True)])
def test_resuming_equals_never_having_stopped(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path, bucket: Bucket, ema: float, remote: bool
) -> None:
    parts = bucket.uri("work") if remote else str(tmp_path / "parts")
    config = small_config(epochs=4, ema=ema)
    path = transform_output(config)
    scores = [0.1, 0.2, 0.15, 0.3]
    whole = task_for(cohort["train"], path, config, tmp_path / "whole", scores)
    undisturbed = fit(whole, Silent())

    def dying() -> Validation:
        if (score := next(left, None)) is None:
            raise KilledError
        return Validation({"case": score})

    left = iter(scores[:2])
    first = task_for(cohort["train"], path, config, parts, [])
    with pytest.raises(KilledError):
        fit(Task(first.network, first.batches, first.steps, dying, first.training, first.folder), Silent())
    second = task_for(cohort["train"], path, config, parts, scores[2:])
    resumed = fit(second, Silent())
    assert resumed.epochs == undisturbed.epochs == 4
    assert resumed.steps == undisturbed.steps == 8
    assert resumed.best_dice == undisturbed.best_dice == 0.3
    assert [row["loss"] for row in resumed.history] == pytest.approx(
        [row["loss"] for row in undisturbed.history], rel=1e-4
    )
    assert_close(weights(whole), weights(second))
    if remote:  # with the event files of both sittings
        copy_tree(parts, str(tmp_path / "parts"))
        assert {key.partition("/")[2].partition("/")[0] for key in bucket.names()} == {"state.npz", TENSORBOARD}
    told = [
        (event.step, value.tag)
        for path in sorted((tmp_path / "parts" / TENSORBOARD).iterdir())
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert {step for step, tag in told if tag == "loss"} == {1, 2, 3, 4}


class Dying(Silent):
    """Ends the process, so to say, in the middle of a step; counts the steps before."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.steps: list[tuple[str, int]] = []
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, task: str, done: int, total: int, note: str = "") -> None:
        if len(self.steps) == self.at:
            raise KilledError
        self.steps.append((task, done))


def test_resuming_within_an_epoch_changes_no_bit(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    """With all that has a state: moments, an average, batch statistics, dropout, losses so far."""
    config = small_config(epochs=2, ema=0.8, checkpoint_minutes=1e-9, network={"dropout": 0.3, "norm": "batch"})
    path, scores = transform_output(config), [0.1, 0.2]
    task = task_for(cohort["train"], path, config, tmp_path / "whole", scores, steps=5)
    whole = Dying(None)
    undisturbed = fit(task, whole)
    # Each epoch is five steps and a validation, and the last step is saved with the validation only.
    for at, again in ((1, 1), (5, 4), (8, 8)):
        first = task_for(cohort["train"], path, config, tmp_path / str(at), scores, steps=5)
        with pytest.raises(KilledError):
            fit(first, Dying(at))
        second = task_for(cohort["train"], path, config, tmp_path / str(at), scores[at // 6 :], steps=5)
        rest = Dying(None)
        resumed = fit(second, rest)
        assert rest.steps == whole.steps[again:]
        assert rest.lines[0].startswith(f"resuming after epoch {again // 6} and {again % 6} of 5 steps")
        assert [row["loss"] for row in resumed.history] == [row["loss"] for row in undisturbed.history]
        assert (resumed.steps, resumed.epoch_steps, resumed.epoch_losses) == (10, 0, [])
        for found, wanted in zip(weights(second), weights(task), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_the_best_weights_come_back_and_a_finished_training_is_not_repeated(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    config = small_config(epochs=20, patience=2)
    path = transform_output(config)
    kept: list[list[np.ndarray]] = []
    task = task_for(cohort["train"], path, config, tmp_path / "run", [])
    scores = iter([0.2, 0.5, 0.4, 0.5])

    def validate() -> Validation:
        kept.append(weights(task))
        return Validation({"case": next(scores)})

    state = fit(Task(task.network, task.batches, task.steps, validate, task.training, task.folder), Silent())
    # Equal is not better: the second epoch stays the best, and two validations without a better one end it.
    assert (state.epochs, state.best_epoch, state.best_dice) == (4, 2, 0.5)
    assert "no better val Dice in 2 validations" in state.finished
    for found, wanted in zip(weights(task), kept[1], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not all(np.array_equal(a, b) for a, b in zip(kept[1], kept[3], strict=True))
    assert list((tmp_path / "run" / TENSORBOARD).glob("events.*"))

    again = task_for(cohort["train"], path, config, tmp_path / "run", [])
    assert fit(again, Silent()) == state
    for found, wanted in zip(weights(again), kept[1], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_with_an_average_it_is_what_is_validated_and_comes_back(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    config = small_config(epochs=3, ema=0.9)
    task = task_for(cohort["train"], transform_output(config), config, tmp_path, [])
    seen: list[list[np.ndarray]] = []

    def validate() -> Validation:
        seen.append(weights(task))
        return Validation({"case": 0.1 * len(seen)})

    fit(Task(task.network, task.batches, task.steps, validate, task.training, task.folder), Silent())
    for found, wanted in zip(weights(task), seen[-1], strict=True):
        np.testing.assert_array_equal(found, wanted)
    plain = {**config, "training": {**config["training"], "ema": 0.0}}
    own = task_for(cohort["train"], transform_output(config), plain, tmp_path / "own", [0.1, 0.2, 0.3])
    fit(own, Silent())
    assert not np.allclose(weights(own)[0], seen[-1][0], atol=1e-6)


def test_a_broken_checkpoint_is_not_resumed(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    config = small_config(epochs=1)
    (tmp_path / "state.npz").write_bytes(b"PK not a checkpoint")
    state = fit(task_for(cohort["train"], transform_output(config), config, tmp_path, [0.1]), Silent())
    assert state.epochs == 1


def test_time_ends_a_training_with_a_validation(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    config = small_config(epochs=1000, max_minutes=1e-4, validate_every=50)
    state = fit(task_for(cohort["train"], transform_output(config), config, tmp_path, [0.1]), Silent())
    assert (state.epochs, state.steps, state.best_dice) == (1, 1, 0.1)
    assert "minutes used" in state.finished
    # Time is used up, so the rate has come down.
    assert state.history[0]["learning_rate"] < config["training"]["learning_rate"]


def test_validations_are_spaced(cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path) -> None:
    config = small_config(epochs=5, validate_every=2)
    state = fit(task_for(cohort["train"], transform_output(config), config, tmp_path, [0.1, 0.2, 0.3]), Silent())
    assert [row["val_dice"] for row in state.history] == [None, 0.1, None, 0.2, 0.3]


def test_same_seed_same_network(cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path) -> None:
    config = small_config(epochs=2)
    tasks = [
        task_for(cohort["train"], transform_output(config), config, tmp_path / name, [0.1, 0.2]) for name in ("a", "b")
    ]
    for task in tasks:
        fit(task, Silent())
    assert_close(*(weights(task) for task in tasks))


def test_a_loss_that_is_not_finite_is_said(
    cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path
) -> None:
    config = small_config(epochs=1)
    task = task_for(cohort["train"], transform_output(config), config, tmp_path, [])
    poisoned = task.batches(0, 0).map(lambda image, mask: (image * np.float32("nan"), mask))
    broken = Task(task.network, lambda epoch, step: poisoned, task.steps, task.validate, task.training, task.folder)
    with pytest.raises(IchError, match=r"epoch 1: the loss is nan; lower training.learning_rate"):
        fit(broken, Silent())


def test_mirroring_averages_with_the_mirrored_slices() -> None:
    network = build_network(32, 3, small_config()["network"])
    image = tf.constant(np.random.default_rng(0).random((2, 32, 32, 3)), tf.float32)
    plain, mirrored = make_predict(network), make_predict(network, mirror=True)
    wanted = 0.5 * (plain(image).numpy() + plain(image[:, :, ::-1]).numpy()[:, :, ::-1])
    np.testing.assert_allclose(mirrored(image), wanted, atol=1e-6)
    np.testing.assert_allclose(mirrored(image[:, :, ::-1]), mirrored(image).numpy()[:, :, ::-1], atol=1e-6)
    assert not np.allclose(plain(image), mirrored(image), atol=1e-6)


def test_float16_scales_the_loss(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config(precision="mixed_float16")
    network = build_network(32, 3, config["network"], precision="mixed_float16")
    optimizer = build_optimizer(network, config["training"])
    step = make_train_step(network, optimizer, config["training"])
    output = tft.TFTransformOutput(transform_output(config))
    counts = count_slices(cohort["train"], output)
    losses = [float(step(*batch)) for batch in islice(train_dataset(cohort["train"], output, config, counts), 24)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
