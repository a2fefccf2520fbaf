"""Validation on the native grid, against masks known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.errors import IchError
from components.trainer.tuning import tune
from components.trainer.validation import Validation, count_cases, merged, validate, validation_dataset
from schema import features as f
from tests.components.trainer.conftest import make_case, small_config, write_shard
from tests.models import postprocess

Make = Callable[[dict[str, Any]], str]


def by_threshold(image: tf.Tensor) -> tf.Tensor:
    """A network that knows: the lesion is 70 HU, the brain 30; the first window runs from 0 to 80 HU."""
    return tf.sigmoid((image[..., :1] - 50 / 80) * 20)


def nothing(image: tf.Tensor) -> tf.Tensor:
    """A network that finds no lesion."""
    return tf.zeros_like(image[..., :1])


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_dice_by_case_whatever_the_batch(cohort: dict[str, list[str]], transform_output: Make, batch: int) -> None:
    config = small_config()
    dataset = validation_dataset(cohort["val"], tft.TFTransformOutput(transform_output(config)), batch=batch)
    done: list[int] = []
    found = validate(by_threshold, dataset, config["grid"], postprocess(), report=done.append)
    assert set(found.dice) == {"v0", "v1"}
    assert found.patients == {"v0": "v0", "v1": "v1"}
    assert done == [1, 2]
    # A grid of 5.5 mm cannot follow a mask of 4 mm exactly.
    assert min(found.dice.values()) > 0.85
    assert found.mean == pytest.approx(np.mean(list(found.dice.values())))
    assert found.sd == pytest.approx(np.std(list(found.dice.values())))
    missed = validate(nothing, dataset, config["grid"], postprocess())
    assert missed.dice == {"v0": 0.0, "v1": 0.0}


def test_patients_are_chosen_and_validations_joined(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    shards = [*cohort["train"], *cohort["val"]]
    parts = [
        validate(by_threshold, validation_dataset(shards, output, batch=4, patients=ids), config["grid"], postprocess())
        for ids in (["t3", "v0"], ["t0", "nobody"])
    ]
    assert [list(part.dice) for part in parts] == [["t3", "v0"], ["t0"]]
    whole = validate(by_threshold, validation_dataset(shards, output), config["grid"], postprocess())
    both = merged(parts)
    assert both.dice == {case: whole.dice[case] for case in ("t3", "v0", "t0")}
    assert both.mean == pytest.approx(np.mean(list(both.dice.values())))
    assert merged([Validation({"a": 1.0}, {"a": "p"}), Validation({"b": 0.0}, {"b": "p"})]).sd == 0


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_network_of_scans_is_asked_once_a_scan(
    cohort: dict[str, list[str]], transform_output: Make, batch: int
) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    scans = validation_dataset(cohort["val"], output, batch=batch, scans=True)
    asked: list[int] = []

    def across(image: tf.Tensor) -> tf.Tensor:
        asked.append(len(image))
        return by_threshold(image)

    for _ in range(2):  # it can be read again
        found = validate(across, scans, config["grid"], postprocess())
    assert asked == [5, 4, 5, 4]
    slices = validation_dataset(cohort["val"], output)
    assert found == validate(by_threshold, slices, config["grid"], postprocess())


def test_no_lesion_and_none_found_is_one(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    shard = write_shard(tmp_path / "a.gz", make_case("a", 3, 0, np.random.default_rng(0)))
    dataset = validation_dataset([shard], tft.TFTransformOutput(transform_output(config)))
    assert validate(nothing, dataset, config["grid"], postprocess()).dice == {"a": 1.0}


def test_components_below_the_limit_are_dropped(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    dataset = validation_dataset(cohort["val"], tft.TFTransformOutput(transform_output(config)))
    found = validate(by_threshold, dataset, config["grid"], postprocess(min_component_ml=1e6))
    assert found.dice == {"v0": 0.0, "v1": 0.0}


def test_missing_slices_are_said(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    records = make_case("a", 4, 1, np.random.default_rng(0))
    for name, part, message in (
        ("end", records[:3], "found 3 slices, wanted 4"),
        ("middle", [records[0], records[2]], "found slice 2, wanted 1"),
    ):
        shard = write_shard(tmp_path / f"{name}.gz", part)
        with pytest.raises(IchError, match=f"case a: {message}"):
            validate(nothing, validation_dataset([shard], output), config["grid"], postprocess())


def test_an_empty_split_is_said(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    dataset = validation_dataset([write_shard(tmp_path / "a.gz", [])], tft.TFTransformOutput(transform_output(config)))
    with pytest.raises(IchError, match="no slices"):
        validate(nothing, dataset, config["grid"], postprocess())


def test_nothing_but_what_it_needs_is_parsed(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    dataset = validation_dataset(cohort["val"], tft.TFTransformOutput(transform_output(config)))
    assert isinstance(dataset, tf.data.Dataset)
    _, raw = dataset.element_spec
    assert f.MASK not in raw
    assert f.IMAGE not in raw


def test_scans_are_averaged_within_a_patient_first() -> None:
    found = Validation({"a1": 0.2, "a2": 0.6, "b": 0.9}, {"a1": "a", "a2": "a", "b": "b"})
    assert found.mean == pytest.approx((0.4 + 0.9) / 2)
    assert found.sd == pytest.approx(0.25)


@pytest.mark.parametrize("context", [0, 1])
def test_hu_are_the_slices_own(cohort: dict[str, list[str]], transform_output: Make, context: int) -> None:
    """With context, neighbours go with each slice; the lesion of 70 HU is in the first slices only."""
    config = small_config(context=context)
    rng = np.random.default_rng(7)
    records = make_case("a", 5, 1, rng, context=context)
    shard = write_shard(Path(cohort["val"][0]).parents[1] / f"hu-{context}.gz", records)
    dataset = validation_dataset([shard], tft.TFTransformOutput(transform_output(config)), hu=True)

    def own(image: tf.Tensor) -> tf.Tensor:
        return by_threshold(image[..., 3 * context :])

    alone = validate(own, dataset, config["grid"], postprocess())
    kept = validate(own, dataset, config["grid"], postprocess(hu_range=(55, 80)))
    dropped = validate(own, dataset, config["grid"], postprocess(hu_range=(20, 50)))
    assert alone.dice["a"] > 0.85
    assert kept.dice == alone.dice
    assert dropped.dice == {"a": 0.0}


@pytest.mark.parametrize(("context", "within"), [(0, True), (1, False)])
def test_the_skull_is_that_of_the_slices_own_hu(
    cohort: dict[str, list[str]], transform_output: Make, monkeypatch: pytest.MonkeyPatch, context: int, within: bool
) -> None:
    config = small_config(context=context)
    records = make_case("a", 5, 1, np.random.default_rng(7), context=context)
    shard = write_shard(Path(cohort["val"][0]).parents[1] / f"skull-{context}.gz", records)
    dataset = validation_dataset([shard], tft.TFTransformOutput(transform_output(config)), hu=True)

    def skull(hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        assert (hu.shape[0], spacing_mm) == (5, config["grid"]["spacing_mm"])
        return np.asarray((hu > 50) == within)  # the lesion alone, or all but the lesion

    monkeypatch.setattr("components.imaging.postprocess.inside_skull", skull)
    found = validate(
        lambda image: by_threshold(image[..., 3 * context :]), dataset, config["grid"], postprocess(head_only=True)
    )
    assert (found.dice["a"] > 0.85) is within
    assert within or found.dice["a"] == 0


def test_tuning_sees_what_validation_measures(cohort: dict[str, list[str]], transform_output: Make) -> None:
    """Settings that miss everything are left behind, and the figures are those of a validation with what is chosen."""
    config = small_config()
    section = {**config["postprocess"], "threshold": 0.9, "core_threshold": 0.99999, "min_component_ml": 0.3}
    output = tft.TFTransformOutput(transform_output(config))
    dataset = validation_dataset(cohort["val"], output, hu=True)
    done: list[int] = []
    tuning = tune(count_cases(by_threshold, dataset, config["grid"], section, report=done.append), section)
    assert done == [1, 2]
    for trial in (tuning.start, tuning.chosen):
        found = validate(by_threshold, dataset, config["grid"], trial.post)
        assert trial.dice == pytest.approx(found.mean, abs=1e-9)
    assert tuning.start.dice == 0
    assert tuning.chosen.dice > 0.85
    assert len({trial.post for trial in tuning.curve}) == len(tuning.curve)


def test_tuning_on_an_empty_split_is_said(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    dataset = validation_dataset([write_shard(tmp_path / "a.gz", [])], output, hu=True)
    with pytest.raises(IchError, match="no slices"):
        count_cases(nothing, dataset, config["grid"], config["postprocess"])
