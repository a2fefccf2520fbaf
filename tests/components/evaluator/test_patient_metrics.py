"""The metric's parts without TFMA's pipeline: packing, scans from slices, and the averages."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
from tensorflow.core.example.example_pb2 import Example
from tensorflow_model_analysis.metrics import metric_types

from components.evaluator.component import eval_config
from components.evaluator.extractors import (
    KEPT_FEATURES,
    NO_TISSUE,
    OUTSIDE_SKULL,
    compact,
    finish_scan,
    join_scan,
    pack_prediction,
    split_batch,
    unpack_prediction,
)
from components.evaluator.patient_metrics import (
    CALIBRATION,
    KEYS,
    MEANS,
    OF_PREDICTION,
    _PatientCombiner,
    scan_values,
)
from components.imaging.calibration import COUNTS, calibration_counts
from components.imaging.metrics import scan_metrics
from components.imaging.postprocess import Postprocess, near_lesion, outline, quantise, skull_for
from components.imaging.skull import inside_skull, no_tissue
from schema import features as f
from tests.cases import Sample, cuboid
from tests.models import Arithmetic, contract, postprocess

GATE_NAMES = (*MEANS, *OF_PREDICTION)
BLOOD = [cuboid((1, 3), (26, 38), (26, 38))]


def extracts(sample: Sample, order: list[int]) -> tuple[dict[str, Any], np.ndarray]:
    """Features and packed predictions of a scan's slices in some order, shaped as TFMA hands them over."""
    examples = [Example.FromString(record).features.feature for record in sample.examples()]
    features: dict[str, Any] = {}
    for name in KEPT_FEATURES:
        rows = []
        for index in order:
            feature = examples[index][name]
            rows.append(list(getattr(feature, feature.WhichOneof("kind")).value))
        features[name] = np.array(rows, dtype=object if isinstance(rows[0][0], bytes) else None)
    network, made = Arithmetic(), contract()
    planes = quantise(network.numpy(sample.scan().examples(0)))
    marks = np.zeros_like(planes[0])
    masks = [np.frombuffer(example[f.MASK].bytes_list.value[0], np.uint8) for example in examples]
    packed = [
        pack_prediction(planes[index], made, marks, calibration_counts(planes[index].ravel(), masks[index]))
        for index in order
    ]
    return features, np.array(packed, dtype=object)


def grid_masks(sample: Sample) -> np.ndarray:
    """The covered shares of a scan's slices on the model grid, shaped as TFMA hands them over."""
    examples = [Example.FromString(record).features.feature for record in sample.examples()]
    return np.array([[example[f.MASK].bytes_list.value[0]] for example in examples], dtype=object)


def test_packing_keeps_every_pixel_and_the_post_processing() -> None:
    plane = np.random.default_rng(1).integers(0, 256, (32, 32)).astype(np.uint8)
    made = contract(threshold=0.3, min_component_ml=0.5)
    marks = (plane % 4).astype(np.uint8)
    counts = np.arange(COUNTS) * 10**12
    found = unpack_prediction(pack_prediction(plane, made, marks, counts, undefined=3))
    np.testing.assert_array_equal(found.pixels, plane)
    np.testing.assert_array_equal(found.marks, marks)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.hu is None
    wanted = {"grid_size": 32, "grid_spacing_mm": 6.0, "postprocess": made.postprocess, "undefined": 3}
    assert found.header == wanted
    assert Postprocess.from_dict(found.header["postprocess"]) == postprocess(0.3, min_component_ml=0.5)


def test_packing_keeps_hu_beside_the_probabilities() -> None:
    rng = np.random.default_rng(2)
    plane = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    below = rng.integers(-1024, 3072, (32, 32)).astype("<i2")
    marks = (plane % 3).astype(np.uint8)
    counts = np.arange(COUNTS)
    found = unpack_prediction(pack_prediction(plane, contract(hu_range=[20, 110]), marks, counts, below))
    np.testing.assert_array_equal(found.pixels, plane)
    np.testing.assert_array_equal(found.marks, marks)
    np.testing.assert_array_equal(found.counts, counts)
    assert found.hu is not None
    np.testing.assert_array_equal(found.hu, below)


@pytest.mark.parametrize("context", [0, 1])
def test_a_batch_is_compacted_to_what_its_model_looks_at(context: int) -> None:
    """Of the HU, those of the slice itself and only where probabilities are kept."""
    sample = Sample("a", BLOOD)
    scan = sample.scan()
    images = np.array([[part.tobytes()] for part in scan.examples(context)], dtype=object)
    masks = np.random.default_rng(7).integers(0, 256, (len(images), 32 * 32)).astype(np.uint8)
    bytes_of_masks = np.array([[mask.tobytes()] for mask in masks], dtype=object)
    features: dict[str, Any] = {**dict.fromkeys(KEPT_FEATURES), f.IMAGE: images, f.MASK: bytes_of_masks}
    batch = {"features": features, "predictions": Arithmetic().numpy(scan.examples(0))}
    with_hu = contract(context_slices=context, hu_range=[20, 110])
    found = compact(batch, {"": with_hu})
    assert set(found["features"]) == set(KEPT_FEATURES)
    quantised = quantise(Arithmetic().numpy(scan.examples(0)))
    near = near_lesion(quantised, 0.5)
    assert 0 < near.mean() < 0.1
    for index, data in enumerate(found["predictions"]):
        kept = unpack_prediction(data)
        assert kept.hu is not None
        assert kept.header["undefined"] == 0
        np.testing.assert_array_equal(kept.marks & NO_TISSUE > 0, near[index] & no_tissue(scan.hu)[index])
        outside = ~inside_skull(scan.hu, 6.0)[index]
        np.testing.assert_array_equal(kept.marks & OUTSIDE_SKULL > 0, near[index] & outside)
        np.testing.assert_array_equal(kept.pixels, np.where(near[index], quantised[index], 0))
        np.testing.assert_array_equal(kept.hu, np.where(near[index], scan.hu[index], 0))
        # Counted of all pixels, also of those that are not kept.
        np.testing.assert_array_equal(kept.counts, calibration_counts(quantised[index].ravel(), masks[index]))
        assert kept.counts[:10].sum() > near[index].sum()
    both = compact(
        {**batch, "predictions": {"new": batch["predictions"], "old": batch["predictions"]}},
        {"new": contract(context_slices=context), "old": with_hu},
    )
    assert both["predictions"]["old"].tolist() == found["predictions"].tolist()
    assert all(unpack_prediction(data).hu is None for data in both["predictions"]["new"])


SWELLING = cuboid((1, 4), (28, 36), (4, 6))
"""Bright as blood, outside the skull, on 3 slices of 8 x 2 voxels."""


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("settings", [{}, {"head_only": True}, {"head_only": True, "hu_range": [20.0, 110.0]}])
def test_what_lies_outside_the_skull_is_measured_or_dropped(settings: dict[str, Any], batch: int) -> None:
    """The gate outlines from batches of packed slices what prediction outlines from the whole scan."""
    sample = Sample("a", [*BLOOD, SWELLING], BLOOD)
    scan, made, masks = sample.scan(), contract(**settings), grid_masks(sample)
    features, _ = extracts(sample, list(range(5)))
    probabilities = Arithmetic().numpy(scan.examples(0))
    packed: list[bytes] = []
    for start in range(0, 5, batch):
        part = slice(start, start + batch)
        images = np.array([[plane.tobytes()] for plane in scan.hu[part]], dtype=object)
        kept = {**dict.fromkeys(KEPT_FEATURES), f.IMAGE: images, f.MASK: masks[part]}
        packed += list(compact({"features": kept, "predictions": probabilities[part]}, {"": made})["predictions"])
    found = dict(zip(GATE_NAMES, scan_values(features, np.array(packed, dtype=object))["values"], strict=True))
    post = Postprocess.from_dict(made.postprocess)
    skull = skull_for(post, scan.hu, 6.0)
    wanted = scan_metrics(
        sample.mask, outline(quantise(probabilities), scan.geometry, post, scan.hu, skull), scan.geometry.spacing_mm
    )
    assert found["dice"] == wanted.dice
    assert found["predicted_volume_ml"] == wanted.predicted_volume_ml
    if settings:
        assert (found["dice"], found["false_positive_components"], found["outside_brain_ml"]) == (1.0, 0.0, 0.0)
    else:
        assert found["false_positive_components"] == 1.0
        assert found["outside_brain_ml"] == pytest.approx(3 * 8 * 2 * 0.045)  # all of it, and nothing of the blood
    assert found["undefined_pixels"] == 0


def test_pixels_without_a_number_are_counted_and_outline_nothing() -> None:
    sample = Sample("a", BLOOD, BLOOD)
    scan = sample.scan()
    probabilities = Arithmetic().numpy(scan.examples(0))
    probabilities[1:3, 10:20, 16] = np.nan
    images = np.array([[plane.tobytes()] for plane in scan.hu], dtype=object)
    masks = grid_masks(sample)
    kept = {**dict.fromkeys(KEPT_FEATURES), f.IMAGE: images, f.MASK: masks}
    batch = {"features": kept, "predictions": probabilities}
    packed = np.array(list(compact(batch, {"": contract()})["predictions"]), dtype=object)
    measured = scan_values(extracts(sample, list(range(5)))[0], packed)
    found = dict(zip(GATE_NAMES, measured["values"], strict=True))
    assert found["undefined_pixels"] == 20
    assert 0 < found["dice"] < 1
    # The calibration takes them for 0, as the outline does, and leaves none of them out.
    truth = np.stack([np.frombuffer(mask, np.uint8) for (mask,) in masks]).reshape(probabilities.shape)
    assert truth[np.isnan(probabilities)].any()
    filled = calibration_counts(quantise(np.nan_to_num(probabilities, nan=0.0)), truth)
    assert measured["counts"].tolist() == filled.tolist()
    assert measured["counts"][-1] == probabilities.size


def test_a_packed_slice_is_small() -> None:
    sample = Sample("a", BLOOD)
    _, packed = extracts(sample, list(range(5)))
    assert max(map(len, packed)) < 500  # 4096 bytes of float32 pixels


@pytest.mark.parametrize("seed", range(4))
def test_slices_may_come_in_any_order(seed: int) -> None:
    sample = Sample("case", [cuboid((0, 2), (20, 30), (24, 34))], [cuboid((1, 3), (22, 32), (24, 34))], "patient")
    order = list(range(5))
    wanted = scan_values(*extracts(sample, order))
    random.Random(seed).shuffle(order)
    found = scan_values(*extracts(sample, order))
    assert found.pop("counts").tolist() == wanted.pop("counts").tolist()
    assert found == wanted
    assert found["patient"] == "patient"
    assert 0 < found["values"][0] < 1


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4, 4], [0, 0, 1, 2, 3]])
def test_a_scan_with_missing_or_repeated_slices_is_an_error(order: list[int]) -> None:
    with pytest.raises(ValueError, match="a scan of 5 slices came with the slices"):
        scan_values(*extracts(Sample("a", BLOOD, BLOOD), order))


def test_a_scan_is_put_together_from_slices_in_any_order() -> None:
    sample = Sample("a", BLOOD)
    records = np.array(sample.examples(), dtype=object)
    features, packed = extracts(sample, list(range(5)))
    batch = {"features": features, "input": records, "predictions": {"old": packed}}
    slices = list(split_batch(batch))
    assert {case for case, _ in slices} == {"a"}
    joined = join_scan("a", [slices[index][1] for index in (3, 0, 4, 2, 1)])
    assert joined["input"].tolist() == records.tolist()
    assert joined["predictions"]["old"].tolist() == packed.tolist()
    for name in KEPT_FEATURES:
        np.testing.assert_array_equal(joined["features"][name], features[name])
    finished = finish_scan({**joined, "predictions": {"old": packed, "new": packed}}, ["new", "old"])
    assert set(finished) == {"features", "predictions"}
    for wrong in ([0, 1, 2, 3], [0, 1, 2, 3, 4, 4], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=r"case a: found the slices \[.*\], wanted 0 to 4; ingest it anew"):
            join_scan("a", [slices[index][1] for index in wrong])


def combiner() -> _PatientCombiner:
    return _PatientCombiner({name: metric_types.MetricKey(name=name) for name in (*KEYS, CALIBRATION)})


def scan(patient: str, dice: float, alarms: float = 0.0) -> dict[str, Any]:
    """What `scan_values` returns, with two measures of interest."""
    values = dict.fromkeys(GATE_NAMES, 0.0) | {"dice": dice, "false_positive_components": alarms}
    counts = np.arange(COUNTS) + len(patient)
    return {"patient": patient, "values": tuple(values[name] for name in GATE_NAMES), "counts": counts}


def combined(groups: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """The result over scans that arrive in groups; counts as a list."""
    made = combiner()
    accumulators = []
    for group in groups:
        accumulator = made.create_accumulator()
        for element in group:
            accumulator = made.add_input(accumulator, element)
        accumulators.append(accumulator)
    found = {key.name: value for key, value in made.extract_output(made.merge_accumulators(accumulators)).items()}
    return {**found, CALIBRATION: found[CALIBRATION].tolist()}


def test_scans_are_averaged_within_a_patient_first() -> None:
    found = combined([[scan("a", 0.2, 4), scan("b", 0.9, 1)], [scan("a", 0.6, 0)]])
    assert found["patient_dice"] == pytest.approx((0.4 + 0.9) / 2)
    assert found["patient_dice_sd"] == pytest.approx(np.std([0.4, 0.9], ddof=1))
    assert found["false_positive_components"] == pytest.approx((2 + 1) / 2)
    assert (found["patients"], found["scans"]) == (2, 3)


def test_counts_of_the_calibration_are_added_up_over_all_scans() -> None:
    found = combined([[scan("a", 0.2), scan("b", 0.9)], [], [scan("a", 0.6)]])
    assert found[CALIBRATION] == [3.0 * (place + 1) for place in range(COUNTS)]


def test_the_order_of_arrival_leaves_no_trace() -> None:
    scans = [scan("a", 0.1), scan("a", 0.7), scan("b", 0.3), scan("c", 1 / 3)]
    results = [combined([list(order[:cut]), list(order[cut:])])
               for order in itertools.permutations(scans) for cut in (0, 2)]  # fmt: skip
    assert all(result == results[0] for result in results)  # to the last bit


def test_a_single_patient_has_no_deviation() -> None:
    found = combined([[scan("a", 0.5)]])
    assert (found["patient_dice"], found["patient_dice_sd"], found["patients"]) == (0.5, 0.0, 1)


def test_no_scan_at_all_is_not_a_number_and_fails_every_bound() -> None:
    found = combined([[]])
    assert set(found) == {*KEYS, CALIBRATION}
    assert found.pop(CALIBRATION) == [0.0] * COUNTS
    assert all(np.isnan(value) for value in found.values())


def test_the_configuration_names_models_and_slices() -> None:
    config = eval_config("v1")
    assert [(spec.name, spec.is_baseline, spec.signature_name) for spec in config.model_specs] == [
        ("candidate", False, "serving_default"),
        ("baseline", True, "serving_default"),
    ]
    assert [list(spec.feature_keys) for spec in config.slicing_specs] == [[], [f.SIZE_BIN], [f.CASE_ID]]
    (spec,) = config.metrics_specs
    assert spec.query_key == f.CASE_ID
    by_name = {json.loads(metric.config)["name"]: metric for metric in spec.metrics}
    assert tuple(by_name) == KEYS
    # No thresholds: TFMA measures, our rules decide.
    assert not any(metric.per_slice_thresholds or metric.HasField("threshold") for metric in spec.metrics)
    assert not spec.thresholds and not spec.per_slice_thresholds
    assert eval_config("v2") != config  # the code is part of the cache key
    assert eval_config("v1") == config
