"""Anomalies by hand and statistics of made-up patients: what becomes a finding, and what drifts."""

from __future__ import annotations

import math

import pytest
from scipy.spatial.distance import jensenshannon
from tensorflow.core.example.example_pb2 import Example
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.data_validator import rules
from components.data_validator.rules import Measurement, anomaly_findings, chance, distance_findings, drift, skew
from schema import features as f
from tests.components.data_validator.data import listing, patients, schema, statistics

ERROR, WARNING = anomalies_pb2.AnomalyInfo.ERROR, anomalies_pb2.AnomalyInfo.WARNING


def anomalies(**severities: int) -> anomalies_pb2.Anomalies:
    """Anomalies with the given severity by feature."""
    made = anomalies_pb2.Anomalies()
    for name, severity in severities.items():
        info = made.anomaly_info[name]
        info.severity = severity
        info.short_description, info.description = f"short {name}", f"long {name}"
    return made


# --- the schema -----------------------------------------------------------------------------------------------


def test_no_anomalies_no_findings() -> None:
    assert anomaly_findings("train", anomalies(), "stop") == []


@pytest.mark.parametrize("severity", ["stop", "hold", "note"])
def test_errors_get_the_configured_severity_and_warnings_are_notes(severity: str) -> None:
    found = anomaly_findings("val", anomalies(size_bin=ERROR, lesion_pixels=WARNING), severity)
    assert [(item.feature, item.severity, item.rule, item.description) for item in found] == [
        ("lesion_pixels", "note", "short lesion_pixels", "long lesion_pixels"),
        ("size_bin", severity, "short size_bin", "long size_bin"),
    ]
    assert {(item.split, item.kind) for item in found} == {("val", "anomalies")}


def test_anomalies_of_the_whole_data_set_and_of_none() -> None:
    made = anomalies_pb2.Anomalies(data_missing=True)
    made.dataset_anomaly_info.severity = ERROR
    made.dataset_anomaly_info.description = "too few examples"
    found = anomaly_findings("test", made, "stop")
    assert [item.description for item in found] == ["too few examples", "the split holds no examples"]
    assert {(item.feature, item.severity) for item in found} == {(rules.WHOLE, "stop")}


def test_what_no_statistics_are_taken_of_is_not_missed_and_every_scalar_is() -> None:
    assert rules.anomalies("train", statistics(patients(4, 0)), schema(), "stop") == []
    for name in f.STATISTICS_FEATURES:
        examples = patients(2, 0)
        for example in examples:
            del example.features.feature[name]
        assert [item.feature for item in rules.anomalies("train", statistics(examples), schema(), "stop")] == [name]


def test_comparators_alone_find_nothing() -> None:
    """Without a reference the comparators of the schema must not count as broken."""
    found = rules.anomalies("train", statistics(patients(40, 0, brain_hu_mean=15)), schema(), "stop")
    assert found == []


# --- distances ------------------------------------------------------------------------------------------------


def measured(count: int = 40, **shifts: float) -> dict[str, Measurement]:
    """Drift of shifted patients against others of the same population."""
    found = drift(
        "train", statistics(patients(count, 1, **shifts)), schema(), statistics(patients(count, 2)),
        name="before", patients=(count, count),
    )  # fmt: skip
    return {item.feature: item for item in found}


def test_every_comparator_is_measured_against_the_schemas_threshold() -> None:
    found = measured()
    assert set(found) == {f.ORIENTATION, f.SIZE_BIN, *f.FLOAT_FEATURES}
    for name, item in found.items():
        categories = name in (f.ORIENTATION, f.SIZE_BIN)
        assert item.distance == ("L-infinity distance" if categories else "Jensen-Shannon divergence")
        assert (item.threshold, item.kind, item.reference) == (0.1, "drift", "before")
        assert item.bound == pytest.approx(0.1 + chance(categories, 40, 40))


@pytest.mark.parametrize("count", [15, 40, 100])
def test_two_samples_of_one_population_do_not_drift(count: int) -> None:
    assert distance_findings(list(measured(count).values()), "hold") == []


@pytest.mark.parametrize(
    ("shift", "feature"),
    [
        ({f.BRAIN_HU_MEAN: 15.0}, f.BRAIN_HU_MEAN),
        ({f.SLICE_SPACING_MM: 0.25}, f.SLICE_SPACING_MM),
        ({f.LESION_VOLUME_ML: 60.0}, f.SIZE_BIN),
        ({f.LESION_VOLUME_ML: 60.0}, f.LESION_VOLUME_ML),
    ],
)
def test_another_scanner_or_another_lesion_mix_does(shift: dict[str, float], feature: str) -> None:
    found = distance_findings(list(measured(40, **shift).values()), "hold")
    assert feature in {item.feature for item in found}
    for item in found:
        assert item.value is not None and item.bound is not None and item.value > item.bound
        assert f"{item.value:.3f}"[:4] in item.description and "before" in item.description
        assert (item.severity, item.kind, item.split) == ("hold", "drift", "train")
    unchanged = {f.ORIENTATION, f.PIXEL_SPACING_MM, f.HEAD_AREA_CM2}
    assert not unchanged & {item.feature for item in found}


def test_the_distances_are_what_they_are_called() -> None:
    one, other = patients(30, 1), patients(30, 2)

    def shares(examples: list[Example], name: str) -> dict[bytes, float]:
        values = [item.features.feature[name].bytes_list.value[0] for item in examples]
        return {value: values.count(value) / len(values) for value in set(values)}

    found = {
        item.feature: item.value
        for item in drift("train", statistics(one), schema(), statistics(other), name="x", patients=(30, 30))
    }
    for name in (f.ORIENTATION, f.SIZE_BIN):
        a, b = shares(one, name), shares(other, name)
        assert found[name] == pytest.approx(max(abs(a.get(key, 0) - b.get(key, 0)) for key in {*a, *b}), abs=1e-6)
    # Two constants: histograms without common mass have the divergence 1, in bits.
    for example in one:
        example.features.feature[f.SLICE_SPACING_MM].float_list.value[:] = [1.0]
    for example in other:
        example.features.feature[f.SLICE_SPACING_MM].float_list.value[:] = [5.0]
    (apart,) = [
        item.value
        for item in drift("train", statistics(one), schema(), statistics(other), name="x", patients=(30, 30))
        if item.feature == f.SLICE_SPACING_MM
    ]
    assert apart == pytest.approx(jensenshannon([1, 0], [0, 1], base=2) ** 2, abs=0.01)


def test_equal_data_has_no_distance() -> None:
    same = statistics(patients(10, 1))
    for compare in (drift, skew):
        found = compare("val", same, schema(), same, name="x", patients=(10, 10))
        assert found and max(item.value for item in found) == pytest.approx(0, abs=1e-6)


def test_skew_goes_by_the_skew_comparators() -> None:
    curated = schema()
    for feature in curated.feature:
        feature.ClearField("drift_comparator")
    one, other = statistics(patients(30, 1)), statistics(patients(30, 2, brain_hu_mean=15))
    found = skew("val", one, curated, other, name="train", patients=(30, 30))
    assert f.BRAIN_HU_MEAN in {item.feature for item in distance_findings(found, "note")}
    assert {item.kind for item in found} == {"skew"}
    assert drift("val", one, curated, other, name="train", patients=(30, 30)) == []


def test_chance_falls_with_the_number_of_patients_and_is_not_fooled_by_one_large_side() -> None:
    for categories in (True, False):
        values = [chance(categories, count, count) for count in (1, 10, 100, 10_000)]
        assert values == sorted(values, reverse=True) and values[-1] < 0.02
        assert chance(categories, 10, 10_000) > chance(categories, 20, 20)
        assert chance(categories, 0, 5) == chance(categories, 1, 5)
    assert chance(True, 50, 50) == pytest.approx(1.2 * math.sqrt(0.04))
    assert chance(False, 50, 50) == pytest.approx(6 * 0.04)


def test_a_value_on_its_bound_is_allowed() -> None:
    item = Measurement("train", "x", "drift", "y", "L-infinity distance", 0.5, 0.1, 0.5)
    assert distance_findings([item], "hold") == []


# --- quarantine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("good", "bad", "fires"), [(57, 3, False), (54, 6, False), (53, 7, True), (0, 1, True)])
def test_share_of_quarantined_scans(good: int, bad: int, fires: bool) -> None:
    found = rules.quarantined(listing("a", {}, cases=good, quarantined=bad), 0.1, "hold", "share")
    assert bool(found) == fires
    if fires:
        (item,) = found
        assert (item.kind, item.severity, item.bound) == ("quarantined", "hold", 0.1)
        assert item.value == pytest.approx(bad / (good + bad), abs=1e-4)
        assert f"{bad} of {good + bad} scans" in item.description
