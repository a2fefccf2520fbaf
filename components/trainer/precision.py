"""Which number format to train in."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_AMPERE = (8, 0)


def resolve_precision(wanted: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The Keras dtype policy to train with.

    Args:
        wanted: A policy, or `auto`: bfloat16 where GPU or processor multiply it natively, else float32. Elsewhere
            bfloat16 is emulated and slower.
        cpuinfo: Where Linux lists what the processor can do.

    Returns:
        The policy's name.
    """
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
        native = all(capability is not None and capability >= _AMPERE for capability in capabilities)
    else:
        native = bool(BFLOAT16_FLAGS & _flags(cpuinfo))
    return "mixed_bfloat16" if native else "float32"


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    line = next((line for line in lines if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())
