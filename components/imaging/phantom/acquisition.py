"""How a head becomes a scan: geometry, sub-voxel sampling, blur, shading, noise, table, storage."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from components.imaging.phantom.lattice import Float

Size = Literal["tiny", "small", "full"]
T = TypeVar("T")
Affine = npt.NDArray[np.float64]

HU_MIN, HU_MAX = -1024, 3071


@dataclass(frozen=True)
class Storage:
    """How HU are written: HU = stored * slope + inter, exactly."""

    dtype: str
    slope: float
    inter: float


_STORAGES: tuple[tuple[float, Storage], ...] = (
    (0.40, Storage("int16", 1.0, 0.0)),
    (0.20, Storage("int16", 1.0, -1024.0)),
    (0.15, Storage("uint16", 1.0, -1024.0)),
    (0.10, Storage("int16", 0.5, 0.0)),
    (0.08, Storage("float32", 1.0, 0.0)),
    (0.07, Storage("int32", 1.0, 0.0)),
)

# Axis codes as nibabel names them: mostly what converters write, a few storages by coronal or sagittal plane.
_CODES: tuple[tuple[float, str], ...] = (
    (0.30, "LPS"),
    (0.22, "LAS"),
    (0.16, "RAS"),
    (0.08, "RPS"),
    (0.06, "LPI"),
    (0.05, "RAI"),
    (0.05, "PSR"),
    (0.04, "ASL"),
    (0.04, "LSA"),
)


@dataclass(frozen=True)
class Acquisition:
    """One scan's settings.

    Attributes:
        shape: Voxels along right, front, top, before storage reorders them.
        spacing: mm along the same axes; the third is measured along the slice normal.
        tilt_deg: Gantry tilt: the slice planes turn about the left-right axis.
        sheared: True when the table moved along the world's axis under the tilted gantry, so that slices are
            offset against each other and the affine is not orthogonal; False for slices stacked along their normal.
        pose_deg: Turn of the head about x, y and z against the table.
        centre: World position (mm) of the grid's centre.
        look_at: Head-frame position (mm) of the grid's centre.
        samples: Sub-positions per voxel that are averaged: the partial volume effect.
        blur_mm: Standard deviation of the in-plane point spread.
        noise_hu: Standard deviation of the noise in the brain.
        kernel: Cut-off of the reconstruction kernel, cycles per mm.
        shading_hu: Strength of the beam hardening that is left.
        headrest: Shape of the rest: a bowl, two side bars, or none in the field.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    tilt_deg: float
    sheared: bool
    pose_deg: tuple[float, float, float]
    centre: tuple[float, float, float]
    look_at: tuple[float, float, float]
    samples: int
    blur_mm: float
    noise_hu: float
    kernel: float
    shading_hu: float
    headrest: Literal["bowl", "bars", "none"]
    codes: str
    storage: Storage

    @property
    def affine(self) -> Affine:
        """Voxel index (right, front, top order) to world, RAS mm."""
        turn = rotation(self.tilt_deg, 0, 0)
        columns = turn @ np.diag(self.spacing)
        if self.sheared:
            # The table moves along world z; the slices stay `spacing[2]` apart along their normal.
            columns[:, 2] = (0, 0, self.spacing[2] / np.cos(np.radians(self.tilt_deg)))
        affine = np.eye(4)
        affine[:3, :3] = columns
        affine[:3, 3] = np.array(self.centre) - columns @ ((np.array(self.shape) - 1) / 2)
        return affine

    @property
    def to_head(self) -> Affine:
        """World (mm) to head frame (mm)."""
        pose = np.eye(4)
        pose[:3, :3] = rotation(*self.pose_deg)
        pose[:3, 3] = np.array(self.look_at) - pose[:3, :3] @ np.array(self.centre)
        return pose

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)


def rotation(x_deg: float, y_deg: float, z_deg: float) -> npt.NDArray[np.float64]:
    """Rotation matrix about the x, then y, then z axis (degrees)."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.radians((x_deg, y_deg, z_deg))) for f in (np.cos, np.sin))
    about_x = np.array(((1, 0, 0), (0, cx, -sx), (0, sx, cx)))
    about_y = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
    about_z = np.array(((cz, -sz, 0), (sz, cz, 0), (0, 0, 1)))
    return about_z @ about_y @ about_x


def draw_acquisition(rng: np.random.Generator, size: Size) -> Acquisition:
    """Draw the scanner's settings: `full` as a hospital stores it, `small` for the demo, `tiny` for tests."""
    if size == "full":
        matrix = int(rng.choice((512, 512, 512, 480, 448)))
        field_mm = rng.uniform(205, 256)
        thick = float(rng.choice((5.0, 5.0, 5.0, 4.5, 4.0, 3.0)))
    elif size == "tiny":
        matrix = int(rng.choice((104, 112, 128)))
        field_mm = rng.uniform(210, 240)
        thick = float(rng.choice((8.0, 10.0)))
    else:
        matrix = int(rng.choice((192, 192, 208, 224, 256)))
        field_mm = rng.uniform(205, 250)
        thick = float(rng.choice((5.0, 6.0, 6.0, 7.0, 8.0)))
    pixel = round(field_mm / matrix, 4)
    slices = int(np.clip(round(rng.uniform(118, 142) / thick), 12, 40))
    # Some stations crop the sides.
    across = matrix
    if rng.random() < 0.25:
        across = max(int(np.ceil(178 / pixel / 8)) * 8, matrix * 3 // 4)
    pitch = float(rng.normal(0, 5))
    tilted = rng.random() < 0.5
    bottom = rng.uniform(-52, -38)
    covered = slices * thick
    return Acquisition(
        shape=(min(across, matrix), matrix, slices),
        spacing=(pixel, pixel, thick),
        tilt_deg=float(round(np.clip(pitch + rng.normal(0, 5), -20, 20), 1)) if tilted else 0.0,
        sheared=False,
        pose_deg=(-pitch, float(rng.normal(0, 3.5)), float(rng.normal(0, 5))),
        centre=tuple(float(round(v, 3)) for v in rng.uniform((-8, -20, -60), (8, 20, 60))),  # type: ignore[arg-type]
        look_at=(float(rng.normal(0, 4)), float(rng.normal(-2, 4)), float(bottom + covered / 2)),
        samples=3 if thick <= 4 or size == "tiny" else 5,
        blur_mm=float(rng.uniform(0.45, 0.65)),
        noise_hu=float(np.clip(rng.uniform(3.2, 5.0) * np.sqrt(5 / thick), 3.0, 6.5)),
        kernel=float(rng.uniform(0.30, 0.40)),
        shading_hu=float(rng.uniform(1, 5)),
        headrest=("bowl", "bars", "none")[rng.choice(3, p=(0.5, 0.3, 0.2))],
        codes=_pick(rng, _CODES),
        storage=_pick(rng, _STORAGES),
    )


def _pick(rng: np.random.Generator, table: tuple[tuple[float, T], ...]) -> T:
    weights = np.array([weight for weight, _ in table])
    return table[rng.choice(len(table), p=weights / weights.sum())][1]


def sub_positions(samples: int) -> npt.NDArray[np.float64]:
    """Offsets (samples, 3) in voxels from the centre; each axis is covered evenly, as a rotated grid covers it."""
    steps = (np.arange(samples) + 0.5) / samples - 0.5
    order = {3: (1, 2, 0), 5: (2, 4, 1, 3, 0)}.get(samples, tuple(range(samples)))
    first = steps[list(order)]
    second = steps[[order[i] for i in order]]
    return np.stack((first, second, steps), axis=1)


def finish(
    hu: Float, inside: npt.NDArray[np.bool_], acquisition: Acquisition, rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """Blur, shade, add the headrest and the noise; round to whole HU.

    Args:
        hu: Mean HU of each voxel, shape (right, front, top); air is -1000.
        inside: Where the head is, same shape.
        acquisition: The settings.
        rng: Source of the noise.

    Returns:
        int16 HU in the range a 12-bit scanner stores.
    """
    px, py, _ = acquisition.spacing
    out = ndimage.gaussian_filter(hu, (acquisition.blur_mm / px, acquisition.blur_mm / py, 0), truncate=2.5)
    _add_headrest(out, inside, acquisition)
    dense = np.clip(hu, 0, 1500)
    coarse = max(1, round(4 / px))
    small = ndimage.uniform_filter(dense, (coarse, coarse, 0))[::coarse, ::coarse]
    halo = ndimage.gaussian_filter(small, (12 / (px * coarse), 12 / (py * coarse), 0.6))
    shade = _stretch(_stretch(halo, 0, hu.shape[0]), 1, hu.shape[1])
    out += np.where(inside, acquisition.shading_hu * np.clip(shade / 350 - 0.4, -0.5, 2.0), 0)
    # More photons are lost where there is more bone around.
    strength = acquisition.noise_hu * np.where(inside, 0.85 + 0.25 * np.clip(shade / 350, 0, 2), 0.8)
    out += strength * ct_noise(hu.shape, acquisition.spacing[:2], acquisition.kernel, rng)
    np.clip(out, HU_MIN, HU_MAX, out=out)
    return np.rint(out).astype(np.int16)


def _stretch(values: Float, axis: int, size: int) -> Float:
    """Linear interpolation along one axis to `size` samples over the same extent."""
    old = values.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    shape = [1] * values.ndim
    shape[axis] = size
    part = (at - low).astype(np.float32).reshape(shape)
    first = values.take(low, axis)
    return first + (values.take(np.minimum(low + 1, old - 1), axis) - first) * part


def ct_noise(shape: tuple[int, ...], pixel: tuple[float, float], cutoff: float, rng: np.random.Generator) -> Float:
    """Noise of unit variance with the spectrum of filtered back-projection, independent from slice to slice.

    The noise power of a reconstructed CT image rises with the frequency (the ramp filter) until the kernel's
    apodisation takes it down (Riederer, Pelc and Chesler 1978).
    """
    white = rng.standard_normal((shape[2], shape[0], shape[1]), dtype=np.float32)
    fx = np.fft.fftfreq(shape[0], pixel[0]).astype(np.float32)
    fy = np.fft.rfftfreq(shape[1], pixel[1]).astype(np.float32)
    f = np.hypot(fx[:, None], fy[None, :])
    # A little power stays at the lowest frequencies: scatter and drift.
    gain = np.sqrt((f + 0.02) * np.exp(-np.square(f / cutoff))).astype(np.float32)
    full = np.concatenate((gain, gain[:, 1 : shape[1] - gain.shape[1] + 1]), axis=1)
    gain /= np.sqrt(np.mean(np.square(full)))
    out = np.empty(white.shape, np.float32)
    for k, plane in enumerate(white):
        out[k] = np.fft.irfft2(np.fft.rfft2(plane) * gain, s=shape[:2])
    return np.moveaxis(out, 0, 2)


def _add_headrest(hu: Float, inside: npt.NDArray[np.bool_], acquisition: Acquisition) -> None:
    """The rest below the head, the same in every slice; its foam is nearly air."""
    if acquisition.headrest == "none":
        return
    nx, ny, _ = acquisition.shape
    px, py, _ = acquisition.spacing
    x = ((np.arange(nx) - (nx - 1) / 2) * px)[:, None]
    y = ((np.arange(ny) - (ny - 1) / 2) * py)[None, :]
    if acquisition.headrest == "bowl":
        radius = 135.0
        distance = np.abs(np.hypot(x, y - 30) - radius)
        material = np.where(y < -45, np.clip(2.2 - distance / max(px, 1) * 1.2, 0, 1), 0)
        value = 250.0
    else:
        bar = np.maximum(np.abs(np.abs(x) - 96) - 0.6, np.abs(y + 45) - 22)
        material = np.clip(0.5 - bar / px, 0, 1)
        value = 420.0
    plane = (material * (value + 1000)).astype(np.float32)[:, :, None]
    hu += np.where(inside, 0, np.minimum(plane, value - hu))
