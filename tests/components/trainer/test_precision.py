"""The number format follows what the machine multiplies natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.imaging.errors import UsageError
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
    assert resolve_precision("auto", cpuinfo=path) == wanted


def test_what_is_named_is_taken_and_no_list_means_float32(tmp_path: Path) -> None:
    assert resolve_precision("mixed_float16", cpuinfo=tmp_path / "none") == "mixed_float16"
    assert resolve_precision("auto", cpuinfo=tmp_path / "none") == "float32"


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [([(8, 0)], "mixed_bfloat16"), ([(9, 0), (7, 5)], "float32"), ([None], "float32")],
)
def test_auto_by_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: list[Any], wanted: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("flags\t\t: avx512_bf16\n")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(capabilities))))
    details = [{"compute_capability": item} if item else {} for item in capabilities]
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu])
    assert resolve_precision("auto", cpuinfo=path) == wanted
    assert resolve_precision("auto", volumes=True, cpuinfo=path) == wanted


def test_volumes_train_in_float32_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's gradient of a 3D kernel in bfloat16 is not finite in a few of a hundred steps.

    To see it: a network of the settings in test_network.py, `kind: 3d` and `precision="mixed_bfloat16"`, and its
    `gradients` a hundred times; with TF_ENABLE_ONEDNN_OPTS=0 all are finite.
    """
    path = tmp_path / "cpuinfo"
    path.write_text("flags\t\t: avx512_bf16\n")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert resolve_precision("auto", volumes=True, cpuinfo=path) == "float32"
    assert resolve_precision("float32", volumes=True, cpuinfo=path) == "float32"
    for wanted in ("mixed_bfloat16", "mixed_float16"):
        with pytest.raises(UsageError, match=rf"training\.precision: found {wanted}, .* set float32 or auto"):
            resolve_precision(wanted, volumes=True, cpuinfo=path)
