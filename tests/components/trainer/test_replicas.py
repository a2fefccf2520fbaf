"""Several devices make the step of one: two logical processors, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from components.imaging.errors import UsageError
from components.trainer.replicas import check_batch, choose_strategy, shared, spread
from tests.components.trainer.conftest import small_config

PROGRAM = """
import json, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from components.trainer import step as module
from components.trainer.fit import Task, fit
from components.trainer.losses import segmentation_loss
from components.trainer.network import build_network
from components.trainer.progress import Silent
from components.trainer.validation import Validation

config = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
mask = np.zeros((8, 32, 32, 1), np.float32)
for index in range(7):
    row, column = rng.integers(2, 20, 2)
    mask[index, row : row + 9, column : column + 2 + index] = 1
image = tf.constant(np.clip(mask + rng.normal(0.3, 0.1, (8, 32, 32, 3)), 0, 1), tf.float32)
mask = tf.constant(mask)
# So small that every gradient is clipped: what is clipped must be the mean over the replicas.
module.CLIP_NORM = 0.05


def one_step(strategy, training, norm, slices=None):
    with strategy.scope():
        network = build_network(32, 3, {**config["network"], "norm": norm}, slices=slices)
        optimizer = module.build_optimizer(network, training)
        step = module.make_train_step(network, optimizer, training)
    losses = [float(step(image, mask)) for _ in range(2)]
    return losses, network


alone, both = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert both.num_replicas_in_sync == 2

# Cross-entropy is a mean over pixels: two halves are the whole.
training = {**config["training"], "dice_weight": 0.0, "optimizer": "sgd", "learning_rate": 0.1}
(wanted, first), (found, second) = (one_step(one, training, "instance") for one in (alone, both))
np.testing.assert_allclose(found, wanted, rtol=1e-5)
moved = 0.0
start = build_network(32, 3, {**config["network"], "norm": "instance"}).get_weights()
for a, b, before in zip(first.get_weights(), second.get_weights(), start, strict=True):
    np.testing.assert_allclose(b, a, atol=1e-5)
    moved = max(moved, float(np.abs(a - before).max()))
assert moved > 1e-3, moved

# Volumes are shared likewise, and each half is of whole patches.
plain, image2, mask2 = config["network"], image, mask
image, mask = tf.reshape(image, (2, 4, 32, 32, 3)), tf.reshape(mask, (2, 4, 32, 32, 1))
config["network"] = {**plain, "kind": "3d", "thick_levels": 1}
(wanted, first), (found, second) = (one_step(one, training, "instance", 4) for one in (alone, both))
np.testing.assert_allclose(found, wanted, rtol=1e-5)
for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
    np.testing.assert_allclose(b, a, atol=1e-5)
config["network"], image, mask = plain, image2, mask2

# Dice is that of a half: the loss is the mean of the halves' losses.
training = {**config["training"], "cross_entropy_weight": 0.0, "optimizer": "sgd", "learning_rate": 0.1}
network = build_network(32, 3, {**config["network"], "norm": "instance"})
logits = network(image, training=True)


def loss(part):
    return float(segmentation_loss(mask[part], logits[part], dice_weight=1.0, cross_entropy_weight=0.0))


halves = 0.5 * (loss(slice(0, 4)) + loss(slice(4, 8)))
found, _ = one_step(both, training, "instance")
assert abs(found[0] - halves) < 1e-5, (found, halves)
assert abs(loss(slice(0, 8)) - halves) > 1e-4, (loss(slice(0, 8)), halves)

# A whole training: statistics of batch normalisation, dropout, an average, the best weights, a checkpoint.
batches = tf.data.Dataset.from_tensors((image, mask)).repeat()
training = {**config["training"], "ema": 0.5, "epochs": 2}


def task():
    with both.scope():
        network = build_network(32, 3, {**config["network"], "norm": "batch", "dropout": 0.2})
    scores = iter([0.3, 0.2])
    validate = lambda: Validation({"a": next(scores)})
    return Task(network, lambda epoch, step: batches, 2, validate, training, sys.argv[2], both)


done, again = task(), task()
state = fit(done, Silent())
assert state.best_epoch == 1 and state.steps == 4
assert all(np.isfinite(row["loss"]) for row in state.history)
assert fit(again, Silent()) == state
for a, b in zip(done.network.get_weights(), again.network.get_weights(), strict=True):
    np.testing.assert_array_equal(a, b)
single = build_network(32, 3, {**config["network"], "norm": "batch", "dropout": 0.2})
single.set_weights(done.network.get_weights())
np.testing.assert_allclose(
    module.make_predict(single)(image), module.make_predict(done.network)(image), atol=1e-5
)
print("agreed")
"""


def test_two_replicas_make_one_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(small_config()), str(tmp_path)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().splitlines()[-1] == "agreed"


def test_one_device_stays_as_it_is() -> None:
    def step(image: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        return image

    gradients = [tf.constant(1.0)]
    assert spread(step) is step
    assert shared(gradients) is gradients
    if len(tf.config.get_visible_devices("GPU")) < 2:
        assert choose_strategy(7).num_replicas_in_sync == 1


@pytest.mark.parametrize(("size", "replicas", "wanted"), [(6, 4, 4), (3, 4, 4), (11, 2, 10)])
def test_a_batch_that_cannot_be_shared_is_refused(size: int, replicas: int, wanted: int) -> None:
    check_batch(replicas * 3, replicas)
    with pytest.raises(UsageError, match=rf"found {size}, wanted a multiple of {replicas}.*set it to {wanted}"):
        check_batch(size, replicas)
