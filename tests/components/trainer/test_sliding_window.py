"""Overlapping windows against a reference in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.trainer.network import build_network
from components.trainer.sliding_window import scan_probability
from components.trainer.step import make_predict
from tests.components.trainer.conftest import small_config


def windows(size: int, length: int, overlap: float) -> list[int]:
    """Starts of the windows along one axis, by counting up until they reach the end."""
    count = 1
    while length + (count - 1) * max(round(length * (1 - overlap)), 1) < size:
        count += 1
    return [0] if count == 1 else [round(index * (size - length) / (count - 1)) for index in range(count)]


def reference(forward: Any, scan: np.ndarray, patch: Sequence[int], overlap: float) -> np.ndarray:
    """Sums of weighted windows over sums of weights, in float64."""
    missing = [max(length - size, 0) for length, size in zip(patch, scan.shape, strict=False)]
    padded = np.pad(scan, [*((gap // 2, gap - gap // 2) for gap in missing), (0, 0)])
    lines = [np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2) / (length / 8)) ** 2) for length in patch]
    weight = lines[0][:, None, None] * lines[1][:, None] * lines[2]
    total, weights = np.zeros(padded.shape[:3]), np.zeros(padded.shape[:3])
    for corner in itertools.product(
        *(windows(size, length, overlap) for size, length in zip(padded.shape[:3], patch, strict=True))
    ):
        place = tuple(slice(start, start + length) for start, length in zip(corner, patch, strict=True))
        total[place] += weight * forward(padded[place][None])[0, ..., 0]
        weights[place] += weight
    inner = tuple(slice(gap // 2, gap // 2 + size) for gap, size in zip(missing, scan.shape, strict=False))
    return (total / weights)[inner][..., None]


def by_place(window: Any) -> Any:
    """A network whose answer hangs on the place in the window, so that blending shows."""
    slices, rows, columns = window.shape[1:4]
    place = np.arange(slices * rows * columns, dtype=np.float32).reshape(1, slices, rows, columns, 1)
    return window[..., :1] * (place / place.max() if place.max() else place + 1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((9, 8, 8), (4, 8, 8)),
        ((4, 8, 8), (4, 8, 8)),
        ((1, 8, 8), (4, 8, 8)),
        ((2, 8, 8), (5, 8, 8)),
        ((7, 19, 16), (4, 8, 8)),
        ((3, 8, 8), (1, 4, 4)),
    ],
)
def test_windows_are_blended_as_numpy_does(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> None:
    scan = np.random.default_rng(0).random((*shape, 2)).astype(np.float32)
    wanted = reference(by_place, scan, patch, overlap)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2], tf.float32)])
    def traced(pixels: tf.Tensor) -> tf.Tensor:
        return scan_probability(by_place, pixels, patch, overlap)

    np.testing.assert_allclose(traced(tf.constant(scan)), wanted, rtol=1e-5, atol=1e-6)
    if shape == (9, 8, 8) and overlap == 0.5:
        assert windows(9, 4, 0.5) == [0, 2, 3, 5]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_a_constant_network_gives_a_constant(overlap: float) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1], tf.float32)])
    def traced(pixels: tf.Tensor) -> tf.Tensor:
        return scan_probability(lambda window: 0.3 + 0 * window, pixels, (4, 8, 8), overlap)

    for slices in (1, 3, 4, 5, 13, 40):
        found = traced(tf.ones([slices, 8, 11, 1]))
        np.testing.assert_allclose(found, np.full((slices, 8, 11, 1), 0.3), rtol=1e-5)


def test_no_slice_gives_no_slice() -> None:
    assert scan_probability(by_place, tf.zeros([0, 8, 8, 1]), (4, 8, 8), 0.5).shape == (0, 8, 8, 1)


def test_windows_run_one_by_one() -> None:
    seen: list[Any] = []

    def forward(window: tf.Tensor) -> tf.Tensor:
        seen.append(window.shape)
        return window

    found = scan_probability(forward, tf.random.stateless_uniform([30, 8, 8, 1], [0, 1]), (4, 8, 8), 0.5)
    assert set(seen) == {(1, 4, 8, 8, 1)}
    assert len(seen) == 14
    # What every window says of a voxel is the voxel itself.
    np.testing.assert_allclose(found, tf.random.stateless_uniform([30, 8, 8, 1], [0, 1]), rtol=1e-5)


def volume_network() -> Any:
    """A 3D network of patches of 4 x 16 x 16 with weights that tell left from right."""
    config = small_config(network={"kind": "3d", "thick_levels": 1, "norm": "batch"}, patch_slices=4, patch_size=16)
    network = build_network(16, 3, config["network"], slices=4, seed=1)
    head = network.get_layer("head")
    head.set_weights([20 * head.kernel.numpy(), 0 * head.bias.numpy()])
    return network


@pytest.mark.parametrize("slices", [1, 3, 7])
def test_mirrored_scans_give_mirrored_probabilities(slices: int) -> None:
    network = volume_network()
    # 25 columns: windows start at 0, 4 or 5, and 9, which is not symmetrical.
    scan = np.random.default_rng(1).random((slices, 25, 25, 3)).astype(np.float32)
    plain, mirrored = make_predict(network, overlap=0.5), make_predict(network, mirror=True, overlap=0.5)
    found = mirrored(tf.constant(scan)).numpy()
    assert found.shape == (slices, 25, 25, 1)
    np.testing.assert_allclose(mirrored(tf.constant(scan[:, :, ::-1])), found[:, :, ::-1], atol=1e-6)
    wanted = 0.5 * (plain(tf.constant(scan)).numpy() + plain(tf.constant(scan[:, :, ::-1])).numpy()[:, :, ::-1])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not np.allclose(plain(tf.constant(scan[:, :, ::-1])), plain(tf.constant(scan))[:, :, ::-1], atol=1e-4)


def test_a_network_is_applied_to_each_window() -> None:
    network = volume_network()
    scan = np.random.default_rng(2).random((6, 20, 20, 3)).astype(np.float32)

    def forward(window: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-np.asarray(network(window), np.float64)))

    wanted = reference(forward, scan, (4, 16, 16), 0.25)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(make_predict(network, overlap=0.25)(tf.constant(scan)), wanted, atol=1e-5)
