"""The number format follows what the machine multiplies natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.trainer.precision import resolve_precision


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fpu avx2 avx512f avx512_bf16", "mixed_bfloat16"),
        ("fpu amx_bf16 amx_tile", "mixed_bfloat16"),
        ("fpu avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_auto_by_the_processor(tmp_path: Path, flags: str, wanted: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: x avx512_bf16\nflags\t\t: {flags}\n")
    assert resolve_precision("auto", path) == wanted


def test_what_is_named_is_taken_and_no_list_means_float32(tmp_path: Path) -> None:
    assert resolve_precision("mixed_float16", tmp_path / "none") == "mixed_float16"
    assert resolve_precision("auto", tmp_path / "none") == "float32"


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [([(8, 0)], "mixed_bfloat16"), ([(9, 0), (7, 5)], "float32"), ([None], "float32")],
)
def test_auto_by_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: list[Any], wanted: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("flags\t\t: avx512_bf16\n")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(capabilities))))
    details = [{"compute_capability": item} if item else {} for item in capabilities]
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu])
    assert resolve_precision("auto", path) == wanted
