"""Which number format to train in."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from components.imaging.errors import UsageError
from components.trainer.processor import BFLOAT16_FLAGS, cpu_flags

_AMPERE = (8, 0)


def resolve_precision(wanted: str, *, volumes: bool = False, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The Keras dtype policy to train with.

    Without a GPU a 3D network trains in float32 alone: there TensorFlow pools no volumes in float16, and oneDNN's
    gradient of a 3D kernel in bfloat16 now and then is not finite (TensorFlow 2.21; tests/components/trainer/
    test_precision.py says how to see it).

    Args:
        wanted: A policy, or `auto`: bfloat16 where GPU or processor multiply it natively, else float32. Elsewhere
            bfloat16 is emulated and slower.
        volumes: Whether the network is a 3D one.
        cpuinfo: Where Linux lists what the processor can do.

    Returns:
        The policy's name.

    Raises:
        UsageError: The policy named does not work for a 3D network on this machine.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if volumes and not gpus:
        if wanted not in ("auto", "float32"):
            raise UsageError(
                f"training.precision: found {wanted}, but this machine has no GPU and without one TensorFlow trains "
                "no 3d network in half precision; set float32 or auto"
            )
        return "float32"
    if wanted != "auto":
        return wanted
    if gpus:
        capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
        native = all(capability is not None and capability >= _AMPERE for capability in capabilities)
    else:
        native = bool(BFLOAT16_FLAGS & cpu_flags(cpuinfo))
    return "mixed_bfloat16" if native else "float32"
