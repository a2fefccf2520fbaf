"""What the processor can do, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Any of them multiplies bfloat16 natively."""


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The flags of the first processor; none where they cannot be read.

    Args:
        cpuinfo: Where Linux lists what the processor can do.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    line = next((line for line in lines if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())
