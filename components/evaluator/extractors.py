"""What TFMA keeps of each slice: a few kilobytes instead of the pixels, so that scans can be grouped cheaply.

Models that take slices are asked in batches as they are read, and no pixel goes through a shuffle. A model that takes
whole scans (3D) needs its slices together first: where the candidate or the model in service is one, `WholeScans` sends
the examples through Beam's shuffle, which in Beam's in-process runner means that the split's pixels are held in memory.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow.core.example.example_pb2 import Example
from tensorflow_model_analysis.extractors import (
    features_extractor,
    predictions_extractor,
    slice_key_extractor,
    unbatch_extractor,
)
from tensorflow_model_analysis.utils import model_util

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
    named = {model.model_name if len(models) > 1 else "": model for model in models}
    contracts = {name: read_contract(Path(model.model_path)) for name, model in named.items()}
    representations = tensor_adapter_config.tensor_representations if tensor_adapter_config else None
    if all(contract.input == "slices" for contract in contracts.values()):
        predicted = [
            predictions_extractor.PredictionsExtractor(eval_config=eval_config, eval_shared_model=eval_shared_model),
            tfma.extractors.Extractor("CompactSlices", beam.Map(compact, contracts)),
        ]
    else:
        predicted = [tfma.extractors.Extractor("WholeScans", WholeScans(named, contracts, eval_config))]
    return [
        features_extractor.FeaturesExtractor(eval_config=eval_config, tensor_representations=representations),
        *predicted,
        unbatch_extractor.UnbatchExtractor(),
        slice_key_extractor.SliceKeyExtractor(eval_config=eval_config),
    ]


class WholeScans(beam.PTransform):
    """Predictions where some model takes whole scans; what comes out is that of `compact`, a batch a scan.

    Models that take slices are asked first, in the batches that come in, and packed. Then the slices of each scan come
    together, by a shuffle of the serialised examples, and the others are asked.
    """

    def __init__(self, models: dict[str, Any], contracts: dict[str, Contract], eval_config: Any) -> None:
        """Takes the models.

        Args:
            models: TFMA's shared models by name; a single one under the empty name.
            contracts: Their contracts.
            eval_config: TFMA's configuration, which names their signatures.
        """
        super().__init__()
        self._models = models
        self._contracts = contracts
        self._config = eval_config

    def expand(self, extracts: Any) -> Any:
        """From TFMA's batches of features and serialised examples to batches of packed predictions."""
        extracts = self._ask(extracts, "slices")
        scans = (
            extracts
            | "SplitScans" >> beam.FlatMap(split_batch)
            | "GroupScans" >> beam.GroupByKey()
            | "JoinScans" >> beam.MapTuple(join_scan)
        )
        return self._ask(scans, "scan") | "Finish" >> beam.Map(finish_scan, list(self._contracts))

    def _ask(self, extracts: Any, kind: str) -> Any:
        for name, contract in self._contracts.items():
            if contract.input == kind:
                title = name or "model"
                extracts |= f"Predict {title}" >> beam.ParDo(_Predict(self._models[name], name, self._config))
                extracts |= f"Pack {title}" >> beam.Map(pack_batch, name, contract)
        return extracts


class _Predict(model_util.ModelSignaturesDoFn):
    """One model; a scan that fails is not sent again slice by slice, as TFMA does, which would be another request."""

    def __init__(self, model: Any, name: str, eval_config: Any) -> None:
        spec = next(item for item in eval_config.model_specs if name in ("", item.name))
        super().__init__(
            model_specs=[spec],
            eval_shared_models={"": model},
            output_keypath=[tfma.PREDICTIONS_KEY, name],
            signature_names={"": [spec.signature_name]},
            prefer_dict_outputs=False,
        )

    def process(self, element: dict[str, Any]) -> list[dict[str, Any]]:
        """The extracts with predictions under the model's name."""
        found: list[dict[str, Any]] = self._batch_reducible_process(element)
        return found


def pack_batch(extracts: dict[str, Any], name: str, contract: Contract) -> dict[str, Any]:
    """Packs the predictions of one model, and leaves everything else as it is.

    Args:
        extracts: A batch of slices, with their serialised examples.
        name: The model whose predictions, (n, size, size), are packed.
        contract: Its contract.
    """
    examples = [Example.FromString(record).features.feature for record in np.ravel(extracts[tfma.INPUT_KEY])]
    images, masks = ([example[key].bytes_list.value[0] for example in examples] for key in (f.IMAGE, f.MASK))
    predictions = extracts[tfma.PREDICTIONS_KEY]
    packed = pack_slices(predictions[name], contract, images, masks)
    return {**extracts, tfma.PREDICTIONS_KEY: {**predictions, name: packed}}


def split_batch(extracts: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The slices of a batch by case id, each with what is kept of its features and its serialised example."""
    features = {name: np.asarray(extracts[tfma.FEATURES_KEY][name]) for name in KEPT_FEATURES}
    records = np.ravel(extracts[tfma.INPUT_KEY])
    for row, record in enumerate(records):
        kept = {name: values[row] for name, values in features.items()}
        packed = {name: values[row] for name, values in extracts.get(tfma.PREDICTIONS_KEY, {}).items()}
        slice_ = {tfma.FEATURES_KEY: kept, tfma.INPUT_KEY: record, tfma.PREDICTIONS_KEY: packed}
        yield bytes(np.ravel(kept[f.CASE_ID])[0]).decode(), slice_


def join_scan(case_id: str, slices: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A batch of all slices of a scan, in order.

    Args:
        case_id: The scan.
        slices: As `split_batch` makes them, in any order.

    Raises:
        ValueError: They are not the slices of a scan.
    """
    ordered = sorted(slices, key=lambda item: int(np.ravel(item[tfma.FEATURES_KEY][f.SLICE_INDEX])[0]))
    indices = [int(np.ravel(item[tfma.FEATURES_KEY][f.SLICE_INDEX])[0]) for item in ordered]
    count = int(np.ravel(ordered[0][tfma.FEATURES_KEY][f.NATIVE_SHAPE])[0])
    if indices != list(range(count)):
        raise ValueError(f"case {case_id}: found the slices {indices}, wanted 0 to {count - 1}; ingest it anew")

    def column(key: str, name: str) -> np.ndarray:
        return np.stack([item[key][name] for item in ordered])

    return {
        tfma.FEATURES_KEY: {name: column(tfma.FEATURES_KEY, name) for name in KEPT_FEATURES},
        tfma.INPUT_KEY: np.array([item[tfma.INPUT_KEY] for item in ordered], dtype=object),
        tfma.PREDICTIONS_KEY: {
            name: np.array([item[tfma.PREDICTIONS_KEY][name] for item in ordered], dtype=object)
            for name in ordered[0][tfma.PREDICTIONS_KEY]
        },
    }


def finish_scan(extracts: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """Drops the examples; predictions of a single model stand alone, as TFMA wants them."""
    packed = extracts[tfma.PREDICTIONS_KEY]
    return {
        tfma.FEATURES_KEY: extracts[tfma.FEATURES_KEY],
        tfma.PREDICTIONS_KEY: {name: packed[name] for name in models} if models != [""] else packed[""],
    }


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
    features = extracts[tfma.FEATURES_KEY]
    images, masks = (np.asarray(features[key], dtype=object).ravel() for key in (f.IMAGE, f.MASK))
    packed = {}
    for name, contract in contracts.items():
        values = by_model[name]
        if isinstance(values, dict):
            values = values["probability"]
        packed[name] = pack_slices(values, contract, images, masks)
    return {
        tfma.FEATURES_KEY: {name: features[name] for name in KEPT_FEATURES},
        tfma.PREDICTIONS_KEY: packed if set(contracts) != {""} else packed[""],
    }


def pack_slices(
    probabilities: Any,
    contract: Contract,
    images: Sequence[bytes] | np.ndarray,
    masks: Sequence[bytes] | np.ndarray,
) -> np.ndarray:
    """The packed slices of a batch, an array of bytes.

    Args:
        probabilities: Of one model, (n, size, size).
        contract: Its contract.
        images: The slices' HU as stored.
        masks: Their covered shares as stored.
    """
    undefined = np.isnan(probabilities)  # counted and refused by rule, as quantise could only end the run
    quantised = quantise(np.where(undefined, 0, probabilities))
    counts = [
        calibration_counts(plane.ravel(), np.frombuffer(mask, np.uint8))
        for plane, mask in zip(quantised, masks, strict=True)
    ]
    near = near_lesion(quantised, contract.postprocess["threshold"])
    planes = relevant(quantised, near)
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
    return np.array(slices, dtype=object)


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
