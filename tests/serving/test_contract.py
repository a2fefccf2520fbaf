"""The contract of a model: written, read again, and refused where it cannot be understood."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from components.imaging.errors import UsageError
from components.imaging.postprocess import Postprocess
from serving.contract import FORMAT, Contract

CONTRACT = Contract(
    model_name="ich",
    grid_size=256,
    grid_spacing_mm=0.9,
    context_slices=1,
    windows=[{"name": "brain", "level": 40.0, "width": 80.0}],
    normalisation="brain",
    postprocess={
        "threshold": 0.45,
        "core_threshold": 0.7,
        "min_component_ml": 0.1,
        "fill_holes": True,
        "hu_range": [20.0, 110.0],
        "head_only": True,
    },
    data_fingerprint="00ff",
    config_fingerprint="11ff",
    patients={"train": 7, "val": 2, "test": 1},
    metrics={"dice": 0.7, "hd95": None},
    versions={"keras": "3"},
)


def test_reading_gives_what_was_written() -> None:
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT
    assert Contract.from_json(CONTRACT.to_json().encode()) == CONTRACT
    assert json.loads(CONTRACT.to_json())["format"] == FORMAT


def test_keys_of_a_later_program_are_ignored_within_a_format() -> None:
    tree = {**json.loads(CONTRACT.to_json()), "colour": "red"}
    assert Contract.from_json(json.dumps(tree)) == CONTRACT


def test_a_contract_of_the_format_before_is_read() -> None:
    """It had no `input`: every model took slices."""
    tree = {**json.loads(CONTRACT.to_json()), "format": 2}
    del tree["input"]
    found = Contract.from_json(json.dumps(tree))
    assert (found.input, found.format) == ("slices", 2)
    assert replace(found, format=FORMAT) == CONTRACT


def test_what_a_request_holds_is_kept_and_nothing_unknown_is_taken() -> None:
    scans = replace(CONTRACT, input="scan")
    assert Contract.from_json(scans.to_json()) == scans
    tree = {**json.loads(CONTRACT.to_json()), "input": "voxels"}
    with pytest.raises(UsageError, match="input: found 'voxels', wanted slices or scan"):
        Contract.from_json(json.dumps(tree))


@pytest.mark.parametrize("text", [b"", "", "{", "[]", "3", '"text"', "null", "{}", b"\xff\xfe\x00"])
def test_what_is_no_contract(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="carries no contract"):
        Contract.from_json(text)


@pytest.mark.parametrize("version", [FORMAT + 1, 1, 0, "1", None])
def test_another_format(version: Any) -> None:
    tree = {**json.loads(CONTRACT.to_json()), "format": version}
    with pytest.raises(UsageError, match=f"has format {version}, this program reads 2 and {FORMAT}"):
        Contract.from_json(json.dumps(tree))


def test_a_missing_key_is_named() -> None:
    tree = json.loads(CONTRACT.to_json())
    del tree["grid_size"]
    with pytest.raises(UsageError, match=r"incomplete .*grid_size"):
        Contract.from_json(json.dumps(tree))


def test_a_model_from_before_there_was_a_head_mask_is_read() -> None:
    tree = json.loads(CONTRACT.to_json())
    del tree["postprocess"]["head_only"]
    assert not Postprocess.from_dict(Contract.from_json(json.dumps(tree)).postprocess).head_only


@pytest.mark.parametrize("name", sorted(set(CONTRACT.postprocess) - {"head_only"}))
def test_a_missing_setting_of_the_post_processing_is_named(name: str) -> None:
    tree = json.loads(CONTRACT.to_json())
    del tree["postprocess"][name]
    with pytest.raises(UsageError, match=f"incomplete .*{name}"):
        Contract.from_json(json.dumps(tree))


def test_an_impossible_setting_of_the_post_processing_is_refused() -> None:
    tree = json.loads(CONTRACT.to_json())
    tree["postprocess"]["core_threshold"] = 0.2
    with pytest.raises(UsageError, match=r"core_threshold 0\.2"):
        Contract.from_json(json.dumps(tree))
