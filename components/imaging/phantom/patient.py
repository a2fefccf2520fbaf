"""One generated patient, from a seed and an index to an int16 scan and its exact mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import nibabel as nib
import numpy as np
import numpy.typing as npt

from components.imaging.errors import UsageError
from components.imaging.phantom import acquisition as scanner
from components.imaging.phantom.acquisition import Acquisition, Affine, Size, Storage
from components.imaging.phantom.anatomy import Head, Shell, Tissue, draw_head, shell, tissues
from components.imaging.phantom.blood import KINDS, Clot, Kind, displaced, draw_clots, field, kinds_of
from components.imaging.phantom.lattice import Float, noise

# Points worked on at once: what keeps the temporaries in the cache.
_CHUNK = 120_000
_BONE_LIKE_HU = 150.0


@dataclass(frozen=True)
class Phantom:
    """One scan with its truth.

    Attributes:
        hu: int16 HU in storage order, values in [-1024, 3071].
        mask: uint8, 1 where at least half of the voxel is blood and its mean is not that of bone
            (150 HU or more); shape of `hu`.
        affine: Voxel index of `hu` to world, RAS mm, shape (4, 4).
        kinds: Kinds of blood in the mask.
        volumes_ml: Volume of each of `kinds` in the mask, ml; together they are the mask's volume.
        storage: dtype, slope and intercept that the file is written with.
        acquisition: The scanner's settings.
        seed: Seed of the cohort.
        index: Number of the patient in the cohort.
    """

    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    affine: Affine
    kinds: tuple[Kind, ...]
    volumes_ml: tuple[float, ...]
    storage: Storage
    acquisition: Acquisition
    seed: int
    index: int

    def stored(self) -> npt.NDArray[np.generic]:
        """The numbers in the file: HU = stored * slope + inter holds exactly."""
        values = (self.hu.astype(np.float64) - self.storage.inter) / self.storage.slope
        return values.astype(self.storage.dtype)


def generate_patient(
    seed: int,
    index: int,
    *,
    size: Size = "small",
    kinds: Sequence[Kind] | None = None,
    volume_ml: tuple[float, float] | None = None,
    sheared: bool = False,
) -> Phantom:
    """Generate patient `index` of the cohort `seed`; the same arguments give the same bytes.

    Args:
        seed: Seed of the cohort, at least 0.
        index: Number of the patient, at least 0; patients do not depend on each other.
        size: "tiny" (about 112x112x14), "small" (about 208x208x20, 1 s) or "full" (about 512x512x28).
        kinds: Kinds of blood instead of the drawn ones; empty for a head without blood.
        volume_ml: Log-uniform range of each clot's volume instead of the usual spread.
        sheared: Write a tilted gantry's affine as it is, with slices offset against each other.

    Raises:
        UsageError: A negative seed or index, an unknown size or kind, a range of volumes that is none.
    """
    _check(seed, index, size, kinds, volume_ml)
    head_rng, clot_rng, scan_rng, noise_rng = (np.random.default_rng((seed, index, stream)) for stream in range(4))
    wanted = kinds_of(seed, index) if kinds is None else tuple(kinds)
    clots = draw_clots(clot_rng, wanted, volume_ml)
    head = draw_head(head_rng)
    if any(clot.kind in ("subarachnoid", "intraventricular") for clot in clots):
        # Blood distends the spaces it fills.
        head = replace(head, atrophy=max(head.atrophy, 0.4), ventricles=max(head.ventricles, 1.0))
    settings = scanner.draw_acquisition(scan_rng, size)
    if sheared:
        tilt = settings.tilt_deg if abs(settings.tilt_deg) > 5 else 12.0
        settings = replace(settings, sheared=True, tilt_deg=tilt)
    hu, share, inside = _expose(head, clots, settings)
    image = scanner.finish(hu, inside, settings, noise_rng)
    mask, volumes = _truth(clots, share, hu, settings)
    to_storage = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(settings.codes)
    )
    affine = settings.affine @ nib.orientations.inv_ornt_aff(to_storage, image.shape)
    return Phantom(
        hu=np.ascontiguousarray(nib.orientations.apply_orientation(image, to_storage)),
        mask=np.ascontiguousarray(nib.orientations.apply_orientation(mask, to_storage)),
        affine=affine,
        kinds=tuple(volumes),
        volumes_ml=tuple(volumes.values()),
        storage=settings.storage,
        acquisition=settings,
        seed=seed,
        index=index,
    )


def _check(
    seed: int, index: int, size: str, kinds: Sequence[str] | None, volume_ml: tuple[float, float] | None
) -> None:
    if seed < 0 or index < 0:
        raise UsageError(f"phantom: seed {seed} and index {index} must not be negative; give whole numbers from 0")
    if size not in get_args(Size):
        raise UsageError(f"phantom: size {size!r} is unknown; use one of {', '.join(get_args(Size))}")
    if volume_ml is not None and not 0 < volume_ml[0] <= volume_ml[1] < np.inf:
        raise UsageError(f"phantom: volume range {volume_ml} ml is no range; give two numbers, 0 < low <= high")
    unknown = set(kinds or ()) - set(KINDS)
    if unknown:
        raise UsageError(f"phantom: unknown kind of blood {sorted(unknown)}; use some of {', '.join(KINDS)}")


def _expose(head: Head, clots: Sequence[Clot], settings: Acquisition) -> tuple[Float, Float, npt.NDArray[np.bool_]]:
    """Mean HU, share of each clot (clots first) and the head's region on the voxel grid, before blur and noise."""
    shape = settings.shape
    voxels = int(np.prod(shape))
    total = np.zeros(voxels, np.float32)
    weight = np.zeros(voxels, np.uint8)
    share = np.zeros((len(clots), voxels), np.float32)
    to_head = settings.to_head @ settings.affine
    offsets = scanner.sub_positions(settings.samples)
    parts = [part for offset in offsets for part in _points_in_head(head, to_head, shape, offset)]
    exposed = [_expose_part(head, clots, *part) for part in parts]
    levels = [
        _level([part.fields[c] for part in exposed], clot.volume_ml * settings.samples / settings.voxel_ml)
        for c, clot in enumerate(clots)
    ]
    for part in exposed:
        hu = part.hu
        owner = np.full(hu.shape, -1, np.int8)
        for c, (clot, level) in enumerate(zip(clots, levels, strict=True)):
            values = part.fields[c]
            if clot.kind == "intraparenchymal":
                ring = np.flatnonzero((values >= level) & (values < level + clot.edema_mm / clot.radius))
                fade = 1 - (values[ring] - level) * np.float32(clot.radius / clot.edema_mm)
                hu[ring] -= np.where(part.kind[ring] == Tissue.PARENCHYMA, clot.edema_hu * fade, 0)
            hit = np.flatnonzero(values < level)
            x, y, z = (axis[hit] for axis in part.position)
            rough = noise(x, y, z, clot.offset, 1.6)
            # Calcifications stay what they are inside a clot.
            hu[hit] = np.where(hu[hit] > 95, hu[hit], clot.hu + clot.texture_hu * rough)
            owner[hit] = c
        # One sub-position meets a voxel at most once, so plain indexing adds up correctly.
        total[part.voxel] += hu
        weight[part.voxel] += 1
        for c in range(len(clots)):
            share[c, part.voxel[owner == c]] += 1
    samples = settings.samples
    mean = (total - 1000 * (samples - weight.astype(np.float32))) / samples
    inside = (weight * 2 > samples).reshape(shape)
    return mean.reshape(shape), (share / samples).reshape((len(clots), *shape)), inside


@dataclass
class _Part:
    voxel: npt.NDArray[np.int64]
    position: tuple[Float, Float, Float]
    hu: Float
    kind: npt.NDArray[np.uint8]
    fields: list[Float]


def _points_in_head(
    head: Head, to_head: Affine, shape: tuple[int, int, int], offset: npt.NDArray[np.float64]
) -> list[tuple[npt.NDArray[np.int64], tuple[Float, Float, Float], Shell]]:
    """The sub-positions inside the skin, in groups of slices: flat voxel numbers, head coordinates, distances."""
    nx, ny, nz = shape
    matrix = to_head[:3, :3].astype(np.float32)
    ix, iy = (np.arange(n, dtype=np.float32) + np.float32(o) for n, o in zip((nx, ny), offset, strict=False))
    plane = [matrix[a, 0] * ix[:, None] + matrix[a, 1] * iy[None, :] for a in range(3)]
    groups = []
    step = max(1, _CHUNK // (nx * ny))
    for first in range(0, nz, step):
        ks = np.arange(first, min(first + step, nz))
        shift = [(to_head[a, 3] + to_head[a, 2] * (ks + offset[2])).astype(np.float32) for a in range(3)]
        x, y, z = ((plane[a][:, :, None] + shift[a]).ravel() for a in range(3))
        # A box around any head, so that the distances are worked out for few points of air.
        near = np.flatnonzero((np.abs(x) < 92) & (np.abs(y - 3) < 116) & (z < 98))
        # Above the ears an ellipsoid does, below them its outline.
        high = np.maximum(z[near] - 10, 0) / 90
        near = near[np.square(x[near] / 92) + np.square((y[near] - 4) / 114) + np.square(high) < 1]
        x, y, z = x[near], y[near], z[near]
        outline = shell(head, x, y, z)
        skin = np.flatnonzero(outline.skin < 0)
        if skin.size == 0:
            continue
        near = near[skin]
        in_plane, k = np.divmod(near, len(ks))
        voxel = in_plane * nz + ks[k]
        groups.append((voxel, (x[skin], y[skin], z[skin]), Shell(*(part[skin] for part in outline))))
    return groups


def _expose_part(
    head: Head,
    clots: Sequence[Clot],
    voxel: npt.NDArray[np.int64],
    position: tuple[Float, Float, Float],
    outline: Shell,
) -> _Part:
    inside = np.flatnonzero(outline.cavity < 0)
    x, y, z = (axis[inside] for axis in position)
    inner = displaced(clots, x, y, z, -outline.cavity[inside])
    kind, hu = tissues(head, *position, outline, inside, inner)
    return _Part(voxel, position, hu, kind, [field(clot, head, *position, outline, kind) for clot in clots])


def _level(fields: Sequence[Float], count: float) -> float:
    """The level below which `count` sub-positions lie, or all that can be blood."""
    values = np.concatenate([part[np.isfinite(part)] for part in fields]) if fields else np.empty(0, np.float32)
    wanted = max(round(count), 1)
    if values.size == 0:
        return -np.inf
    if wanted >= values.size:
        return float(values.max()) + 1e-6
    return float(np.partition(values, wanted)[wanted])


def _truth(
    clots: Sequence[Clot], share: Float, hu: Float, settings: Acquisition
) -> tuple[npt.NDArray[np.uint8], dict[Kind, float]]:
    """Voxels at least half blood, and the volume of each kind where it is the voxel's main one."""
    mask = np.zeros(settings.shape, np.uint8)
    volumes: dict[Kind, float] = {}
    if not clots:
        return mask, volumes
    # A voxel that shares its blood with bone looks like bone: nobody outlines it.
    blood = (share.sum(axis=0) >= 0.5 - 1e-4) & (hu < _BONE_LIKE_HU)
    mask[blood] = 1
    main = share.argmax(axis=0)
    for c, clot in enumerate(clots):
        count = int(np.count_nonzero(blood & (main == c)))
        if count:
            volumes[clot.kind] = count * settings.voxel_ml
    return mask, volumes
