"""The curated schema says the same as the feature names."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

import schema
from components.imaging.checks.anatomy import BODY_CM2
from components.imaging.checks.geometry import PIXEL_MM, SLICE_MM
from components.imaging.checks.mask import MAX_MASK_ML
from components.imaging.checks.sample import MAX_SLICES
from components.imaging.head import BRAIN_HU
from schema import features as f

NAMES = (*f.BYTES_FEATURES, *f.STRING_FEATURES, *f.INT_FEATURES, *f.FLOAT_FEATURES, *f.INT_VECTORS, *f.FLOAT_VECTORS)


@pytest.fixture(scope="module")
def curated() -> schema_pb2.Schema:
    return text_format.Parse(Path(str(schema.__file__)).with_name("schema.pbtxt").read_text(), schema_pb2.Schema())


def test_every_feature_is_there_once(curated: schema_pb2.Schema) -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert sorted(feature.name for feature in curated.feature) == sorted(NAMES)


def test_no_feature_name_is_forgotten_in_the_groups() -> None:
    """Every constant of the module that holds one name belongs to a group, or is what Transform returns."""
    constants = {value for name, value in vars(f).items() if name.isupper() and isinstance(value, str)}
    assert constants - {f.IMAGE_XF, f.MASK_XF} == set(NAMES)


def test_types_and_shapes(curated: schema_pb2.Schema) -> None:
    kinds = {
        **dict.fromkeys((*f.BYTES_FEATURES, *f.STRING_FEATURES), schema_pb2.BYTES),
        **dict.fromkeys((*f.INT_FEATURES, *f.INT_VECTORS), schema_pb2.INT),
        **dict.fromkeys((*f.FLOAT_FEATURES, *f.FLOAT_VECTORS), schema_pb2.FLOAT),
    }
    lengths = {**f.INT_VECTORS, **f.FLOAT_VECTORS}
    for feature in curated.feature:
        assert feature.type == kinds[feature.name], feature.name
        wanted = [lengths[feature.name]] if feature.name in lengths else []
        assert feature.HasField("shape"), feature.name
        assert [dim.size for dim in feature.shape.dim] == wanted, feature.name
        assert feature.presence.min_fraction == 1.0, feature.name


def test_a_request_needs_what_serving_needs(curated: schema_pb2.Schema) -> None:
    assert list(curated.default_environment) == ["TRAINING", "SERVING", "STATISTICS"]
    served = [feature.name for feature in curated.feature if "SERVING" not in feature.not_in_environment]
    assert sorted(served) == sorted(f.SERVING_FEATURES)
    assert not any("TRAINING" in feature.not_in_environment for feature in curated.feature)


def test_statistics_are_wanted_of_what_they_are_taken_of(curated: schema_pb2.Schema) -> None:
    wanted = [feature.name for feature in curated.feature if "STATISTICS" not in feature.not_in_environment]
    assert sorted(wanted) == sorted(f.STATISTICS_FEATURES)


def test_one_scan_that_the_checks_let_through_cannot_stop_a_run(curated: schema_pb2.Schema) -> None:
    """What the domains forbid, the checks quarantine: else one bad scan among many ends a training."""
    domains = {feature.name: feature for feature in curated.feature}
    for name, (low, high) in {
        f.SLICE_SPACING_MM: SLICE_MM,
        f.PIXEL_SPACING_MM: PIXEL_MM,
        f.LESION_VOLUME_ML: (0, MAX_MASK_ML),
        f.HEAD_AREA_CM2: (0, BODY_CM2),
        f.BRAIN_HU_MEAN: BRAIN_HU,
    }.items():
        domain = domains[name].float_domain
        assert domain.min <= low + 1e-6 and high <= domain.max + 1e-6, name
    assert domains[f.SLICE_COUNT].int_domain.max >= MAX_SLICES
    assert domains[f.SLICE_INDEX].int_domain.max >= MAX_SLICES - 1


def test_comparators(curated: schema_pb2.Schema) -> None:
    """Categories by shares, numbers by divergence; counts say nothing that spacing and area do not."""
    compared = {f.ORIENTATION: "infinity_norm", f.SIZE_BIN: "infinity_norm"}
    compared |= dict.fromkeys(f.FLOAT_FEATURES, "jensen_shannon_divergence")
    for feature in curated.feature:
        for comparator in (feature.drift_comparator, feature.skew_comparator):
            set_fields = [field.name for field, _ in comparator.ListFields()]
            assert set_fields == ([compared[feature.name]] if feature.name in compared else []), feature.name
            if set_fields:
                assert 0 < getattr(comparator, set_fields[0]).threshold < 0.5


def test_domains(curated: schema_pb2.Schema) -> None:
    features = {feature.name: feature for feature in curated.feature}
    assert list(features[f.SIZE_BIN].string_domain.value) == list(f.SIZE_BINS_ML)
    for name in f.STATISTICS_FEATURES:
        if name not in (f.ORIENTATION, f.SIZE_BIN):
            assert features[name].WhichOneof("domain_info") in ("int_domain", "float_domain"), name
    for feature in curated.feature:
        kind = feature.WhichOneof("domain_info")
        if kind in ("int_domain", "float_domain"):
            domain = getattr(feature, kind)
            assert domain.min < domain.max, feature.name
            assert (kind == "int_domain") == (feature.type == schema_pb2.INT), feature.name


def test_statistics_leave_out_pixels_and_identities() -> None:
    assert not set(f.STATISTICS_FEATURES) & {*f.BYTES_FEATURES, f.CASE_ID, f.PATIENT_ID}
    assert set(f.STATISTICS_FEATURES) < set(NAMES)
    assert f.SPLITS == ("train", "val", "test")
