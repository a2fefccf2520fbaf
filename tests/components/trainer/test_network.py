"""The U-Net: shapes, seeds, precision, and that every kind of it learns."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.trainer import blocks as blocks_module
from components.trainer import bottleneck as bottleneck_module
from components.trainer import losses as losses_module
from components.trainer import network as network_module
from components.trainer.blocks import PRIOR, Parts, Unfold
from components.trainer.bottleneck import attention
from components.trainer.network import build_network, inference_network

BASE: dict[str, Any] = {
    "block": "plain", "base_filters": 4, "max_filters": 12, "depth": 2, "norm": "batch", "dropout": 0.0,
    "stem_stride": 2, "decoder_convolutions": 1, "deep_supervision": False,
    "bottleneck": "plain", "kind": "2d", "thick_levels": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"stem_stride": 1},
        {"block": "residual"},
        {"norm": "instance"},
        {"norm": "group", "base_filters": 12},
        {"depth": 4, "dropout": 0.3},
        {"depth": 1},
        {"decoder_convolutions": 2, "stem_stride": 1, "block": "residual"},
    ],
)
def test_shape_and_first_guess(change: dict[str, Any]) -> None:
    network = build_network(32, 6, {**BASE, **change})
    logits = keras.ops.convert_to_numpy(network(np.random.default_rng(0).random((2, 32, 32, 6), np.float32)))
    assert logits.shape == (2, 32, 32, 1)
    assert logits.dtype == np.float32
    # Untrained, it predicts about the prior everywhere, not a half.
    assert np.median(1 / (1 + np.exp(-logits))) < 20 * PRIOR


def test_filters_double_up_to_the_limit() -> None:
    network = build_network(32, 3, {**BASE, "depth": 4})
    found = [network.get_layer(f"encode{level}_conv0").filters for level in range(4)]
    assert found == [4, 8, 12, 12]


def test_unfold_puts_channels_where_they_belong() -> None:
    value = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    found = keras.ops.convert_to_numpy(Unfold(2)(value))[0, ..., 0]
    for row in range(4):
        for column in range(6):
            assert found[row, column] == value[0, row // 2, column // 2, 2 * (row % 2) + column % 2]


def test_seeds() -> None:
    first, again, other = (build_network(32, 3, BASE, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    kernels = [value for value in first if value.ndim == 4 and value.shape[:2] == (3, 3)]
    assert len({value.ravel()[0] for value in kernels}) == len(kernels)


def test_mixed_precision_computes_in_half_and_answers_in_float32() -> None:
    network = build_network(32, 3, BASE, precision="mixed_bfloat16")
    assert network.get_layer("encode0_conv0").compute_dtype == "bfloat16"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert network.output.dtype == "float32"
    whole = build_network(32, 3, BASE)
    whole.set_weights(network.get_weights())
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    np.testing.assert_allclose(network(image), whole(image), atol=0.2)


OWN = {"components.trainer.blocks", "components.trainer.bottleneck"}
"""Modules that are held to the same."""

BOTTLENECKS = ("large_kernel", "attention")


def gradients(network: keras.Model, channels: int = 3) -> dict[str, np.ndarray]:
    """Gradients of a sum of squares of all logits, by the path of the weight, away from the initial zeros."""
    rng = np.random.default_rng(0)
    for weight in network.trainable_variables:
        weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    image = rng.random((2, *network.input_shape[1:-1], channels), np.float32)
    with tf.GradientTape() as tape:
        outputs = network(image, training=True)
        loss = sum(tf.reduce_sum(logits**2) for logits in (outputs if isinstance(outputs, list) else [outputs]))
    found = tape.gradient(loss, network.trainable_variables)
    return {weight.path: np.asarray(value) for weight, value in zip(network.trainable_variables, found, strict=True)}


@pytest.mark.parametrize("stride", [1, 2])
def test_deep_supervision_gives_the_coarser_levels_in_training_alone(stride: int) -> None:
    config = {**BASE, "depth": 4, "stem_stride": stride, "deep_supervision": True}
    supervised = build_network(32, 3, config)
    sizes = {1: [32, 16, 8, 4], 2: [32, 8, 4]}[stride]
    assert supervised.output_shape == [(None, size, size, 1) for size in sizes]
    assert all(output.dtype == np.float32 for output in supervised(np.zeros((1, 32, 32, 3), np.float32)))
    served = inference_network(supervised)
    plain = build_network(32, 3, {**config, "deep_supervision": False})
    assert inference_network(plain) is plain
    # What is served is the plain network: as many weights, the same initial values, no coarse heads.
    assert [weight.shape for weight in served.weights] == [weight.shape for weight in plain.weights]
    for mine, other in zip(served.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    # And it is the trained one's: its weights are shared.
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    supervised.get_layer("encode0_conv0").kernel.assign_add(
        np.full(supervised.get_layer("encode0_conv0").kernel.shape, 0.1, np.float32)
    )
    np.testing.assert_array_equal(served(image), supervised(image)[0])
    assert not np.allclose(served(image), plain(image), atol=1e-4)


def test_every_weight_is_trained_under_deep_supervision() -> None:
    supervised = build_network(32, 3, {**BASE, "depth": 4, "deep_supervision": True, "norm": "instance"})
    found = gradients(supervised)
    assert all(np.abs(value).max() > 0 for value in found.values())
    heads = {path for path in found if path.startswith("head")}
    assert heads == {f"head{level}/{name}" for level in ("", 1, 2) for name in ("kernel", "bias")}


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_bottleneck_starts_as_the_plain_network_and_is_trained(bottleneck: str, norm: str) -> None:
    config = {**BASE, "depth": 3, "norm": norm}
    plain, wide = build_network(32, 3, config), build_network(32, 3, {**config, "bottleneck": bottleneck})
    image = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(plain(image), wide(image))
    assert len(wide.weights) > len(plain.weights)
    found = gradients(wide)
    assert all(np.abs(value).max() > 0 for value in found.values())
    assert any(path.startswith(bottleneck.split("_")[0]) for path in found)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_bottleneck_looks_far(bottleneck: str) -> None:
    """How far pixels in one corner change logits; seven by seven twice is six positions of four pixels farther."""
    config = {**BASE, "norm": "batch", "depth": 2, "max_filters": 16, "bottleneck": bottleneck}
    plain, wide = build_network(64, 3, {**config, "bottleneck": "plain"}), build_network(64, 3, config)
    rng = np.random.default_rng(0)
    for weight in wide.trainable_variables:
        weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    image = rng.random((1, 64, 64, 3), np.float32)
    changed = image.copy()
    changed[0, :4, :4] = 0
    reach = {}
    for name, network in (("plain", plain), ("wide", wide)):
        difference = np.abs(network(image) - network(changed)).max(axis=(0, 3))
        reach[name] = np.argwhere(difference > 0).max()
    assert reach["plain"] < 30
    if bottleneck == "attention":
        assert reach["wide"] == 63
    else:
        assert reach["wide"] == reach["plain"] + 24


def test_attention_is_what_numpy_computes() -> None:
    config = {**BASE, "base_filters": 32, "max_filters": 64, "bottleneck": "attention", "norm": "batch"}
    parts = Parts(config, 0, "float32")
    given = keras.Input((3, 4, 64))
    model = keras.Model(given, attention(parts, given))
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(weight + rng.normal(0, 0.3, weight.shape))
    value = rng.normal(size=(2, 3, 4, 64)).astype(np.float32)
    scale, shift = (np.asarray(weight) for weight in model.get_layer("attention_norm").trainable_variables)
    tokens = (value / np.sqrt(1 + 1e-3) * scale + shift).reshape(2, 12, 64)
    tokens = tokens + model.get_layer("attention_positions").get_weights()[0]
    mixed = tokens @ model.get_layer("attention_in").get_weights()[0]
    answer = np.zeros((2, 12, 64))
    for head in range(2):
        query, key, content = (mixed[..., 64 * part + 32 * head :][..., :32] for part in range(3))
        scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(32))
        answer[..., 32 * head : 32 * head + 32] = scores / scores.sum(-1, keepdims=True) @ content
    kernel, bias = model.get_layer("attention_out").get_weights()
    wanted = value + (answer @ kernel + bias).reshape(value.shape)
    np.testing.assert_allclose(model(value), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_bottleneck_computes_in_half_precision(bottleneck: str, precision: str) -> None:
    config = {**BASE, "bottleneck": bottleneck, "norm": "instance", "deep_supervision": True, "depth": 3}
    network = build_network(32, 3, config, precision=precision)
    whole = build_network(32, 3, config)
    found = gradients(network)
    assert all(np.isfinite(value).all() for value in found.values())
    whole.set_weights(network.get_weights())
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    half, full = network(image), whole(image)
    assert {output.dtype for output in half} == {tf.float32}
    for mine, other in zip(half, full, strict=True):
        assert np.corrcoef(np.ravel(mine), np.ravel(other))[0, 1] > 0.98


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"stem_stride": 1, "thick_levels": 0},
        {"stem_stride": 1, "thick_levels": 2, "depth": 3, "block": "residual", "norm": "instance"},
        {"thick_levels": 0, "norm": "group", "bottleneck": "attention", "dropout": 0.2, "depth": 3},
        {"thick_levels": 1, "bottleneck": "large_kernel", "deep_supervision": True, "depth": 4},
        {"thick_levels": 9, "bottleneck": "large_kernel", "decoder_convolutions": 2},
    ],
)
def test_a_3d_network_of_every_kind_is_trained_in_all_its_weights(change: dict[str, Any]) -> None:
    config = {**BASE, "kind": "3d", **change}
    network = build_network(32, 3, config, slices=8)
    (finest, *coarser) = network.output_shape if isinstance(network.output_shape, list) else [network.output_shape]
    assert finest == (None, 8, 32, 32, 1)
    assert coarser == ([(None, 4, 8, 8, 1), (None, 2, 4, 4, 1)] if "deep_supervision" in change else [])
    found = gradients(network)
    assert all(np.abs(value).max() > 0 for value in found.values())


def test_3d_kernels_follow_the_thickness_of_slices() -> None:
    config = {**BASE, "kind": "3d", "depth": 4, "stem_stride": 1, "thick_levels": 2}
    network = build_network(32, 3, config, slices=8)
    kernels = {level: network.get_layer(f"encode{level}_conv0").kernel.shape[:3] for level in range(5)}
    assert kernels == {0: (1, 3, 3), 1: (1, 3, 3), 2: (3, 3, 3), 3: (3, 3, 3), 4: (3, 3, 3)}
    # Pixels are halved at each of the four steps, slices at those that leave a level of cubes: twice.
    assert network.get_layer("encode4_relu1").output.shape[1:4] == (2, 2, 2)
    folded = build_network(32, 3, {**config, "stem_stride": 2}, slices=8)
    assert folded.get_layer("stem").kernel.shape[:3] == (1, 4, 4)
    assert folded.get_layer("encode0_conv0").kernel.shape[:3] == (1, 3, 3)
    assert folded.get_layer("encode1_conv0").kernel.shape[:3] == (3, 3, 3)
    assert folded.get_layer("encode3_relu1").output.shape[1:4] == (2, 2, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_with_thick_slices_alone_a_3d_network_is_the_2d_one_slice_by_slice(stride: int) -> None:
    config = {
        **BASE, "depth": 3, "stem_stride": stride, "block": "residual", "thick_levels": 4, "deep_supervision": True,
        "bottleneck": "large_kernel", "norm": "batch",
    }  # fmt: skip
    plane = build_network(32, 3, config)
    volume = build_network(32, 3, {**config, "kind": "3d"}, slices=5)
    rng = np.random.default_rng(2)
    for weight in plane.weights:
        weight.assign(weight + np.abs(rng.normal(0, 0.1, weight.shape)))
    for mine, given in zip(volume.weights, plane.weights, strict=True):
        mine.assign(np.reshape(given, mine.shape))
    image = rng.random((2, 5, 32, 32, 3), np.float32)
    for found, wanted in zip(volume(image), plane(image.reshape(10, 32, 32, 3)), strict=True):
        np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_a_3d_network_sees_the_neighbouring_slices() -> None:
    network = build_network(32, 3, {**BASE, "kind": "3d", "thick_levels": 1}, slices=4)
    image = np.random.default_rng(0).random((1, 4, 32, 32, 3), np.float32)
    changed = image.copy()
    changed[0, 0] = 0
    difference = np.abs(network(image) - network(changed)).max(axis=(0, 2, 3, 4))
    assert (difference > 0).all()
    alone = build_network(32, 3, {**BASE, "kind": "3d", "thick_levels": 3}, slices=4)
    difference = np.abs(alone(image) - alone(changed)).max(axis=(0, 2, 3, 4))
    assert (difference[1:] == 0).all() and difference[0] > 0


def test_a_3d_network_guesses_little_at_first_and_computes_in_half_precision() -> None:
    """Forward only, and in bfloat16: see `resolve_precision` on what a processor lacks."""
    config = {**BASE, "kind": "3d", "norm": "instance", "bottleneck": "large_kernel", "thick_levels": 0}
    network = build_network(32, 3, config, slices=4, precision="mixed_bfloat16")
    logits = np.asarray(network(np.random.default_rng(0).random((1, 4, 32, 32, 3), np.float32)))
    assert np.median(1 / (1 + np.exp(-logits))) < 20 * PRIOR
    assert network.output.dtype == "float32"
    exact = build_network(32, 3, config, slices=4)
    assert all(np.isfinite(value).all() for value in gradients(exact).values())


@pytest.mark.parametrize("module", [network_module, blocks_module, bottleneck_module, losses_module])
def test_pure_keras(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "collections.abc", "itertools", "keras", "math", "typing"} | OWN
