"""What an exported model answers: the names of its signatures, and the requests that one scan makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from schema import features as f

if TYPE_CHECKING:  # a server's names need none of what prepares scans
    from components.imaging.scan import Scan
    from serving.contract import Contract

EXAMPLES_SIGNATURE = "serving_default"
"""From serialised examples of `schema.features.SERVING_FEATURES`, string of shape (n,)."""

SLICES_SIGNATURE = "predict_slices"
"""From HU on the model grid, int16 of shape (n, 2k+1, size, size); with `brain` normalisation also the brain's HU mean
and deviation, float32 of shape (n,) each."""

DESCRIBE_SIGNATURE = "describe"
"""From any strings, of shape (n,), to as many copies of the contract."""

EXAMPLES = "examples"
HU = "hu"
QUERY = "query"

PROBABILITY = "probability"
"""float32 of shape (n, size, size), of the first two signatures."""
CONTRACT = "contract"
"""JSON, string of shape (n,), of the third."""

BATCH = 8
"""Slices a request: enough to fill two cores, few enough to stay in their caches. A 3D model gets the whole scan."""


Spec = tuple[str, list[int | None]]
"""Type and shape of a tensor; None is any number of slices."""


def specs(contract: Contract) -> dict[str, dict[str, dict[str, Spec]]]:
    """What the signatures of a model with this contract take and give, ready for JSON.

    Returns:
        By signature, `inputs` and `outputs`: type and shape by name.
    """
    size, slices = contract.grid_size, 2 * contract.context_slices + 1
    probability: dict[str, Spec] = {PROBABILITY: ("float32", [None, size, size])}
    inputs: dict[str, Spec] = {HU: ("int16", [None, slices, size, size])}
    if contract.normalisation == "brain":
        inputs |= {f.BRAIN_HU_MEAN: ("float32", [None]), f.BRAIN_HU_SD: ("float32", [None])}
    return {
        EXAMPLES_SIGNATURE: {"inputs": {EXAMPLES: ("string", [None])}, "outputs": probability},
        SLICES_SIGNATURE: {"inputs": inputs, "outputs": probability},
        DESCRIBE_SIGNATURE: {"inputs": {QUERY: ("string", [None])}, "outputs": {CONTRACT: ("string", [None])}},
    }


def requests(scan: Scan, contract: Contract, batch: int = BATCH) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of `predict_slices`, request by request; the answers in the same order are the scan's slices.

    Args:
        scan: Prepared for the contract's grid.
        contract: The model's contract.
        batch: Most slices a request, for a model that takes slices in any order.
    """
    examples = scan.examples(contract.context_slices)
    size = len(examples) if contract.input == "scan" else batch
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        inputs = {HU: np.ascontiguousarray(part)}
        if contract.normalisation == "brain":
            inputs[f.BRAIN_HU_MEAN] = np.full(len(part), scan.head.brain_mean, np.float32)
            inputs[f.BRAIN_HU_SD] = np.full(len(part), scan.head.brain_sd, np.float32)
        yield inputs


def serialised(inputs: Mapping[str, np.ndarray]) -> list[bytes]:
    """The same request as examples for `serving_default`, one a slice.

    Args:
        inputs: What `requests` yields.

    Returns:
        Serialised `tf.train.Example`s; without `brain` normalisation the brain's figures, which must be there, are 0.
    """
    from tensorflow.core.example import example_pb2

    hu = np.ascontiguousarray(inputs[HU], "<i2")
    made = []
    for index in range(len(hu)):
        example = example_pb2.Example()
        example.features.feature[f.IMAGE].bytes_list.value.append(hu[index].tobytes())
        for name in (f.BRAIN_HU_MEAN, f.BRAIN_HU_SD):
            value = float(inputs[name][index]) if name in inputs else 0.0
            example.features.feature[name].float_list.value.append(value)
        made.append(example.SerializeToString(deterministic=True))
    return made
