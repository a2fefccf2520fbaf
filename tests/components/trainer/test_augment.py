"""Augmentation: image and mask stay together, chance is seeded, identity is identity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from components.trainer.augment import (
    affine_transforms,
    augment,
    blur,
    carve,
    channel_sensitivity,
    coarsen,
    displace,
    soften,
    vary_contrast,
    vary_intensity,
    warp,
)  # fmt: skip

OFF = {
    "flip": False, "affine_share": 1.0, "rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0, "intensity": 0.0,
    "noise": 0.0, "carve_share": 0.0, "soften_share": 0.0, "gamma": 0.0,
    "elastic_share": 0.0, "elastic": 0.02,
}  # fmt: skip
SHOWN = np.array([0.9, 0.6, 0.3], np.float32)
SEED = tf.constant([1, 2], tf.int64)


def blobs(count: int = 4, size: int = 32) -> tuple[tf.Tensor, tf.Tensor]:
    """Smooth masks, each of its own shape, and images of three channels that show them."""
    rng = np.random.default_rng(3)
    masks = ndimage.gaussian_filter(rng.random((count, size, size)), (0, 3, 3))
    masks = (masks > np.quantile(masks, 0.8)).astype(np.float32)[..., None]
    return tf.constant(masks * SHOWN), tf.constant(masks)


def transform(angle: float = 0.0, zoom: float = 1.0, mirror: float = 1.0, shift: Any = (0.0, 0.0)) -> tf.Tensor:
    """Coefficients for a batch of one."""
    return affine_transforms(tf.constant([angle]), tf.constant([zoom]), tf.constant([mirror]), tf.constant([shift]), 32)


def test_everything_off_changes_nothing() -> None:
    image, mask = blobs()
    found = augment(image, mask, SEED, OFF, [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], mask)


def test_identity_transform_changes_nothing() -> None:
    image, _ = blobs(1)
    np.testing.assert_allclose(warp(image, transform()), image, atol=1e-6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_agree_with_numpy(turns: int) -> None:
    image, _ = blobs(1)
    # NumPy turns counter-clockwise for rows downwards; positive angles here turn clockwise.
    wanted = np.rot90(image.numpy(), -turns, axes=(1, 2))
    np.testing.assert_allclose(warp(image, transform(angle=turns * math.pi / 2)), wanted, atol=1e-4)


def test_mirror_exchanges_columns_and_shift_moves() -> None:
    image, _ = blobs(1)
    np.testing.assert_allclose(warp(image, transform(mirror=-1.0)), image.numpy()[:, :, ::-1], atol=1e-5)
    moved = warp(image, transform(shift=(3.0, 5.0))).numpy()
    np.testing.assert_allclose(moved[:, 5:, 3:], image.numpy()[:, :-5, :-3], atol=1e-5)
    assert (moved[:, :5] == 0).all()


def test_any_rotation_and_zoom_agrees_with_scipy() -> None:
    image, _ = blobs(1)
    angle, zoom = 0.3, 1.2
    # scipy maps output to input as well, in (row, column) order.
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / zoom
    middle = np.array([15.5, 15.5])
    wanted = ndimage.affine_transform(image.numpy()[0, ..., 0], matrix, middle - matrix @ middle, order=1)
    found = warp(image, transform(angle=angle, zoom=zoom)).numpy()[0, ..., 0]
    # At the rim both fade to 0, scipy one pixel earlier.
    np.testing.assert_allclose(found[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_image_and_mask_move_together(share: float) -> None:
    image, mask = blobs(16)
    config = {**OFF, "flip": True, "rotate_degrees": 40.0, "scale": 0.2, "shift": 0.1, "affine_share": share}
    new_image, new_mask = augment(image, mask, SEED, config, [1.0, 1.0, 1.0])
    assert new_image.shape == image.shape
    # The image shows its mask at 0.9, 0.6 and 0.3, wherever both go.
    np.testing.assert_allclose(new_image, new_mask.numpy() * SHOWN, atol=1e-5)
    changed = [not np.array_equal(a, b) for a, b in zip(mask.numpy(), new_mask.numpy(), strict=True)]
    assert sum(changed) == 16 if share == 1.0 else 4 < sum(changed) < 16
    assert float(tf.reduce_min(new_mask)) >= 0
    assert float(tf.reduce_max(new_mask)) <= 1 + 1e-6


def test_flips_alone_flip_about_half() -> None:
    image, mask = blobs(64)
    new_image, new_mask = augment(image, mask, SEED, {**OFF, "flip": True}, [1.0, 1.0, 1.0])
    flipped = 0
    for before, after, was, now in zip(image.numpy(), new_image.numpy(), mask.numpy(), new_mask.numpy(), strict=True):
        turned = not np.array_equal(before, after)
        flipped += turned
        np.testing.assert_array_equal(after, before[:, ::-1] if turned else before)
        np.testing.assert_array_equal(now, was[:, ::-1] if turned else was)
    assert 20 < flipped < 44


def test_intensity_shows_in_each_channel_as_its_window_would() -> None:
    image = tf.fill([200, 4, 4, 2], 0.5)
    config = {**OFF, "intensity": 0.1, "noise": 0.02}
    sensitivity = channel_sensitivity([{"width": 80.0}, {"width": 400.0}], 1)
    assert sensitivity == [1.0, pytest.approx(0.2)]
    found = vary_intensity(image, SEED, config, sensitivity).numpy()
    offset = vary_intensity(tf.fill([200, 4, 4, 2], 0.5), SEED, {**config, "noise": 0.0}, sensitivity).numpy()
    noise = found - offset
    assert noise[..., 0].std() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_allclose(noise[..., 1], noise[..., 0] * 0.2, atol=1e-6)
    # One gain and offset a slice, within 10 % of the value and of the window.
    assert np.ptp(offset, axis=(1, 2)).max() < 1e-6
    assert 0.1 < np.abs(offset[..., 0] - 0.5).max() <= 0.15 + 1e-6
    assert np.abs(offset[..., 1] - 0.5).max() <= 0.07 + 1e-6


def test_the_same_seed_gives_the_same_slices() -> None:
    image, mask = blobs()
    config = {**OFF, "flip": True, "rotate_degrees": 15.0, "intensity": 0.1, "noise": 0.02, "affine_share": 0.5}
    first, again, other = (augment(image, mask, seed, config, [1.0] * 3)[0] for seed in (SEED, SEED, SEED + 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# --- softness and contrast ----------------------------------------------------------------------------------------


def test_blur_agrees_with_scipy() -> None:
    image, _ = blobs(2)
    line = np.array([1, 4, 6, 4, 1]) / 16
    wanted = ndimage.convolve1d(ndimage.convolve1d(image.numpy(), line, axis=1), line, axis=2)
    np.testing.assert_allclose(blur(image), wanted, atol=1e-6)


def test_coarse_slices_keep_their_means_and_lose_their_detail() -> None:
    flat = tf.fill([1, 32, 32, 3], 0.4)
    np.testing.assert_allclose(coarsen(flat), flat, atol=1e-6)
    board = tf.constant(np.indices((32, 32)).sum(axis=0)[None, ..., None] % 2, tf.float32)
    np.testing.assert_allclose(coarsen(board), np.full((1, 32, 32, 1), 0.5), atol=1e-6)


def test_a_carved_lesion_takes_its_margin_along() -> None:
    image = tf.constant(np.random.default_rng(6).random((2, 32, 32, 3)), tf.float32)
    mask = np.zeros((2, 32, 32, 1), np.float32)
    mask[0, 10:14, 20:23] = 1
    mask[1, 10:12, 2:4] = 1
    carved, found = (tensor.numpy() for tensor in carve(image, tf.constant(mask), SEED, 1.0))
    for receiver, giver in ((0, 1), (1, 0)):
        region = ndimage.binary_dilation(mask[giver, ..., 0], np.ones((11, 11)))
        expected = np.where(region[..., None], image[giver], image[receiver])
        np.testing.assert_array_equal(carved[receiver], expected)
        np.testing.assert_array_equal(found[receiver], np.where(region[..., None], mask[giver], mask[receiver]))
    assert found[0].sum() == 4 + 12, "what lay outside the region stays"


def test_a_donor_without_lesion_gives_nothing() -> None:
    image, _ = blobs()
    carved, found = carve(image, tf.zeros([4, 32, 32, 1]), SEED, 1.0)
    np.testing.assert_array_equal(carved, image)
    assert not found.numpy().any()


def test_a_share_of_the_slices_is_carved() -> None:
    image = tf.constant(np.random.default_rng(4).random((200, 8, 8, 1)), tf.float32)
    carved, _ = carve(image, tf.ones([200, 8, 8, 1]), SEED, 0.4)
    # Of 200 draws with a chance of 0.4, three standard deviations are 21.
    assert (carved != image).numpy().any(axis=(1, 2, 3)).sum() == pytest.approx(80, abs=21)
    np.testing.assert_array_equal(carved, carve(image, tf.ones([200, 8, 8, 1]), SEED, 0.4)[0])


def test_a_share_of_the_slices_is_softened() -> None:
    image = tf.constant(np.random.default_rng(4).random((200, 8, 8, 1)), tf.float32)
    found = soften(image, SEED, 0.4).numpy()
    blurred = np.isclose(found, blur(image), atol=1e-6).all(axis=(1, 2, 3))
    coarse = np.isclose(found, coarsen(image), atol=1e-6).all(axis=(1, 2, 3))
    same = (found == image.numpy()).all(axis=(1, 2, 3))
    assert (blurred.astype(int) + coarse + same == 1).all()
    # Of 200 draws with a chance of 0.2 each, three standard deviations are 17.
    assert blurred.sum() == pytest.approx(40, abs=17) and coarse.sum() == pytest.approx(40, abs=17)
    np.testing.assert_array_equal(found, soften(image, SEED, 0.4))


def test_contrast_is_a_power_within_its_bounds() -> None:
    image = tf.fill([300, 2, 2, 1], 0.5)
    powers = np.log(vary_contrast(image, SEED, 0.5).numpy()[:, 0, 0, 0]) / np.log(0.5)
    assert powers.min() >= 1 / 1.5 - 1e-5 and powers.max() <= 1.5 + 1e-5
    assert powers.min() < 0.7 and powers.max() > 1.45
    assert np.log(powers).mean() == pytest.approx(0, abs=0.05)
    ends = tf.constant([[[[0.0], [1.0]]]])
    np.testing.assert_allclose(vary_contrast(ends, SEED, 0.5), ends, atol=1.01e-4)


# --- bending ------------------------------------------------------------------------------------------------------


def test_displacement_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.random((2, 16, 16, 3)).astype(np.float32)
    shifts = rng.normal(0, 2, (2, 16, 16, 2)).astype(np.float32)
    found = displace(tf.constant(pixels), tf.constant(shifts)).numpy()
    rows, columns = np.indices((16, 16))
    for index in range(2):
        places = [rows + shifts[index, ..., 0], columns + shifts[index, ..., 1]]
        for channel in range(3):
            # Fades to 0 beyond the rim, as a frame of zeros does.
            framed = np.pad(pixels[index, ..., channel], 1)
            wanted = ndimage.map_coordinates(framed, [place + 1 for place in places], order=1, mode="constant")
            np.testing.assert_allclose(found[index, ..., channel], wanted, atol=1e-5)


def test_no_displacement_changes_nothing() -> None:
    image, _ = blobs(2)
    np.testing.assert_array_equal(displace(image, tf.zeros([2, 32, 32, 2])), image)


def test_a_share_is_bent_image_and_mask_together() -> None:
    image, mask = blobs(60)
    config = {**OFF, "elastic_share": 0.5, "elastic": 0.05}
    new_image, new_mask = augment(image, mask, SEED, config, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(new_image, new_mask.numpy() * SHOWN, atol=1e-5)
    moved = (new_mask.numpy() != mask.numpy()).any(axis=(1, 2, 3))
    assert moved.sum() == pytest.approx(30, abs=12)
    # Bent, not torn: lesions keep about their area.
    assert new_mask.numpy()[moved].sum() == pytest.approx(mask.numpy()[moved].sum(), rel=0.15)
    np.testing.assert_array_equal(new_mask, augment(image, mask, SEED, config, [1.0, 1.0, 1.0])[1])


@pytest.mark.parametrize("change", [blur, coarsen, lambda pixels: displace(pixels, tf.zeros([0, 8, 8, 2]))])
def test_of_no_slices_there_is_nothing(change: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """As happens in every batch of which none was drawn."""
    assert tf.function(change)(tf.zeros([0, 8, 8, 9])).shape == (0, 8, 8, 9)
