"""Patches of scans: whole scans from slices, balance, padding, cutting, seeds, and one augmentation for all slices."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.errors import UsageError
from components.trainer.augment import augment, augment_volumes
from components.trainer.data import Counts, lesion_draws, steps_per_epoch, total
from components.trainer.folds import PatientSlices
from components.trainer.volumes import count_patches, patch_dataset
from schema import features as f
from tests.components.trainer.conftest import make_case, small_config, write_shard
from tests.components.trainer.test_augment import OFF

Make = Callable[[dict[str, Any]], str]
Pairs = list[tuple[np.ndarray, np.ndarray]]


def volume_config(**training: Any) -> dict[str, Any]:
    """Patches of 4 slices, not changed."""
    plain = {key: OFF[key] for key in OFF} | {"affine_share": 0.0}
    values = {"patch_slices": 4, "batch_size": 2, "augment": plain, **training}
    return small_config(network={"kind": "3d", "thick_levels": 1}, **values)


def patches(shards: list[str], transform: str, config: dict[str, Any], number: int, **options: Any) -> Pairs:
    """Images and masks of the first batches."""
    output = tft.TFTransformOutput(transform)
    counts = total(count_patches(shards, output, config["training"]["patch_slices"]), len(shards), "patches")
    stream = patch_dataset(shards, output, config, counts, **options)
    return [(image.numpy(), mask.numpy()) for image, mask in islice(stream, number)]


def whole_scans(shards: list[str], transform: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Image and mask of each case, decoded slice by slice."""
    output = tft.TFTransformOutput(transform)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for record in tf.data.TFRecordDataset(shards, compression_type="GZIP"):
        raw = tf.io.parse_example([record], output.raw_feature_spec())
        slice_ = output.transform_features_layer()(raw)
        case = raw[f.CASE_ID].numpy().ravel()[0].decode()
        found.setdefault(case, []).append((slice_[f.IMAGE_XF].numpy()[0], slice_[f.MASK_XF].numpy()[0]))
    return {case: tuple(np.stack(part) for part in zip(*rows, strict=True)) for case, rows in found.items()}  # type: ignore[misc]


def place_of(patch: np.ndarray, scans: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[str, int, int, int]:
    """The case, slice, row and column where a patch lies; fails where it lies nowhere."""
    slices, size = patch.shape[:2]
    for case, (scan, _) in scans.items():
        for start in range(len(scan) - slices + 1):
            for row in range(scan.shape[1] - size + 1):
                for column in range(scan.shape[2] - size + 1):
                    part = scan[start : start + slices, row : row + size, column : column + size]
                    if np.array_equal(part, patch):
                        return case, start, row, column
    raise AssertionError("the patch lies in no scan")


def test_counts(cohort: dict[str, list[str]], transform_output: Make, tmp_path: Path) -> None:
    config = volume_config()
    output = tft.TFTransformOutput(transform_output(config))
    # Four cases of 6 slices, all with lesion.
    assert total(count_patches(cohort["train"], output, 4), 4) == Counts(8, 8)
    assert total(count_patches(cohort["train"], output, 6), 4) == Counts(4, 4)
    rng = np.random.default_rng(0)
    shard = write_shard(tmp_path / "a.gz", make_case("n", 9, 0, rng) + make_case("l", 1, 1, rng))
    patients = count_patches([shard], output, 4)
    assert patients == {"n": PatientSlices(3, 0, 1.0), "l": PatientSlices(1, 1, 1.0)}
    found = total(patients, 1)
    assert found == Counts(4, 1)
    assert steps_per_epoch(found, config["training"]) == 1
    empty = count_patches([write_shard(tmp_path / "n.gz", make_case("n", 3, 0, rng))], output, 4)
    with pytest.raises(UsageError, match="found 0 of 1 patches with lesion in 1 shards"):
        total(empty, 1, "patches")


@pytest.mark.parametrize("size", [None, 16])
def test_patches_are_neighbouring_slices_of_one_scan_with_their_mask(
    cohort: dict[str, list[str]], transform_output: Make, size: int | None
) -> None:
    config = volume_config(patch_size=size)
    path = transform_output(config)
    scans = whole_scans(cohort["train"], path)
    side = size or 32
    places = set()
    for image, mask in patches(cohort["train"], path, config, 8):
        assert image.shape == (2, 4, side, side, 3) and mask.shape == (2, 4, side, side, 1)
        for patch, truth in zip(image, mask, strict=True):
            case, start, row, column = place_of(patch, scans)
            wanted = scans[case][1][start : start + 4, row : row + side, column : column + side]
            np.testing.assert_array_equal(truth, wanted)
            places.add((case, start, row, column))
    assert {place[0] for place in places} == set(scans)
    assert len(places) > 6


def test_a_share_is_centred_on_lesion(transform_output: Make, tmp_path: Path) -> None:
    """20 slices, lesion in the first alone; 16 pixels out of 32: patches drawn anywhere mostly miss it."""
    rng = np.random.default_rng(5)
    records = [make_case(f"c{n}", 20, 1, rng) for n in range(4)] + [make_case(f"n{n}", 20, 0, rng) for n in range(4)]
    shards = [write_shard(tmp_path / f"{n}.gz", records[n] + records[n + 4]) for n in range(4)]
    shares = {}
    for fraction in (0.0, 0.5, 1.0):
        config = volume_config(lesion_fraction=fraction, batch_size=8, patch_size=16)
        found = np.concatenate([mask for _, mask in patches(shards, transform_output(config), config, 20)])
        # Centred: the middle of the square is lesion, in the first slice.
        shares[fraction] = (found[:, 0, 7:9, 7:9] > 0).any(axis=(1, 2, 3)).mean()
    # Anywhere: first slice 1 of 17 and half the scans, and hardly ever in the middle.
    assert shares[0.0] < 0.05
    for fraction in (0.5, 1.0):
        # 160 draws: three standard deviations are 0.12; at the scan's border the patch is not centred.
        assert fraction - 0.25 * fraction - 0.12 < shares[fraction] < fraction + 0.12
    assert shares[0.5] < shares[1.0] - 0.2


def test_a_scan_shorter_than_a_patch_lies_in_air(transform_output: Make, tmp_path: Path) -> None:
    config = volume_config(batch_size=1)
    shard = write_shard(tmp_path / "a.gz", make_case("a", 1, 1, np.random.default_rng(0)))
    path = transform_output(config)
    ((image, mask),) = patches([shard], path, config, 1)
    scan, truth = whole_scans([shard], path)["a"]
    # One before, two after: as the windows of inference have it.
    np.testing.assert_array_equal(image[0, 1], scan[0])
    np.testing.assert_array_equal(mask[0, 1], truth[0])
    assert mask[0, 1].any()
    for empty in (0, 2, 3):
        assert not image[0, empty].any() and not mask[0, empty].any()


def test_same_seed_same_stream_and_a_later_epoch_stands_alone(
    cohort: dict[str, list[str]], transform_output: Make
) -> None:
    config = small_config(network={"kind": "3d", "thick_levels": 1}, patch_slices=4, batch_size=2, patch_size=16)
    path = transform_output(config)
    whole = [image for image, _ in patches(cohort["train"], path, config, 9, steps=3)]
    late = [image for image, _ in patches(cohort["train"], path, config, 3, steps=3, first_epoch=2)]
    np.testing.assert_array_equal(whole[6:], late)
    assert not np.array_equal(whole[:3], whole[3:6])
    within = [image for image, _ in patches(cohort["train"], path, config, 5, steps=3, first_epoch=1, first_step=1)]
    np.testing.assert_array_equal(whole[4:], within)
    other = {**config, "training": {**config["training"], "seed": 1}}
    assert not np.array_equal(whole[:3], [image for image, _ in patches(cohort["train"], path, other, 3, steps=3)])


def drawn_cases(shards: list[str], path: str, config: dict[str, Any], number: int, draws: Any) -> list[str]:
    """The cases of the patches of the first batches."""
    scans = whole_scans(shards, path)
    batches = patches(shards, path, config, number, draws=draws)
    return [place_of(patch, scans)[0] for image, _ in batches for patch in image]


def test_only_the_patients_of_a_fold_are_drawn(
    cohort: dict[str, list[str]], transform_output: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.trainer.volumes.SHUFFLE_BYTES", 1)
    config = volume_config(batch_size=10)
    path = transform_output(config)
    cases = sorted(whole_scans(cohort["train"], path))
    found = drawn_cases(cohort["train"], path, config, 12, dict.fromkeys(cases[1:], 1.0))
    shares = [found.count(case) / len(found) for case in cases]
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([1 / 3] * 3, abs=0.05)  # two of each in every pass
    # Everyone once is what is drawn without any wish.
    once = patches(cohort["train"], path, config, 3, draws=dict.fromkeys(cases, 1.0))
    plain = patches(cohort["train"], path, config, 3)
    np.testing.assert_array_equal([image for image, _ in once], [image for image, _ in plain])


def test_patients_are_drawn_as_often_as_they_are_balanced(
    transform_output: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patient of 24 slices and one of 8, in sources that differ, and one without lesion that stays as it is."""
    rng = np.random.default_rng(2)
    records = [make_case("x_long", 24, 3, rng), make_case("y_short", 8, 3, rng), make_case("y_none", 8, 0, rng)]
    shards = [write_shard(tmp_path / f"{n}.gz", made) for n, made in enumerate(records)]
    config = volume_config(lesion_fraction=0.0, batch_size=10)
    path = transform_output(config)
    patients = count_patches(shards, tft.TFTransformOutput(path), 4)
    assert {name: (found.slices, found.lesion) for name, found in patients.items()} == {
        "x_long": (6, 6), "y_short": (2, 2), "y_none": (2, 0)
    }  # fmt: skip
    monkeypatch.setattr("components.trainer.volumes.SHUFFLE_BYTES", 1)  # as little as there can be, so passes stay
    wishes: list[tuple[float, dict[str, float], float]] = [
        (0.0, {}, 6.0), (1.0, {}, 4.0), (0.0, {"x": 1.0, "y": 7.0}, 1.0), (0.5, {}, 8 * 6**0.5 / (6**0.5 + 2**0.5)),
    ]  # fmt: skip
    for balance, shares, long in wishes:
        found = drawn_cases(shards, path, config, 24, lesion_draws(patients, balance, shares))
        counts = {name: found.count(name) / 24 for name in patients}
        # Over 24 passes; each rounds at random, and the last ones are cut off.
        wanted = {"x_long": long, "y_short": 8 - long, "y_none": 2.0}
        assert counts == pytest.approx(wanted, abs=0.4), (balance, shares)
    only = drawn_cases(shards, path, config, 6, {"x_long": 0.0, "y_short": 1.0})
    assert set(only) == {"y_short"}


@pytest.mark.parametrize("kept", [[0, 1, 3, 4], [0, 1, 2, 3], [1, 0, 2, 3, 4]])
def test_slices_that_do_not_make_a_scan_are_said(transform_output: Make, tmp_path: Path, kept: list[int]) -> None:
    records = make_case("odd", 5, 2, np.random.default_rng(0))
    shard = write_shard(tmp_path / "a.gz", [records[index] for index in kept])
    config = volume_config(batch_size=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="case odd: its slices are not all there and in order"):
        patches([shard], transform_output(config), config, 1)


# --- augmentation


def stack(slices: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two patches whose slices are all alike, of two channels."""
    rng = np.random.default_rng(1)
    plane = rng.random((2, 1, 16, 16, 2)).astype(np.float32)
    mask = (plane[..., :1] > 0.7).astype(np.float32)
    return np.repeat(plane, slices, 1), np.repeat(mask, slices, 1)


PLACES: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "affine": {"rotate_degrees": 30.0, "scale": 0.2, "shift": 0.1},
    "elastic": {"elastic_share": 1.0, "elastic": 0.1},
    "carve": {"carve_share": 1.0},
    "soften": {"soften_share": 1.0},
    "gamma": {"gamma": 1.0},
    "intensity": {"intensity": 0.4},
}


@pytest.mark.parametrize("name", PLACES)
def test_all_slices_of_a_patch_are_changed_alike_and_as_a_slice_is(name: str) -> None:
    image, mask = stack()
    config = {**OFF, **PLACES[name]}
    for number in range(6):
        seed = tf.constant([3, number], tf.int64)
        found, truth = augment_volumes(tf.constant(image), tf.constant(mask), seed, config, [1.0, 0.5])
        wanted = augment(tf.constant(image[:, 0]), tf.constant(mask[:, 0]), seed, config, [1.0, 0.5])
        for slice_ in range(3):
            np.testing.assert_allclose(found[:, slice_], wanted[0], atol=1e-5)
            np.testing.assert_allclose(truth[:, slice_], wanted[1], atol=1e-5)
        if not np.allclose(found, image, atol=1e-3):
            return
    raise AssertionError("nothing was changed")


def test_slices_stay_where_they_are_and_each_has_noise_of_its_own() -> None:
    image, mask = stack(4)
    image *= np.linspace(0.2, 0.8, 4, dtype=np.float32)[:, None, None, None]
    seed = tf.constant([1, 1], tf.int64)
    found, truth = augment_volumes(tf.constant(image), tf.constant(mask), seed, {**OFF, "noise": 0.01}, [1.0, 0.5])
    np.testing.assert_array_equal(truth, mask)
    np.testing.assert_allclose(found, image, atol=0.06)
    added = found.numpy() - image
    assert 0.005 < added[..., 0].std() < 0.015
    flat = added[..., 0].reshape(2, 4, -1)
    assert np.abs(np.corrcoef(flat[0])[0, 1:]).max() < 0.3
    unchanged = augment_volumes(tf.constant(image), tf.constant(mask), seed, OFF, [1.0, 0.5])
    np.testing.assert_array_equal(unchanged[0], image)
