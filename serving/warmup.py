"""Requests that TF Serving runs before it takes a version into service, so that no user waits for the first one.

They are of a drawn head: shapes matter here, not what is in them, and no patient's scan may travel with a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from components.imaging.geometry import AIR_HU
from schema import features as f
from serving import signatures as s
from serving.contract import Contract

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TF Serving looks for them in a version's folder: a TFRecord file of `PredictionLog`, not compressed."""

MAX_RECORDS = 1000
"""TF Serving takes no version with more."""

TYPICAL_SLICES = 32
"""Slices of a usual head CT."""

BONE_HU, BRAIN_HU, BLOOD_HU = 900, 33, 65
BRAIN_SD_HU = 8.0
_OUTER, _INNER = 0.42, 0.38  # half axis of skull and brain across the head, as a share of the grid
_LENGTH = 1.15  # of the head against its width


def sizes(contract: Contract) -> tuple[int, ...]:
    """How many slices the requests hold: those that are usual, and one."""
    return (1, TYPICAL_SLICES) if contract.input == "scan" else (1, s.BATCH)


def drawn_head(slices: int, size: int) -> np.ndarray:
    """A skull with brain and a clot in it, the same in every slice but for the clot, which wanders.

    Args:
        slices: How many.
        size: Pixels a side.

    Returns:
        HU, int16 of shape (slices, size, size).
    """
    places = (np.arange(size) + 0.5) / size - 0.5
    rows, columns = places[:, np.newaxis], places[np.newaxis, :]
    radius = np.hypot(rows / _LENGTH, columns)
    hu = np.full((slices, size, size), AIR_HU, np.int16)
    hu[:, radius < _OUTER] = BONE_HU
    hu[:, radius < _INNER] = BRAIN_HU
    for index in range(slices):
        middle = 0.2 * (index + 0.5) / slices - 0.1
        hu[index][np.hypot(rows - middle, columns - 0.15) < 0.08] = BLOOD_HU
    return hu


def slice_inputs(contract: Contract, count: int) -> dict[str, np.ndarray]:
    """Inputs of `predict_slices` for so many slices of the drawn head."""
    hu = drawn_head(count, contract.grid_size)
    inputs = {s.HU: np.repeat(hu[:, np.newaxis], 2 * contract.context_slices + 1, axis=1)}
    if contract.normalisation == "brain":
        inputs[f.BRAIN_HU_MEAN] = np.full(count, BRAIN_HU, np.float32)
        inputs[f.BRAIN_HU_SD] = np.full(count, BRAIN_SD_HU, np.float32)
    return inputs


def warmup_requests(contract: Contract) -> Iterator[tuple[str, dict[str, Any]]]:
    """Signature and inputs of each request: every signature, with every size of `sizes`."""
    for count in sizes(contract):
        inputs = slice_inputs(contract, count)
        yield s.SLICES_SIGNATURE, inputs
        yield s.EXAMPLES_SIGNATURE, {s.EXAMPLES: np.array(s.serialised(inputs), object)}
    yield s.DESCRIBE_SIGNATURE, {s.QUERY: np.array([b""], object)}


def write_warmup(path: str, contract: Contract) -> None:
    """Writes the requests.

    Args:
        path: File or URI; its folder is there.
        contract: Of the model that they are for.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in warmup_requests(contract):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = contract.model_name
            request.model_spec.signature_name = signature
            for name, values in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
