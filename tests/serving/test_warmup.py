"""The requests that warm a server up: what they ask for, that the model answers them, and that nobody is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from components.imaging.geometry import AIR_HU, HU_RANGE
from serving.signatures import BATCH
from serving.warmup import (
    BLOOD_HU,
    BONE_HU,
    BRAIN_HU,
    MAX_RECORDS,
    TYPICAL_SLICES,
    WARMUP_FILE,
    drawn_head,
    write_warmup,
)
from tests.models import Arithmetic, contract, export

KINDS = [
    (Arithmetic(), {}, [1, BATCH]),
    (Arithmetic(looks_at=-1), {"context_slices": 1}, [1, BATCH]),
    (Arithmetic(brain=True), {}, [1, BATCH]),
    (Arithmetic(across=True), {}, [1, TYPICAL_SLICES]),
    (Arithmetic(across=True, brain=True), {"grid_size": 48}, [1, TYPICAL_SLICES]),
]


def requests(path: Path) -> list[Any]:
    """The requests in a file, as TF Serving reads them."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert 0 < len(records) <= MAX_RECORDS
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


@pytest.mark.parametrize(("network", "changes", "counts"), KINDS)
def test_the_model_answers_every_request(
    tmp_path: Path, network: Arithmetic, changes: dict[str, Any], counts: list[int]
) -> None:
    made = export(tmp_path, network, model_name="other", **changes)
    model = tf.saved_model.load(str(tmp_path))
    answers: dict[str, list[np.ndarray]] = {name: [] for name in model.signatures}
    for request in requests(tmp_path / WARMUP_FILE):
        assert request.model_spec.name == "other"
        name = request.model_spec.signature_name
        given = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        assert set(given) == set(model.signatures[name].structured_input_signature[1])
        (answer,) = model.signatures[name](**given).values()
        answers[name].append(answer.numpy())
    (text,) = answers["describe"]
    assert text.tolist() == [made.to_json().encode()]
    for slices, examples, count in zip(
        answers["predict_slices"], answers["serving_default"], counts, strict=True
    ):  # in the same order
        assert slices.shape == (count, made.grid_size, made.grid_size)
        assert np.isfinite(slices).all() and slices.min() >= 0 and slices.max() <= 1
        np.testing.assert_array_equal(slices, examples)
    assert answers["predict_slices"][1].max() > 0.9  # the clot is found: what is drawn is in HU


@pytest.mark.parametrize("size", [16, 32, 256])
@pytest.mark.parametrize("slices", [1, 2, 32])
def test_the_drawn_head_has_air_bone_brain_and_a_clot(slices: int, size: int) -> None:
    hu = drawn_head(slices, size)
    assert hu.dtype == np.int16 and hu.shape == (slices, size, size)
    assert hu.min() >= HU_RANGE[0] and hu.max() <= HU_RANGE[1]
    for one in hu:
        assert set(np.unique(one)) == {AIR_HU, BONE_HU, BRAIN_HU, BLOOD_HU}
        assert (one == BRAIN_HU).sum() > (one == BLOOD_HU).sum() > 0
        assert one[0, 0] == one[-1, -1] == AIR_HU
    np.testing.assert_array_equal(hu, drawn_head(slices, size))


def test_the_same_contract_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_warmup(str(tmp_path / name), contract(context_slices=1, normalisation="brain"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_small(tmp_path: Path) -> None:
    write_warmup(str(tmp_path / "w"), contract(grid_size=256))
    assert (tmp_path / "w").stat().st_size < 3 * 2**20
