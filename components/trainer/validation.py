"""Patient Dice on the scans' own grids, one scan in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from components.imaging.errors import IchError
from components.imaging.geometry import Geometry
from components.imaging.metrics import dice
from components.imaging.postprocess import outline, quantise, unpack_mask
from components.trainer.data import raw_spec, read_records
from schema import features as f

BATCH = 8
NETWORK_FEATURES = (f.IMAGE, f.BRAIN_HU_MEAN, f.BRAIN_HU_SD)
CASE_FEATURES = (f.CASE_ID, f.SLICE_INDEX, f.SLICE_COUNT, f.NATIVE_MASK, f.NATIVE_SHAPE, f.SPACING_MM, f.GRID_CENTER)

Predict = Callable[[tf.Tensor], tf.Tensor]
"""From float32 (n, size, size, channels) to probabilities (n, size, size, 1)."""


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        dice: Dice by case.
    """

    dice: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the cases."""
        return float(np.mean(list(self.dice.values())))

    @property
    def sd(self) -> float:
        """Standard deviation over the cases, with n in the denominator."""
        return float(np.std(list(self.dice.values())))


def validation_dataset(shards: Sequence[str], tft_output: Any, *, batch: int = BATCH) -> tf.data.Dataset:
    """All slices in the order in which they are stored.

    Returns:
        Pairs of the network's input, float32 (n, size, size, channels), and the raw features `CASE_FEATURES`.
    """
    spec = raw_spec(tft_output, [*NETWORK_FEATURES, *CASE_FEATURES])
    layer = tft_output.transform_features_layer()

    def finish(records: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        raw = tf.io.parse_example(records, spec)
        image = layer({name: raw[name] for name in NETWORK_FEATURES})[f.IMAGE_XF]
        return image, {name: raw[name] for name in CASE_FEATURES}

    return read_records(list(shards)).batch(batch).map(finish, num_parallel_calls=1, deterministic=True).prefetch(2)


def validate(
    predict: Predict,
    dataset: tf.data.Dataset,
    grid: Mapping[str, Any],
    postprocess: Mapping[str, Any],
    *,
    report: Callable[[int], None] = lambda cases: None,
) -> Validation:
    """Dice of every case, after post-processing, on its native grid.

    Args:
        predict: The network.
        dataset: From `validation_dataset`.
        grid: The section `grid` of the configuration.
        postprocess: The section `postprocess`.
        report: Called with the number of cases done.

    Raises:
        IchError: No case, or slices of a case are missing.
    """
    found: dict[str, float] = {}
    for case in _cases(predict, dataset):
        found[case.case_id] = case.dice(grid, postprocess)
        report(len(found))
    if not found:
        raise IchError("the validation split holds no slices; check the splits section")
    return Validation(found)


@dataclass
class _Case:
    """Slices of one scan, collected in order."""

    case_id: str
    count: int
    native_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    grid_center: tuple[float, float]
    quantised: list[np.ndarray]
    masks: list[np.ndarray]

    def dice(self, grid: Mapping[str, Any], postprocess: Mapping[str, Any]) -> float:
        if len(self.masks) != self.count:
            raise IchError(f"case {self.case_id}: found {len(self.masks)} slices, wanted {self.count}; ingest it anew")
        geometry = Geometry(self.native_shape, self.spacing_mm, self.grid_center, grid["size"], grid["spacing_mm"])
        found = outline(
            np.stack(self.quantised),
            geometry,
            threshold=postprocess["threshold"],
            min_component_ml=postprocess["min_component_ml"],
        )
        return dice(np.stack(self.masks), found)


def _cases(predict: Predict, dataset: tf.data.Dataset) -> Iterator[_Case]:
    """Whole cases: a shard holds a case's slices in order, so a new id or index 0 ends the one before."""
    current: _Case | None = None
    for image, raw in dataset:
        quantised = quantise(predict(image).numpy()[..., 0])
        values = {name: tensor.numpy().reshape(len(quantised), -1) for name, tensor in raw.items()}
        for row, plane in enumerate(quantised):
            case_id = values[f.CASE_ID][row, 0].decode()
            if current is None or current.case_id != case_id:
                if current is not None:
                    yield current
                slices, rows, columns = (int(value) for value in values[f.NATIVE_SHAPE][row])
                spacing = tuple(float(value) for value in values[f.SPACING_MM][row])
                center = tuple(float(value) for value in values[f.GRID_CENTER][row])
                current = _Case(
                    case_id,
                    int(values[f.SLICE_COUNT][row, 0]),
                    (slices, rows, columns),
                    (spacing[0], spacing[1], spacing[2]),
                    (center[0], center[1]),
                    [],
                    [],
                )
            expected = len(current.masks)
            if int(values[f.SLICE_INDEX][row, 0]) != expected:
                index = int(values[f.SLICE_INDEX][row, 0])
                raise IchError(f"case {case_id}: found slice {index}, wanted {expected}; ingest it anew")
            current.quantised.append(plane)
            current.masks.append(unpack_mask(values[f.NATIVE_MASK][row, 0], *current.native_shape[1:]))
    if current is not None:
        yield current
