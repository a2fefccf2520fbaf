"""The training stream: balance, order, seeds, and splits smaller than a batch."""

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
from components.trainer.data import (
    Counts,
    count_patients,
    count_slices,
    lesion_draws,
    steps_per_epoch,
    total,
    train_dataset,
)
from components.trainer.folds import PatientSlices
from tests.components.trainer.conftest import make_case, small_config, write_shard

Make = Callable[[dict[str, Any]], str]
PLAIN = {
    "flip": False, "affine_share": 0.0, "rotate_degrees": 0.0, "scale": 0.0, "shift": 0.0, "intensity": 0.0,
    "noise": 0.0,
}  # fmt: skip


def batches(shards: list[str], transform: str, config: dict[str, Any], number: int, **options: Any) -> list[np.ndarray]:
    """The images of the first batches."""
    output = tft.TFTransformOutput(transform)
    counts = count_slices(shards, output)
    return [image.numpy() for image, _ in islice(train_dataset(shards, output, config, counts, **options), number)]


@pytest.mark.parametrize(
    ("slices", "lesion", "fraction", "share", "drawn"),
    [(24, 8, 0.5, 0.5, 16), (24, 8, 0.25, 1.0, 24), (24, 16, 0.5, 1.0, 24), (24, 8, 1.0, 0.0, 8), (24, 8, 0.0, 1.0, 24),
     (8, 8, 0.5, 1.0, 8)],
)  # fmt: skip
def test_share_of_slices_without_lesion(slices: int, lesion: int, fraction: float, share: float, drawn: float) -> None:
    counts = Counts(slices, lesion)
    assert counts.kept_share(fraction) == pytest.approx(share)
    assert counts.drawn(fraction) == pytest.approx(drawn)


def test_counts(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    found = count_slices(cohort["train"], tft.TFTransformOutput(transform_output(config)))
    assert found == Counts(24, 8)
    assert steps_per_epoch(found, config["training"]) == 4
    assert steps_per_epoch(found, {**config["training"], "steps_per_epoch": 7}) == 7


def test_lesion_fraction_is_met(transform_output: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    shards = [write_shard(tmp_path / f"{n}.gz", make_case(f"c{n}", 20, 2, rng)) for n in range(4)]
    config = small_config(batch_size=16, lesion_fraction=0.4, augment=PLAIN)
    output = tft.TFTransformOutput(transform_output(config))
    stream = train_dataset(shards, output, config, count_slices(shards, output))
    masks = np.concatenate([mask.numpy() for _, mask in islice(stream, 40)])
    share = (masks.reshape(len(masks), -1).max(axis=1) > 0).mean()
    # 640 draws: three standard deviations are 0.058. Undropped, the share would be 0.1.
    assert share == pytest.approx(0.4, abs=0.06)


def test_slices_with_little_lesion_can_be_left_out(transform_output: Make, tmp_path: Path) -> None:
    """As the recipe that this project started from did."""
    rng = np.random.default_rng(6)
    small, large = (
        [example_with(record, area) for record in make_case(name, 6, 2, rng)] for name, area in (("s", 0.5), ("l", 2.0))
    )
    shards = [write_shard(tmp_path / "small.gz", small), write_shard(tmp_path / "large.gz", large)]
    config = small_config(batch_size=4, lesion_fraction=0.5, min_lesion_cm2=1.0, augment=PLAIN)
    output = tft.TFTransformOutput(transform_output(config))
    counts = count_slices(shards, output, 1.0)
    assert counts == Counts(10, 2)
    stream = train_dataset(shards, output, config, counts)
    masks = np.concatenate([mask.numpy() for _, mask in islice(stream, 20)])
    lesions = {mask.tobytes() for mask in masks if mask.any()}
    assert len(lesions) == 2
    with pytest.raises(UsageError, match=r"training\.min_lesion_cm2"):
        count_slices(shards, output, 3.0)


def example_with(record: bytes, area: float) -> bytes:
    """A slice whose lesion, if it has one, is said to be so large in cm2."""
    parsed = tf.train.Example.FromString(record)
    values = parsed.features.feature
    values["lesion_area_cm2"].float_list.value[:] = [area if values["lesion_pixels"].int64_list.value[0] else 0.0]
    return bytes(parsed.SerializeToString())


def test_an_epoch_holds_every_slice_with_lesion_once(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config(batch_size=8, lesion_fraction=1.0, augment=PLAIN)
    found = np.concatenate(batches(cohort["train"], transform_output(config), config, 2))
    first, second = ({image.tobytes() for image in part} for part in (found[:8], found[8:]))
    assert len(first) == 8
    assert first == second
    assert [a.tobytes() for a in found[:8]] != [a.tobytes() for a in found[8:]]


def test_patients_are_counted_and_chosen(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config(batch_size=6, lesion_fraction=0.0, augment=PLAIN)
    path = transform_output(config)
    output = tft.TFTransformOutput(path)
    patients = count_patients(cohort["train"], output)
    assert patients == {f"t{number}": PatientSlices(6, 2, 1.0) for number in range(4)}
    assert total(patients, 2) == Counts(24, 8)
    found: set[bytes] = set()
    for name in patients:
        counts = Counts(6, 2)
        stream = train_dataset(cohort["train"], output, config, counts, draws={name: 1.0})
        # A pass is one batch, so two batches hold the same six slices.
        first, second = ({image.tobytes() for image in batch.numpy()} for batch, _ in islice(stream, 2))
        assert len(first) == 6
        assert first == second
        assert not found & first
        found |= first
    everyone = np.concatenate(batches(cohort["train"], path, config, 4))
    assert found == {image.tobytes() for image in everyone}


def test_same_seed_same_stream(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    path = transform_output(config)
    first, again = (batches(cohort["train"], path, config, 6) for _ in range(2))
    other = batches(cohort["train"], path, small_config(seed=1), 6)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_later_epoch_does_not_depend_on_those_before(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    path = transform_output(config)
    whole = batches(cohort["train"], path, config, 9, steps=3)
    late = batches(cohort["train"], path, config, 3, steps=3, first_epoch=2)
    np.testing.assert_array_equal(whole[6:], late)


@pytest.mark.parametrize("draws", [None, {"t0": 0.4, "t1": 2.6, "t3": 1.0}])
def test_a_later_step_does_not_depend_on_those_before(
    cohort: dict[str, list[str]], transform_output: Make, draws: dict[str, float] | None
) -> None:
    config = small_config()
    path = transform_output(config)
    whole = batches(cohort["train"], path, config, 9, steps=3, draws=draws)
    late = batches(cohort["train"], path, config, 5, steps=3, first_epoch=1, first_step=1, draws=draws)
    # Steps are passed over in the first epoch alone.
    np.testing.assert_array_equal(whole[4:], late)


def test_draws_even_patients_out() -> None:
    patients = {"a": PatientSlices(30, 20, 9.0), "b": PatientSlices(30, 5, 3.0), "c": PatientSlices(30, 0, 0.0)}
    assert set(lesion_draws(patients, 0.0).values()) == {1.0}
    even = lesion_draws(patients, 1.0)
    assert 20 * even["a"] == pytest.approx(5 * even["b"]) == pytest.approx(12.5)
    half = lesion_draws(patients, 0.5)
    assert half["b"] / half["a"] == pytest.approx(2.0)
    assert 20 * half["a"] + 5 * half["b"] == pytest.approx(25)


def test_sources_get_their_shares_and_patients_are_balanced_within_them() -> None:
    patients = {
        "a_1": PatientSlices(30, 20, 9.0), "a_2": PatientSlices(30, 5, 3.0), "b_1": PatientSlices(9, 3, 1.0),
        "b_2": PatientSlices(9, 0, 0.0),
    }  # fmt: skip
    even = lesion_draws(patients, 0.0, {"a": 1.0, "b": 3.0})
    assert even["a_1"] == even["a_2"]
    assert 25 * even["a_1"] == pytest.approx(28 / 4)
    assert 3 * even["b_1"] == pytest.approx(28 * 3 / 4)
    within = lesion_draws(patients, 1.0, {"a": 1.0, "b": 3.0})
    assert 20 * within["a_1"] == pytest.approx(5 * within["a_2"]) == pytest.approx(3.5)
    assert lesion_draws(patients, 0.5, {"a": 2.0, "b": 6.0}) == pytest.approx(
        lesion_draws(patients, 0.5, {"a": 1.0, "b": 3.0})
    )


def test_a_source_without_lesion_leaves_its_share_to_the_others() -> None:
    patients = {"a_1": PatientSlices(30, 20, 9.0), "b_1": PatientSlices(9, 0, 0.0)}
    draws = lesion_draws(patients, 0.0, {"a": 1.0, "b": 3.0})
    assert draws["a_1"] == pytest.approx(1.0)


def test_a_patient_of_no_source_is_an_error_that_says_whose() -> None:
    with pytest.raises(UsageError, match=r"source_shares: names a, b, but patient c_1 .* data.sources"):
        lesion_draws({"c_1": PatientSlices(3, 2, 1.0)}, 0.0, {"a": 1.0, "b": 1.0})


def test_patients_are_drawn_as_often_as_wanted(transform_output: Make, tmp_path: Path) -> None:
    """One patient has eight slices with lesion, the other one; slices without lesion stay as rare as they were."""
    rng = np.random.default_rng(8)
    records = {"many": make_case("many", 12, 8, rng), "few": make_case("few", 12, 1, rng)}
    shards = [write_shard(tmp_path / f"{name}.gz", cases) for name, cases in records.items()]
    config = small_config(batch_size=9, lesion_fraction=0.5, patient_balance=1.0, augment=PLAIN)
    output = tft.TFTransformOutput(transform_output(config))
    patients = count_patients(shards, output)
    counts = total(patients, 2)

    def slices(draws: dict[str, float], number: int) -> list[bytes | None]:
        """The images with lesion among so many batches, and None for each other."""
        stream = islice(train_dataset(shards, output, config, counts, draws=draws), number)
        pairs = [pair for image, mask in stream for pair in zip(image.numpy(), mask.numpy(), strict=True)]
        return [image.tobytes() if mask.any() else None for image, mask in pairs]

    of = {name: set(slices({name: 1.0}, 6)) - {None} for name in records}
    assert {name: len(images) for name, images in of.items()} == {"many": 8, "few": 1}

    def drawn(balance: float) -> dict[str, int]:
        found = slices(lesion_draws(patients, balance), 60)
        return {name: sum(image in images for image in found) for name, images in of.items()} | {
            "none": found.count(None)
        }

    # Of 540 draws half have lesion, and those are split evenly; four standard deviations of a count are below 47.
    even = drawn(1.0)
    assert even["many"] == pytest.approx(135, abs=40)
    assert even["few"] == pytest.approx(135, abs=40)
    assert even["none"] == pytest.approx(270, abs=47)
    assert drawn(1.0) == even
    plain = drawn(0.0)
    assert plain["many"] == pytest.approx(240, abs=47)
    assert plain["few"] == pytest.approx(30, abs=20)


def test_fewer_slices_than_a_batch(transform_output: Make, tmp_path: Path) -> None:
    config = small_config(batch_size=8)
    shard = write_shard(tmp_path / "a.gz", make_case("a", 3, 1, np.random.default_rng(0)))
    found = batches([shard], transform_output(config), config, 2)
    assert [image.shape for image in found] == [(8, 32, 32, 3)] * 2


def test_context_slices_become_channels(transform_output: Make, tmp_path: Path) -> None:
    config = small_config(context=1, augment=PLAIN, batch_size=2)
    shard = write_shard(tmp_path / "a.gz", make_case("a", 3, 1, np.random.default_rng(0), context=1))
    (found,) = batches([shard], transform_output(config), config, 1)
    assert found.shape == (2, 32, 32, 9)


def test_no_lesion_is_refused(transform_output: Make, tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / f"{n}.gz", make_case("a", 4, 0, np.random.default_rng(0))) for n in range(2)]
    with pytest.raises(UsageError, match="found 0 of 8 slices with lesion in 2 shards"):
        count_slices(shards, tft.TFTransformOutput(transform_output(small_config())))
