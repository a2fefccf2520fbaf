"""One periodic block of band-limited noise: the source of every irregular shape and texture in the phantom."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

# Always float32 at run time; the wider type is what NumPy's stubs infer for arithmetic.
Float = npt.NDArray[np.floating[Any]]

_BITS = 7
_SIDE = 1 << _BITS
SPACING_MM = 1.2
WAVELENGTH_MM = 21.0
# Mean slope of the noise at its zero crossings, per mm: turns a noise value into a distance from the crossing.
SLOPE_PER_MM = 2 * np.pi / WAVELENGTH_MM * 0.6


@lru_cache(maxsize=1)
def _block() -> Float:
    """Noise of unit variance whose zero level set is a maze of sheets half a wavelength apart, like gyri."""
    rng = np.random.default_rng(20221)
    spectrum = np.fft.rfftn(rng.standard_normal((_SIDE, _SIDE, _SIDE), dtype=np.float32))
    f = np.fft.fftfreq(_SIDE, SPACING_MM)
    fz = np.fft.rfftfreq(_SIDE, SPACING_MM)
    radius = np.sqrt(f[:, None, None] ** 2 + f[None, :, None] ** 2 + fz[None, None, :] ** 2)
    centre = 1 / WAVELENGTH_MM
    spectrum *= np.exp(-(((radius - centre) / (0.3 * centre)) ** 2))
    block = np.fft.irfftn(spectrum, s=(_SIDE, _SIDE, _SIDE)).astype(np.float32)
    block /= block.std()
    return np.ascontiguousarray(block.ravel())


# Directions of the slow waves; no two are alike, so that the sum does not repeat within a head.
_WAVES = ((0.62, 0.71, -0.33), (-0.55, 0.48, 0.68), (0.21, -0.80, 0.56))


def waves(x: Float, y: Float, z: Float, offset: npt.NDArray[np.float64], wavelength_mm: float) -> Float:
    """A smooth undulation of zero mean and unit variance: for shapes far larger than the block's grain."""
    total = np.zeros(x.shape, np.float32)
    for number, (a, b, c) in enumerate(_WAVES):
        k = 2 * np.pi / wavelength_mm * (1 + 0.23 * number)
        phase = k * (a * offset[0] + b * offset[1] + c * offset[2]) * 3 + 2 * number
        total += np.sin(x * np.float32(k * a) + y * np.float32(k * b) + (z * np.float32(k * c) + np.float32(phase)))
    return total * np.float32(np.sqrt(2 / len(_WAVES)))


def noise(x: Float, y: Float, z: Float, offset: npt.NDArray[np.float64], scale: float = 1.0) -> Float:
    """Look up the block at points in mm.

    Args:
        x, y, z: Coordinates in mm, any one shape.
        offset: Three numbers in mm that pick a part of the block, so that patients differ.
        scale: Larger is finer: the wavelength is `WAVELENGTH_MM / scale`.

    Returns:
        Noise of about zero mean and unit variance, of the shape of `x`.
    """
    # The bias keeps truncation toward zero a floor; nearest lookup is enough below the scanner's blur.
    index = np.zeros(x.shape, np.int32)
    for axis, values in enumerate((x, y, z)):
        shift = np.float32(offset[axis] / SPACING_MM + 64 * _SIDE)
        cell = (values * np.float32(scale / SPACING_MM) + shift).astype(np.int32)
        cell &= _SIDE - 1
        cell <<= _BITS * (2 - axis)
        index |= cell
    return _block().take(index)
