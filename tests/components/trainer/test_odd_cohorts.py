"""Cohorts at the edge: a correct run or a clear refusal, and never a figure that is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.imaging.errors import UsageError
from components.trainer.progress import Silent
from components.trainer.run_fn import run_fn
from schema import features as f
from serving.versions import read_contract
from tests.components.trainer.conftest import make_case, small_config, write_shard
from tests.components.trainer.test_run_fn import arguments

Make = Callable[[dict[str, Any]], str]


def tiny(**training: Any) -> dict[str, Any]:
    return small_config(**{"epochs": 1, "network": {"base_filters": 4, "depth": 1}, **training})


def case(name: str, slices: int, lesion: int, *, air: bool = False, slice_mm: float = 5.0) -> list[bytes]:
    """A case; its seed is its name."""
    records = make_case(name, slices, lesion, np.random.default_rng(list(name.encode())))
    changed = []
    for record in records:
        parsed = tf.train.Example.FromString(record)
        values = parsed.features.feature
        if air:
            pixels = np.frombuffer(values[f.IMAGE].bytes_list.value[0], "<i2")
            values[f.IMAGE].bytes_list.value[:] = [np.full_like(pixels, -1000).tobytes()]
        values[f.SPACING_MM].float_list.value[0] = slice_mm
        values[f.SLICE_SPACING_MM].float_list.value[:] = [slice_mm]
        changed.append(bytes(parsed.SerializeToString()))
    return changed


def run(
    transform: Make, folder: Path, config: dict[str, Any], train: list[list[bytes]], val: list[list[bytes]]
) -> dict[str, Any]:
    """Trains on some cases and returns the history; all its figures, the weights and the answers are finite."""
    cohort = {
        split: [write_shard(folder / f"Split-{split}" / "a.gz", [record for records in cases for record in records])]
        for split, cases in (("train", train), ("val", val))
    }
    args = arguments(cohort, transform(config), folder, config)
    run_fn(args, Silent())
    history: dict[str, Any] = json.loads((folder / "model_run" / "history.json").read_text())
    figures = [*history["val_dice"].values(), *history["metrics"].values()]
    figures += [value for row in history["epochs"] for value in row.values() if value is not None]
    assert all(math.isfinite(value) for value in figures)
    model = tf.saved_model.load(args.serving_model_dir)
    hu = tf.constant(np.stack([np.full((1, 32, 32), value, np.int16) for value in (-1000, 40, 3000)]))
    found = model.signatures["predict_slices"](hu=hu)["probability"].numpy()
    assert np.isfinite(found).all()
    assert read_contract(Path(args.serving_model_dir)).metrics["val_dice"] == history["metrics"]["val_dice"]
    return history


@pytest.mark.parametrize("folds", [1, 2])
def test_no_lesion_at_all_is_refused(transform_output: Make, tmp_path: Path, folds: int) -> None:
    train = [case("a", 3, 0), case("b", 2, 0)]
    with pytest.raises(UsageError, match=r"no lesion in the whole training split: found 0 of .* data\.mask"):
        run(transform_output, tmp_path, tiny(folds=folds), train, [case("v", 2, 0)])


def test_no_lesion_in_training_but_in_validation(transform_output: Make, tmp_path: Path) -> None:
    """Pooled there is some, but not enough for a fold each."""
    train, val = [case("a", 3, 0), case("b", 2, 0)], [case("v", 2, 1)]
    with pytest.raises(UsageError, match="found 0 of 5 slices"):
        run(transform_output, tmp_path, tiny(), train, val)
    with pytest.raises(UsageError, match=r"1 of the 3 patients in train and val have lesion.*set training\.folds to 1"):
        run(transform_output, tmp_path, tiny(folds=2), train, val)


@pytest.mark.parametrize(
    ("training", "train", "val"),
    [
        pytest.param({}, [case("a", 6, 2)], [case("v", 3, 1)], id="one patient"),
        pytest.param({"batch_size": 8}, [case("a", 1, 1)], [case("v", 1, 1)], id="one slice"),
        pytest.param(
            {"batch_size": 1, "network": {"norm": "instance", "depth": 4, "base_filters": 2}},
            [case("a", 1, 1)], [case("v", 1, 0)], id="one slice a batch, normed alone",
        ),
        pytest.param({"batch_size": 16, "patient_balance": 1.0}, [case("a", 2, 1), case("b", 1, 1)], [case("v", 2, 2)],
                     id="a batch of more than all slices"),
        pytest.param({"lesion_fraction": 1.0}, [case("a", 2, 2)], [case("v", 2, 0), case("w", 1, 0)],
                     id="lesion everywhere in train, nowhere in val"),
        pytest.param({"network": {"norm": "group"}}, [case("a", 3, 1, air=True), case("b", 2, 2)],
                     [case("v", 2, 1, air=True)], id="nothing but air"),
        pytest.param({"folds": 2, "batch_size": 8}, [case("a", 1, 1)], [case("v", 1, 1)], id="one slice a fold"),
    ],
)  # fmt: skip
def test_tiny_cohorts_are_trained_on(
    transform_output: Make, tmp_path: Path, training: dict[str, Any], train: list[list[bytes]], val: list[list[bytes]]
) -> None:
    history = run(transform_output, tmp_path, tiny(**training), train, val)
    assert len(history["epochs"]) == training.get("folds", 1)


def test_thick_and_thin_slices_are_mixed(transform_output: Make, tmp_path: Path) -> None:
    """3 mm beside 0.6 mm: both are learned, and components are measured in the millilitres of their own scan."""
    config = small_config(epochs=14, batch_size=6)
    # A lesion of 12 x 10 pixels of 4 mm in every slice has 5.8 ml a slice of 3 mm, 1.2 ml a slice of 0.6 mm.
    config["postprocess"] |= {"tune": False, "min_component_ml": 3.5}
    train = [case("thick", 5, 2, slice_mm=3.0), case("thin", 25, 10, slice_mm=0.6)]
    val = [case("vthick", 4, 1, slice_mm=3.0), case("vthin", 6, 1, slice_mm=0.6)]
    found = run(transform_output, tmp_path, config, train, val)["val_dice"]
    assert found["vthick"] > 0.6
    assert found["vthin"] == 0.0
