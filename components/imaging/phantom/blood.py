"""Five kinds of blood as scalar fields: a clot is where its field is below the level that gives its volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from components.imaging.phantom.anatomy import Head, Shell, Tissue
from components.imaging.phantom.lattice import Float, noise

Kind = Literal["intraparenchymal", "intraventricular", "subarachnoid", "subdural", "epidural"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Volume in ml: median, spread of its logarithm, smallest, largest.
VOLUMES_ML: dict[Kind, tuple[float, float, float, float]] = {
    "intraparenchymal": (16.0, 1.2, 0.35, 100.0),
    "intraventricular": (8.0, 0.9, 0.3, 40.0),
    "subarachnoid": (10.0, 0.8, 1.0, 40.0),
    "subdural": (30.0, 0.9, 1.0, 100.0),
    "epidural": (25.0, 0.9, 1.0, 90.0),
}

# Ten patients in a row hold each of these once, in an order drawn per ten, so that small cohorts vary too.
CASE_MIX: tuple[tuple[Kind, ...], ...] = (
    (),
    (),
    ("intraparenchymal",),
    ("intraparenchymal",),
    ("intraparenchymal", "intraventricular"),
    ("intraventricular",),
    ("subarachnoid",),
    ("subdural",),
    ("subdural", "subarachnoid"),
    ("epidural",),
)

# Intraparenchymal sites: weight, centre in mm (x is mirrored at random), spread, largest plausible volume in ml.
_SITES: tuple[tuple[float, tuple[float, float, float], float, float], ...] = (
    (0.40, (27, 0, 4), 3.0, np.inf),
    (0.18, (13, -15, 8), 2.0, 25),
    (0.12, (30, 38, 28), 6.0, np.inf),
    (0.12, (38, -35, 28), 6.0, np.inf),
    (0.08, (46, 0, -18), 4.0, 60),
    (0.07, (22, -58, -30), 4.0, 30),
    (0.03, (3, -19, -26), 1.0, 8),
)


@dataclass(frozen=True)
class Clot:
    """One bleed: kind, volume, brightness and the numbers that shape it."""

    kind: Kind
    volume_ml: float
    hu: float
    texture_hu: float
    centre: tuple[float, float, float]
    side: int
    axes: npt.NDArray[np.float64]
    extent: tuple[float, float]
    thickness: float
    edema_mm: float
    edema_hu: float
    layering: bool
    offset: npt.NDArray[np.float64]

    @property
    def radius(self) -> float:
        """Radius in mm of the ball of this volume."""
        return float((3000 * self.volume_ml / (4 * np.pi)) ** (1 / 3))


def kinds_of(seed: int, index: int) -> tuple[Kind, ...]:
    """Kinds of blood of patient `index`: balanced within each ten patients, whatever the cohort's size."""
    order = np.random.default_rng((seed, index // len(CASE_MIX), 10)).permutation(len(CASE_MIX))
    return CASE_MIX[order[index % len(CASE_MIX)]]


def draw_clots(
    rng: np.random.Generator, kinds: Sequence[Kind], volume_ml: tuple[float, float] | None = None
) -> tuple[Clot, ...]:
    """Draw one clot a kind; `volume_ml` (low, high) replaces the usual volumes by log-uniform ones."""
    side = int(rng.choice((-1, 1)))
    return tuple(_draw_clot(rng, kind, side, volume_ml) for kind in KINDS if kind in kinds)


def _draw_clot(rng: np.random.Generator, kind: Kind, side: int, limits: tuple[float, float] | None) -> Clot:
    median, spread, low, high = VOLUMES_ML[kind]
    volume = float(np.clip(rng.lognormal(np.log(median), spread), low, high))
    if limits is not None:
        volume = float(np.exp(rng.uniform(*np.log(limits))))
    subacute = kind in ("intraparenchymal", "subdural") and rng.random() < 0.18
    # Fresh clot is 50 to 80 HU and loses about 1.5 HU a day as it lyses.
    hu = rng.uniform(42, 50) if subacute else np.clip(rng.normal(65, 5), 55, 78)
    centre, extent, thickness = (0.0, 0.0, 0.0), (1.0, 1.0), 0.0
    axes = np.eye(3)
    if kind == "intraparenchymal":
        weights = np.array([site[0] * (volume <= site[3]) for site in _SITES])
        _, middle, jitter, _ = _SITES[rng.choice(len(_SITES), p=weights / weights.sum())]
        centre = _jittered(rng, (side * middle[0], middle[1], middle[2]), jitter)
        axes = _ellipsoid_axes(rng)
    elif kind == "subarachnoid":
        middle = ((0, 8, -13), (side * 36, 10, 3), (side * 45, 0, 42))[rng.choice(3, p=(0.5, 0.25, 0.25))]
        centre = _jittered(rng, middle, 3.0)
    elif kind == "intraventricular":
        centre = _jittered(rng, (side * 11, 0, 15), 3.0)
    elif kind == "subdural":
        thickness = float(np.clip(4.5 + 0.11 * volume + rng.normal(0, 0.7), 4.0, 15))
        reach = np.sqrt(1000 * volume / (0.55 * thickness) / (np.pi * 72**2 * 0.6))
        extent = (float(min(reach, 1.45)), float(min(0.6 * reach, 0.95)))
        centre = (rng.uniform(-0.35, 0.45), rng.uniform(0.1, 0.5), 0.0)
    else:
        flat = rng.uniform(0.45, 0.65)
        radius = max((1000 * volume / (0.5 * np.pi * flat)) ** (1 / 3), 9.0)
        thickness = flat * radius
        stretch = rng.uniform(0.9, 1.25)
        extent = (radius / 72 * stretch, radius / 72 / stretch)
        centre = (rng.uniform(-0.7, 0.9), rng.uniform(0.0, 0.55), 0.0)
    return Clot(
        kind=kind,
        volume_ml=volume,
        hu=float(hu),
        texture_hu=float(rng.uniform(1.5, 4.0)),
        centre=centre,
        side=side,
        axes=axes,
        extent=extent,
        thickness=thickness,
        edema_mm=float(rng.uniform(3, 10)),
        edema_hu=float(rng.uniform(7, 14)),
        layering=bool(rng.random() < 0.5),
        offset=rng.uniform(0, 150, 3),
    )


def _jittered(
    rng: np.random.Generator, middle: tuple[float, float, float], spread: float
) -> tuple[float, float, float]:
    x, y, z = np.array(middle) + rng.normal(0, spread, 3)
    return float(x), float(y), float(z)


def _ellipsoid_axes(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A matrix that maps a random ellipsoid of unit geometric-mean radius to the unit ball."""
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    ratios = np.exp(rng.uniform(-0.28, 0.28, 3))
    ratios /= np.prod(ratios) ** (1 / 3)
    return (q / ratios) @ q.T


def displaced(clots: Sequence[Clot], x: Float, y: Float, z: Float, depth: Float) -> tuple[Float, Float, Float]:
    """Where the tissue now at (x, y, z) lay before the clots pushed it: the mass effect.

    A ball of blood moves the shells around it outward as in an incompressible medium; a clot under the skull
    moves the brain inward, fading toward the far side. `depth` is the distance from the inner table, mm.
    """
    for clot in clots:
        if clot.kind == "intraparenchymal":
            # A part of the tissue is torn apart rather than pushed away.
            hollow = np.float32(0.8 * clot.radius)
            cx, cy, cz = (np.float32(c) for c in clot.centre)
            dx, dy, dz = x - cx, y - cy, z - cz
            far = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(0.1)
            ratio = hollow / far
            pull = np.cbrt(np.maximum(1 - ratio * ratio * ratio, np.float32(0.05)))
            # The skull does not give way.
            pull = 1 - (1 - pull) * np.clip(depth / 12, 0, 1)
            x, y, z = cx + dx * pull, cy + dy * pull, cz + dz * pull
        elif clot.kind in ("subdural", "epidural"):
            profile, _ = _patch(clot, x, y, z)
            push = np.maximum(profile, 0) * np.float32(clot.thickness)
            push *= np.clip(1 - (depth - push) / 85, 0, 1)
            scale = 1 + push / np.sqrt(x * x + y * y + z * z + 1)
            x, y, z = x * scale, y * scale, z * scale
    return x, y, z


def field(clot: Clot, head: Head, x: Float, y: Float, z: Float, outline: Shell, kind: npt.NDArray[np.uint8]) -> Float:
    """The clot's level function at points inside the skin; infinite where it cannot be.

    Args:
        clot: The clot.
        head: The patient, for the irregularity.
        x, y, z: Points in the head frame, mm.
        outline: `anatomy.shell` there.
        kind: `anatomy.Tissue` codes there.
    """
    if clot.kind == "intraparenchymal":
        return _parenchymal(clot, x, y, z, outline, kind)
    if clot.kind in ("subdural", "epidural"):
        return _extra_axial(clot, x, y, z, outline, kind)
    allowed = kind == (Tissue.VENTRICLE if clot.kind == "intraventricular" else Tissue.SUBARACHNOID)
    level = np.full(x.shape, np.inf, np.float32)
    index = np.flatnonzero(allowed)
    x, y, z = x[index], y[index], z[index]
    rough = noise(x, y, z, clot.offset, 0.7)
    if clot.kind == "intraventricular" and clot.layering:
        # Supine: blood sinks to the occipital horns and leaves a level.
        level[index] = y + 0.15 * z + 1.2 * rough
    else:
        cx, cy, cz = (np.float32(c) for c in clot.centre)
        distance = np.sqrt(np.square(x - cx) + np.square(y - cy) + np.square(z - cz))
        level[index] = distance * (1 + 0.12 * rough)
    return level


def _parenchymal(clot: Clot, x: Float, y: Float, z: Float, outline: Shell, kind: npt.NDArray[np.uint8]) -> Float:
    level = np.full(x.shape, np.inf, np.float32)
    reach = 2.6 * clot.radius + 12
    near = (np.abs(x - clot.centre[0]) < reach) & (np.abs(y - clot.centre[1]) < reach)
    near &= np.abs(z - clot.centre[2]) < reach
    near &= (kind == Tissue.PARENCHYMA) | ((kind == Tissue.SUBARACHNOID) & (outline.cavity < -5))
    index = np.flatnonzero(near)
    d = np.stack((x[index], y[index], z[index])) - np.array(clot.centre, np.float32)[:, None]
    rho = np.sqrt(np.square(clot.axes.astype(np.float32) @ d).sum(axis=0))
    x, y, z = x[index], y[index], z[index]
    # Lobes on the scale of the clot and a finer fringe.
    scale = float(np.clip(9 / clot.radius, 0.5, 2.0))
    rough = 0.17 * noise(x, y, z, clot.offset, scale) + 0.06 * noise(x, y, z, clot.offset[::-1], 2.2 * scale)
    level[index] = rho * (1 + rough)
    return level


def _patch(clot: Clot, x: Float, y: Float, z: Float) -> tuple[Float, Float]:
    """Thickness of a clot under the skull relative to its greatest, by direction; and the direction's side."""
    side = x * np.float32(clot.side)
    longitude = np.arctan2(y, side)
    latitude = np.arctan2(z - 5, np.sqrt(x * x + y * y))
    e2 = np.square((longitude - np.float32(clot.centre[0])) / np.float32(clot.extent[0]))
    e2 += np.square((latitude - np.float32(clot.centre[1])) / np.float32(clot.extent[1]))
    return 1 - e2, side


def _extra_axial(clot: Clot, x: Float, y: Float, z: Float, outline: Shell, kind: npt.NDArray[np.uint8]) -> Float:
    """Depth under the inner table over the local thickness: a crescent (subdural) or a lens (epidural)."""
    level = np.full(x.shape, np.inf, np.float32)
    depth = -outline.cavity
    # The dura lies between the bone and either clot's outer face, or on it.
    depth = depth - np.float32(0.7)
    index = np.flatnonzero((depth > 0) & (depth < 2.2 * clot.thickness + 4) & (x * clot.side > 1.5) & (z > -34))
    x, y, z, depth = x[index], y[index], z[index], depth[index]
    profile, _ = _patch(clot, x, y, z)
    profile += 0.06 * noise(x, y, z, clot.offset, 0.6)
    inside = profile > 0.02
    if clot.kind == "subdural":
        # Blunt in the middle, thin at the ends; the dura of falx and tentorium stops it.
        profile = np.sqrt(np.maximum(profile, 0))
        depth = depth + 0.6 * noise(x, y, z, clot.offset[::-1], 0.9)
        inside &= z > 13 - 0.33 * np.abs(x) + 0.3 * np.minimum(y + 32, 0) - np.where(y > -25, 40, 0)
    level[index] = np.where(inside, np.maximum(depth, 0.01) / np.maximum(profile, 0.05), np.inf)
    return level
