"""What TFMA keeps of each slice: a few kilobytes instead of the pixels, so that scans can be grouped cheaply."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import (
    features_extractor,
    predictions_extractor,
    slice_key_extractor,
    unbatch_extractor,
)

from components.imaging.calibration import COUNTS, calibration_counts
from components.imaging.postprocess import near_lesion, own_hu, quantise, relevant
from components.imaging.skull import inside_skull, no_tissue
from schema import features as f
from serving.contract import Contract
from serving.versions import read_contract

NO_TISSUE, OUTSIDE_SKULL = 1, 2
"""What is known of a pixel beside its probability, as bits: bone or air; outside the skull."""

KEPT_FEATURES = (
    f.CASE_ID,
    f.PATIENT_ID,
    f.SIZE_BIN,
    f.SLICE_INDEX,
    f.NATIVE_MASK,
    f.NATIVE_SHAPE,
    f.SPACING_MM,
    f.GRID_CENTER,
)


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """TFMA's extractors with one between prediction and grouping that drops the pixels.

    Args:
        eval_shared_model: The candidate, or a list of candidate and baseline.
        eval_config: TFMA's configuration.
        tensor_adapter_config: How the examples become tensors.
    """
    models = eval_shared_model if isinstance(eval_shared_model, list) else [eval_shared_model]
    contracts = {
        model.model_name if len(models) > 1 else "": read_contract(Path(model.model_path)) for model in models
    }
    representations = tensor_adapter_config.tensor_representations if tensor_adapter_config else None
    return [
        features_extractor.FeaturesExtractor(eval_config=eval_config, tensor_representations=representations),
        predictions_extractor.PredictionsExtractor(eval_config=eval_config, eval_shared_model=eval_shared_model),
        tfma.extractors.Extractor("CompactSlices", beam.Map(compact, contracts)),
        unbatch_extractor.UnbatchExtractor(),
        slice_key_extractor.SliceKeyExtractor(eval_config=eval_config),
    ]


def compact(extracts: dict[str, Any], contracts: dict[str, Contract]) -> dict[str, Any]:
    """Packs the probabilities of a batch and drops every feature that no metric needs.

    How probabilities agree with the mask on the model grid is counted before, while all of them are there. Where one
    is not a number it counts as 0, in the outline and in the calibration.

    Args:
        extracts: A batch; predictions are (n, size, size) by model, or alone for a single model.
        contracts: The models' contracts by name; the single model's under the empty name.
    """
    predictions = extracts[tfma.PREDICTIONS_KEY]
    by_model = predictions if set(contracts) != {""} else {"": predictions}
    masks = np.asarray(extracts[tfma.FEATURES_KEY][f.MASK], dtype=object).ravel()
    packed = {}
    for name, contract in contracts.items():
        values = by_model[name]
        if isinstance(values, dict):
            values = values["probability"]
        undefined = np.isnan(values)  # counted and refused by rule, as quantise could only end the run
        quantised = quantise(np.where(undefined, 0, values))
        counts = [
            calibration_counts(plane.ravel(), np.frombuffer(mask, np.uint8))
            for plane, mask in zip(quantised, masks, strict=True)
        ]
        near = near_lesion(quantised, contract.postprocess["threshold"])
        planes = relevant(quantised, near)
        images = np.asarray(extracts[tfma.FEATURES_KEY][f.IMAGE], dtype=object).ravel()
        whole = np.stack([own_hu(image, contract.grid_size, contract.context_slices) for image in images])
        outside = ~inside_skull(whole, contract.grid_spacing_mm)
        marks = relevant(np.where(no_tissue(whole), np.uint8(NO_TISSUE), np.uint8(0)), near)
        marks += relevant(np.where(outside, np.uint8(OUTSIDE_SKULL), np.uint8(0)), near)
        hu: Sequence[np.ndarray | None] = [None] * len(planes)
        if contract.postprocess["hu_range"] is not None:
            hu = list(relevant(whole, near))
        slices = [
            pack_prediction(plane, contract, mark, counted, below, undefined=int(np.count_nonzero(lost)))
            for plane, mark, counted, below, lost in zip(planes, marks, counts, hu, undefined, strict=True)
        ]
        packed[name] = np.array(slices, dtype=object)
    return {
        tfma.FEATURES_KEY: {name: extracts[tfma.FEATURES_KEY][name] for name in KEPT_FEATURES},
        tfma.PREDICTIONS_KEY: packed if set(contracts) != {""} else packed[""],
    }


def pack_prediction(
    quantised: np.ndarray,
    contract: Contract,
    marks: np.ndarray,
    counts: np.ndarray,
    hu: np.ndarray | None = None,
    *,
    undefined: int = 0,
) -> bytes:
    """What is needed of a slice to outline it later, and to judge the outline and the model's calibration.

    Args:
        quantised: Quantised probabilities, uint8 of shape (size, size).
        contract: Of the model that made them; says how to post-process.
        marks: `NO_TISSUE` and `OUTSIDE_SKULL` where they hold, uint8 of the same shape.
        counts: `calibration_counts` of the slice.
        hu: HU on the model grid, int16 of the same shape, where the post-processing looks at them.
        undefined: Pixels whose probability is not a number.
    """
    header = json.dumps(
        {
            "grid_size": contract.grid_size,
            "grid_spacing_mm": contract.grid_spacing_mm,
            "postprocess": contract.postprocess,
            "undefined": undefined,
        }
    ).encode()
    content = counts.astype("<i8").tobytes() + quantised.tobytes() + marks.tobytes()
    content += b"" if hu is None else hu.astype("<i2").tobytes()
    return struct.pack("<H", len(header)) + header + zlib.compress(content, 1)


@dataclass(frozen=True)
class Unpacked:
    """A slice as `pack_prediction` took it.

    Attributes:
        pixels: Quantised probabilities, uint8 of shape (size, size).
        marks: `NO_TISSUE` and `OUTSIDE_SKULL` where they hold, uint8 of the same shape.
        hu: HU, int16 of the same shape, or None.
        counts: `calibration_counts`, int64.
        header: `grid_size`, `grid_spacing_mm`, `postprocess` and `undefined`.
    """

    pixels: np.ndarray
    marks: np.ndarray
    hu: np.ndarray | None
    counts: np.ndarray
    header: dict[str, Any]


def unpack_prediction(data: bytes) -> Unpacked:
    """The inverse of `pack_prediction`."""
    (length,) = struct.unpack_from("<H", data)
    header: dict[str, Any] = json.loads(data[2 : 2 + length])
    content = zlib.decompress(data[2 + length :])
    size, start = header["grid_size"], 8 * COUNTS
    end = start + 2 * size * size
    pixels, marks = np.frombuffer(content, np.uint8, 2 * size * size, start).reshape(2, size, size)
    return Unpacked(
        pixels=pixels,
        marks=marks,
        hu=np.frombuffer(content, "<i2", size * size, end).reshape(size, size) if len(content) > end else None,
        counts=np.frombuffer(content, "<i8", COUNTS),
        header=header,
    )
