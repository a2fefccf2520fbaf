"""The key under which a training is found again."""

from __future__ import annotations

import json
from pathlib import Path

from components.trainer.fingerprint import CASES_FILE, Origin, data_origin, run_key
from tests.components.trainer.conftest import small_config


def test_origin_comes_from_the_listing(tmp_path: Path) -> None:
    shard = tmp_path / "Split-train" / "a.gz"
    shard.parent.mkdir()
    shard.write_bytes(b"123")
    unlisted = data_origin([str(shard)])
    assert unlisted.patients == {}
    shard.write_bytes(b"1234")
    assert data_origin([str(shard)]).fingerprint != unlisted.fingerprint
    listing = {"fingerprint": "f00d", "splits": {"train": {"patients": 3}, "val": {"patients": 1}}}
    (tmp_path / CASES_FILE).write_text(json.dumps(listing))
    assert data_origin([str(shard)]) == Origin("f00d", {"train": 3, "val": 1})


def test_the_name_is_that_of_ingestion() -> None:
    from components.nifti_example_gen.cases import FILE_NAME

    assert CASES_FILE == FILE_NAME


def test_key_depends_on_what_shapes_a_model_and_nothing_else() -> None:
    config = small_config()
    key = run_key(config, "data", "code")
    assert run_key(dict(reversed(config.items())), "data", "code") == key
    assert run_key({**config, "output": {"root": "elsewhere"}}, "data", "code") == key
    for other in (small_config(seed=1), small_config(network={"base_filters": 9})):
        assert run_key(other, "data", "code") != key
    assert run_key(config, "other", "code") != key
    assert run_key(config, "data", "other") != key
