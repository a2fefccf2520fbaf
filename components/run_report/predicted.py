"""What the model makes of a few test scans, by the very code with which the gate measured it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example.example_pb2 import Example
from tfx.types import artifact_utils

from components.evaluator.component import BATCH
from components.evaluator.extractors import KEPT_FEATURES, pack_slices
from components.evaluator.patient_metrics import Outlined, outlined
from components.imaging.errors import IchError
from components.imaging.postprocess import own_hu
from schema import features as f
from serving.contract import Contract
from serving.signatures import EXAMPLES, EXAMPLES_SIGNATURE, PROBABILITY


def outline_scans(
    model: str, contract: Contract, examples: Any, wanted: Collection[str], *, split: str = "test"
) -> Iterator[tuple[str, Outlined, np.ndarray]]:
    """Outlines some scans, one in memory at a time.

    Args:
        model: Folder or URI of the SavedModel.
        contract: Its contract.
        examples: The artifact with the scans' slices.
        wanted: Their case ids.
        split: Their split.

    Yields:
        Case id, the scan with truth and prediction, and its HU on the model grid, int16 of shape (slices, size, size).

    Raises:
        IchError: The examples do not hold all slices of a scan.
    """
    if not wanted:
        return
    loaded = tf.saved_model.load(model)
    predict = loaded.signatures[EXAMPLES_SIGNATURE]
    files = tf.io.gfile.glob(os.path.join(artifact_utils.get_split_uri([examples], split), "*"))  # noqa: PTH118 - a URI
    left = set(wanted)
    for case, records in _scans(sorted(files), left):
        left.discard(case)
        step = len(records) if contract.input == "scan" else BATCH
        parts = [
            predict(**{EXAMPLES: tf.constant(records[start : start + step])})[PROBABILITY].numpy()
            for start in range(0, len(records), step)
        ]
        yield case, *_outline(records, np.concatenate(parts), contract)
    if left:
        raise IchError(
            f"case {min(left)}: the examples of the {split} split do not hold all of its slices; ingest it anew"
        )


def _scans(files: Sequence[str], wanted: Collection[str]) -> Iterator[tuple[str, list[bytes]]]:
    """Case id and serialised slices, in order, of each scan of which all slices are there."""
    open_scans: dict[str, dict[int, bytes]] = {}
    left = set(wanted)
    for record in tf.data.TFRecordDataset(list(files), compression_type="GZIP").as_numpy_iterator() if files else ():
        values = Example.FromString(record).features.feature
        case = values[f.CASE_ID].bytes_list.value[0].decode()
        if case not in left:
            continue
        slices = open_scans.setdefault(case, {})
        slices[values[f.SLICE_INDEX].int64_list.value[0]] = record
        if len(slices) == values[f.SLICE_COUNT].int64_list.value[0]:
            left.discard(case)
            yield case, [record for _, record in sorted(open_scans.pop(case).items())]
        if not left:
            return


def _outline(records: Sequence[bytes], probabilities: np.ndarray, contract: Contract) -> tuple[Outlined, np.ndarray]:
    """Post-processes a scan as the gate does; its HU go with it."""
    examples = [Example.FromString(record).features.feature for record in records]
    images, masks = ([values[key].bytes_list.value[0] for values in examples] for key in (f.IMAGE, f.MASK))
    features = {name: np.array([_values(values[name]) for values in examples], dtype=object) for name in KEPT_FEATURES}
    scan = outlined(features, pack_slices(probabilities, contract, images, masks))
    hu = np.stack([own_hu(image, contract.grid_size, contract.context_slices) for image in images])
    return scan, hu


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value)
