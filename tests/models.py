"""Tiny SavedModels with the signatures and the contract of an exported model, whose output NumPy can compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from components.imaging.postprocess import Postprocess
from schema import features as f
from serving.contract import Contract
from serving.versions import CONTRACT_FILE

REFERENCE_MEAN_HU = 33.0


@dataclass(frozen=True)
class Arithmetic:
    """A "network" without weights: sigmoid(slope * (HU - level)) up to an upper HU, 0 above it.

    Attributes:
        level: HU of probability one half.
        upper: HU from which on nothing is lesion (bone).
        slope: Steepness per HU.
        looks_at: Which slice of the context it looks at: 0 the slice itself, -1 the one below.
        brain: Shifts HU first so that the brain's mean becomes 33.
        constant: Probability of every pixel instead of all that.
        mirrored: Looks at the slice from the other side.
        least_pixels: Slices where fewer pixels are likely are left empty.
        specks_every: False alarms in the brain, one pixel each, so many pixels apart; 0: none.
        undefined: The first pixel of each slice is not a number.
        across: Averages each slice with the next one of the request first, the last one with air of 0 HU: a model that
            must see a scan whole and in order.
    """

    level: float = 55.0
    upper: float = 100.0
    slope: float = 0.3
    looks_at: int = 0
    brain: bool = False
    constant: float | None = None
    mirrored: bool = False
    least_pixels: int = 0
    specks_every: int = 0
    undefined: bool = False
    across: bool = False

    def numpy(self, hu: np.ndarray, brain_mean: float = float("nan")) -> np.ndarray:
        """Probabilities, float32 of shape (n, size, size), of HU of shape (n, slices, size, size)."""
        plane = hu[:, hu.shape[1] // 2 + self.looks_at].astype(np.float64)
        if self.constant is not None:
            return np.full(plane.shape, self.constant, np.float32)
        if self.across:
            plane = (plane + np.concatenate([plane[1:], np.zeros_like(plane[:1])])) / 2
        if self.brain:
            plane = plane + (REFERENCE_MEAN_HU - brain_mean)
        if self.mirrored:
            plane = plane[:, :, ::-1]
        inside = (plane < self.upper).astype(np.float64)
        found = (inside / (1 + np.exp(-self.slope * np.clip(plane - self.level, -99, 99)))).astype(np.float32)
        if self.least_pixels:
            found = found * ((found >= 0.5).sum(axis=(1, 2), keepdims=True) >= self.least_pixels)
        if self.specks_every:
            found = np.where(self._specks(found.shape[-1]) & (plane > 20) & (plane < 50), np.float32(0.9), found)
        if self.undefined:
            found[:, 0, 0] = np.nan
        return found

    def _specks(self, size: int) -> np.ndarray:
        places = np.zeros((size, size), bool)
        places[self.specks_every // 2 :: self.specks_every, self.specks_every // 2 :: self.specks_every] = True
        return places

    def tensorflow(self, hu: Any, brain_mean: Any) -> Any:
        """The same, as TensorFlow operations."""
        import tensorflow as tf

        plane = tf.cast(hu[:, hu.shape[1] // 2 + self.looks_at], tf.float32)
        if self.constant is not None:
            return tf.fill(tf.shape(plane), np.float32(self.constant))
        if self.across:
            plane = (plane + tf.concat([plane[1:], tf.zeros_like(plane[:1])], 0)) / 2
        if self.brain:
            plane += tf.reshape(REFERENCE_MEAN_HU - brain_mean, [-1, 1, 1])
        if self.mirrored:
            plane = tf.reverse(plane, [2])
        found = tf.cast(plane < self.upper, tf.float32) * tf.sigmoid(self.slope * (plane - self.level))
        if self.least_pixels:
            likely = tf.reduce_sum(tf.cast(found >= 0.5, tf.int32), [1, 2], keepdims=True)
            found *= tf.cast(likely >= self.least_pixels, tf.float32)
        if self.specks_every:
            found = tf.where(self._specks(int(hu.shape[-1])) & (plane > 20) & (plane < 50), 0.9, found)
        if self.undefined:
            first = np.zeros(hu.shape[2:], bool)
            first[0, 0] = True
            found = tf.where(first, np.float32("nan"), found)
        return found


def postprocess(threshold: float = 0.5, **changes: Any) -> Postprocess:
    """A threshold alone, unless more is given."""
    off = {"core_threshold": None, "min_component_ml": 0.0, "fill_holes": False, "hu_range": None}
    return Postprocess.from_dict({"threshold": threshold, **off, **changes})


def contract(**changes: Any) -> Contract:
    """A contract of the tiny grid of 32 pixels of 6 mm; settings of the post-processing may be given by their names."""
    settings = {item.name for item in fields(Postprocess)} & set(changes)
    chosen = {name: changes.pop(name) for name in settings}
    values: dict[str, Any] = {
        "model_name": "ich",
        "grid_size": 32,
        "grid_spacing_mm": 6.0,
        "context_slices": 0,
        "windows": [{"name": "brain", "level": 40.0, "width": 80.0}],
        "normalisation": "none",
        "postprocess": postprocess(**chosen).to_dict(),
        "data_fingerprint": "0123456789abcdef",
        "config_fingerprint": "fedcba9876543210",
        "patients": {"train": 1, "val": 1, "test": 1},
    }
    return Contract(**{**values, **changes})


def export(folder: Path, network: Arithmetic | None = None, **changes: Any) -> Contract:
    """Writes a SavedModel with its contract, as the trainer does.

    Args:
        folder: Folder of the SavedModel.
        network: What it computes.
        **changes: Fields of its contract.
    """
    import tensorflow as tf

    from serving.warmup import WARMUP_FILE, write_warmup

    network = network or Arithmetic()
    kind = {"normalisation": "brain" if network.brain else "none", "input": "scan" if network.across else "slices"}
    made = contract(**{**kind, **changes})
    shape = [2 * made.context_slices + 1, made.grid_size, made.grid_size]
    scalar = tf.io.FixedLenFeature([], tf.float32, default_value=0.0)
    spec = {f.IMAGE: tf.io.FixedLenFeature([], tf.string), f.BRAIN_HU_MEAN: scalar}
    hu_spec = tf.TensorSpec([None, *shape], tf.int16, name="hu")
    brain_specs = [tf.TensorSpec([None], tf.float32, name=name) for name in (f.BRAIN_HU_MEAN, f.BRAIN_HU_SD)]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_default(examples: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(examples, spec)
        hu = tf.reshape(tf.io.decode_raw(parsed[f.IMAGE], tf.int16, little_endian=True), [-1, *shape])
        return {"probability": network.tensorflow(hu, parsed[f.BRAIN_HU_MEAN])}

    def with_brain(hu: Any, mean: Any, sd: Any) -> dict[str, Any]:
        return {"probability": network.tensorflow(hu, mean)}

    def without_brain(hu: Any) -> dict[str, Any]:
        return {"probability": network.tensorflow(hu, None)}

    predict_slices: Callable[..., Any] = (
        tf.function(with_brain, input_signature=[hu_spec, *brain_specs])
        if network.brain
        else tf.function(without_brain, input_signature=[hu_spec])
    )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
    def describe(query: Any) -> dict[str, Any]:
        return {"contract": tf.fill(tf.shape(query), made.to_json())}

    tf.saved_model.save(
        tf.Module(),
        str(folder),
        signatures={
            "serving_default": serving_default,
            "predict_slices": predict_slices,
            "describe": describe,
        },
    )
    write_contract(folder, made)
    write_warmup(str(folder / WARMUP_FILE), made)
    return made


def write_contract(folder: Path, made: Contract) -> None:
    """Writes the contract beside a model."""
    path = folder / CONTRACT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made.to_json(), encoding="utf-8")


def unloadable(folder: Path, **changes: Any) -> Contract:
    """A version whose files are all there while no network is: for what never loads a model."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(repr(sorted(changes.items())).encode())
    made = contract(**changes)
    write_contract(folder, made)
    return made
