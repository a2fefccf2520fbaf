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
from components.trainer.validation import validate, validation_dataset
from schema import features as f
from tests.components.trainer.conftest import make_case, small_config, write_shard

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
    found = validate(by_threshold, dataset, config["grid"], config["postprocess"], report=done.append)
    assert set(found.dice) == {"v0", "v1"}
    assert done == [1, 2]
    # A grid of 5.5 mm cannot follow a mask of 4 mm exactly.
    assert min(found.dice.values()) > 0.85
    assert found.mean == pytest.approx(np.mean(list(found.dice.values())))
    assert found.sd == pytest.approx(np.std(list(found.dice.values())))
    missed = validate(nothing, dataset, config["grid"], config["postprocess"])
    assert missed.dice == {"v0": 0.0, "v1": 0.0}


def test_no_lesion_and_none_found_is_one(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    shard = write_shard(tmp_path / "a.gz", make_case("a", 3, 0, np.random.default_rng(0)))
    dataset = validation_dataset([shard], tft.TFTransformOutput(transform_output(config)))
    assert validate(nothing, dataset, config["grid"], config["postprocess"]).dice == {"a": 1.0}


def test_components_below_the_limit_are_dropped(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    dataset = validation_dataset(cohort["val"], tft.TFTransformOutput(transform_output(config)))
    found = validate(by_threshold, dataset, config["grid"], {**config["postprocess"], "min_component_ml": 1e6})
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
            validate(nothing, validation_dataset([shard], output), config["grid"], config["postprocess"])


def test_an_empty_split_is_said(transform_output: Make, tmp_path: Path) -> None:
    config = small_config()
    dataset = validation_dataset(
        [write_shard(tmp_path / "a.gz", [])], tft.TFTransformOutput(transform_output(config))
    )
    with pytest.raises(IchError, match="no slices"):
        validate(nothing, dataset, config["grid"], config["postprocess"])


def test_nothing_but_what_it_needs_is_parsed(cohort: dict[str, list[str]], transform_output: Make) -> None:
    config = small_config()
    dataset = validation_dataset(cohort["val"], tft.TFTransformOutput(transform_output(config)))
    _, raw = dataset.element_spec
    assert f.MASK not in raw
