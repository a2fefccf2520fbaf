"""A head without blood, as functions of position: which tissue is where and how many HU it has.

Head frame, mm: x to the patient's right, y to the front, z to the vertex; the origin lies between the anterior and
the posterior commissure. Sizes follow adult anatomy; nothing is copied from a scan.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.imaging.phantom.lattice import SLOPE_PER_MM, Float, noise, waves

Bool = npt.NDArray[np.bool_]


class Tissue(IntEnum):
    """What a point consists of, as far as the blood needs to know."""

    AIR = 0
    SOFT = 1
    BONE = 2
    PARENCHYMA = 3
    SUBARACHNOID = 4
    VENTRICLE = 5
    DURA = 6


class Blob(NamedTuple):
    """An irregular dense ball: centre and semi-axes in mm, value in HU."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    hu: float


@dataclass(frozen=True)
class Head:
    """One patient's sizes (mm), tissue values (HU) and irregularities."""

    half_width: float
    front: float
    back: float
    up: float
    down: float
    squareness: float
    side_bias: float
    skull: float
    frontal: float
    scalp: float
    atrophy: float
    ventricles: float
    ventricle_bias: float
    white: float
    grey: float
    csf: float
    leukoaraiosis: float
    table_hu: float
    blobs: tuple[Blob, ...]
    offset: npt.NDArray[np.float64]

    def shifted(self, number: int) -> npt.NDArray[np.float64]:
        """An offset into the noise for the `number`-th independent field of this head."""
        return self.offset + np.array([37.0, 51.0, 23.0]) * number


class Shell(NamedTuple):
    """Distances in mm, positive outside: from the cranial cavity, from the skin; and the skull's thickness."""

    cavity: Float
    skin: Float
    thickness: Float


class Tissues(NamedTuple):
    """Tissue code (uint8) and HU (float32) of each point."""

    kind: npt.NDArray[np.uint8]
    hu: Float


# Above this height (mm) nothing of the base, the face or the temples is left; the floor there is a stand-in.
_HIGH = 30.0
_HIGH_FLOOR = -30.0


def draw_head(rng: np.random.Generator) -> Head:
    """One patient of a mixed adult population; atrophy drives sulci, ventricles and white-matter change."""
    size = rng.normal(1.0, 0.03)
    atrophy = float(rng.beta(1.6, 1.8))
    return Head(
        half_width=float(66.0 * size * rng.normal(1, 0.02)),
        front=float(79.0 * size * rng.normal(1, 0.02)),
        back=float(83.0 * size * rng.normal(1, 0.02)),
        up=float(68.0 * size * rng.normal(1, 0.02)),
        down=float(76.0 * size),
        squareness=float(rng.uniform(0.18, 0.58)),
        side_bias=float(rng.normal(0, 0.015)),
        skull=float(rng.uniform(5.0, 8.0)),
        frontal=float(rng.uniform(1.0, 9.0)),
        scalp=float(rng.uniform(4.5, 8.0)),
        atrophy=atrophy,
        ventricles=float(0.75 + 0.65 * atrophy + rng.normal(0, 0.08)),
        ventricle_bias=float(rng.normal(0, 0.08)),
        white=float(rng.normal(28.5, 1.2)),
        grey=float(rng.normal(37.5, 1.0)),
        csf=float(rng.uniform(4.0, 9.0)),
        leukoaraiosis=float(max(0.0, atrophy - 0.4) * rng.uniform(0, 14)),
        table_hu=float(rng.uniform(1350, 1800)),
        blobs=_draw_calcifications(rng, atrophy),
        offset=rng.uniform(0, 150, 3),
    )


def _draw_calcifications(rng: np.random.Generator, atrophy: float) -> tuple[Blob, ...]:
    """Pineal, choroid plexus, falx and pallidum: the classic bright spots that are no blood."""
    blobs: list[Blob] = []
    if rng.random() < 0.7:
        r = rng.uniform(1.5, 3.5)
        blobs.append(Blob((rng.normal(0, 0.6), -34.0, 5.0), (r, r * 1.2, r), rng.uniform(90, 350)))
    if rng.random() < 0.65:
        for side in (-1, 1):
            if rng.random() < 0.85:
                r = rng.uniform(1.5, 3.6)
                centre = (side * rng.normal(23, 1.5), -38.0 + rng.normal(0, 1.5), 10.0 + rng.normal(0, 1.5))
                blobs.append(Blob(centre, (r, r * 1.5, r * 1.2), rng.uniform(80, 320)))
    for _ in range(rng.poisson(0.4 + atrophy)):
        y, z = rng.uniform(-70, 60), rng.uniform(30, 55)
        axes = (rng.uniform(0.8, 2.0), rng.uniform(3, 9), rng.uniform(2, 6))
        blobs.append(Blob((0.0, y, z), axes, rng.uniform(120, 600)))
    if rng.random() < 0.12:
        hu = rng.uniform(50, 110)
        for side in (-1, 1):
            blobs.append(Blob((side * 19.0, 2.0, 0.0), (3.0, 5.0, 3.5), hu))
    for _ in range(rng.poisson(0.5 * atrophy)):
        # Lacunes and, rarely, an old infarct: dark, and no blood either.
        r = rng.uniform(12, 20) if rng.random() < 0.15 else rng.uniform(2, 5)
        centre = (rng.choice((-1, 1)) * rng.uniform(16, 34), rng.uniform(-40, 25), rng.uniform(0, 24))
        blobs.append(Blob(centre, (r, 1.2 * r, r), rng.uniform(8, 18)))
    return tuple(blobs)


def shell(head: Head, x: Float, y: Float, z: Float) -> Shell:
    """Distances (approximate, exact to first order at the surface) that lay out skull, base and skin."""
    yc, zc = y + np.float32(3.0), z - np.float32(6.0)
    ay = np.where(yc > 0, np.float32(head.front), np.float32(head.back))
    az = np.where(zc > 0, np.float32(head.up), np.float32(head.down))
    v, w = yc / ay, zc / az
    # Narrower forehead, widest behind the ears; a slight left-right difference.
    ax = np.float32(head.half_width) * (1 - 0.12 * np.square(np.clip(v + 0.15, 0, 1)) - 0.03 * np.clip(-v, 0, 1))
    ax *= 1 + np.float32(head.side_bias) * np.sign(x)
    u = x / ax
    # Squarer than an ellipse: the diagonals reach further out.
    u2, v2 = np.square(u), np.square(v)
    both = u2 + v2 + np.float32(1e-6)
    plane = both - np.float32(head.squareness) * u2 * v2 / both
    rho = np.sqrt(plane + np.square(w) + np.float32(1e-6))
    slope = np.sqrt(np.square(u / ax) + np.square(v / ay) + np.square(w / az) + np.float32(1e-9)) / rho
    d = (rho - 1) / slope
    d += 0.9 * waves(x, y, z, head.shifted(1), 85)

    t = np.float32(head.skull) * (1 + 0.13 * waves(x, y, z, head.shifted(2), 60))
    skin = d - t - np.float32(head.scalp)
    # Well above the base a flat floor, far from any surface, stands in for it.
    below = (_HIGH_FLOOR - z) * np.float32(0.85)
    low = np.flatnonzero(z < _HIGH)
    skin[low], t[low], below[low] = _base(head, x[low], y[low], z[low], d[low], t[low])
    cavity = 0.5 * (d + below + np.sqrt(np.square(d - below) + 9))
    return Shell(cavity, skin, t)


def _base(head: Head, x: Float, y: Float, z: Float, d: Float, t: Float) -> tuple[Float, Float, Float]:
    """The lower half of the head: distance from the skin, skull thickness, height below the cranial floor (mm).

    `d` is the distance from the vault's inner table, `t` the vault's thickness.
    """
    a = np.abs(x)
    ridge = -10 - 0.62 * np.maximum(a - 15, 0)
    middle = -37 + 17 * np.exp(-np.square(x / 14))
    behind = -64 + 44 * np.exp(-np.square(np.minimum(y + 6, 0) / 13) - np.square(x / 26))
    ahead = -17 + 7 * np.square(np.sin(np.clip(a, 0, 45) * np.float32(np.pi / 50)))
    is_middle = _step((y - ridge) / 3)
    is_ahead = _step((y - 30 + 0.004 * np.square(a)) / 2.5)
    floor = behind + (middle - behind) * is_middle
    floor += (ahead - floor) * is_ahead
    petrous = np.exp(-np.square((y - ridge + 2) / 7)) * _step((a - 13) / 3) * _step((60 - a) / 5)
    floor += 9 * petrous
    floor += (_HIGH_FLOOR - floor) * np.clip((z - 12) / (_HIGH - 12), 0, 1)
    below = (floor - z) * np.float32(0.85)

    t = t + 5 * np.exp(-np.square(x / 11) - np.square((y + head.back) / 20) - np.square((z + 12) / 13))
    t += head.frontal * np.exp(-np.square(x / 18) - np.square((y - head.front) / 16) - np.square((z + 4) / 14))
    # The squama of the temporal bone is thin.
    t *= 1 - 0.35 * np.exp(-np.square((y - 5) / 30) - np.square((z + 8) / 18)) * _step((a - 45) / 5)
    temple = 5 * np.exp(-np.square((y - 22) / 26) - np.square((z + 12) / 23)) * _step((a - 35) / 6)
    skin = d - t - np.float32(head.scalp) - temple
    # The floor is thin over orbits and middle fossa, thick at the clivus and in the pyramids.
    at_floor = _step((below - d) / 3)
    base = 2.6 + 9 * np.exp(-np.square(x / 13)) * _step((10 - y) / 4) * _step((y + 45) / 5)
    t += (base - t) * at_floor + 13 * petrous * _step((-12 - z) / 4)
    face = _ellipsoid(x, y, z, (0, 30, -62), (61, 66, 66))
    nose = _ellipsoid(x, y, z, (0, 92, -50), (11, 17, 22))
    neck = _ellipsoid(x, y, z, (0, -34, -104), (64, 60, 82))
    skin = np.minimum(np.minimum(_smooth_min(skin, face, 9), _smooth_min(skin, neck, 9)), nose)
    return skin, t, below


def tissues(
    head: Head,
    x: Float,
    y: Float,
    z: Float,
    outline: Shell,
    index: npt.NDArray[np.intp],
    inner: tuple[Float, Float, Float],
) -> Tissues:
    """Tissue and HU of points inside the skin, shape (n,).

    Args:
        head: The patient.
        x, y, z: Points in the head frame, mm.
        outline: `shell` at these points.
        index: Numbers of the points in the cranial cavity.
        inner: Where to look the brain up for `index`: those points, or moved by the mass effect of a clot.
    """
    kind = np.full(x.shape, Tissue.SOFT, np.uint8)
    hu = np.full(x.shape, -90, np.float32)
    inside = outline.cavity < 0
    bone = ~inside & (outline.cavity < outline.thickness) & (outline.skin < -2.5)
    outside = ~inside & ~bone
    _soft_tissue(head, x, y, z, outline, outside, kind, hu)
    _skull(head, x, y, z, outline, bone, kind, hu)
    brain = _brain(head, *inner, -outline.cavity[index])
    kind[index], hu[index] = brain.kind, brain.hu
    return Tissues(kind, hu)


def _skull(
    head: Head, x: Float, y: Float, z: Float, outline: Shell, bone: Bool, kind: npt.NDArray[np.uint8], hu: Float
) -> None:
    """Two dense tables around a spongy diploe, sutures, frontal sinus and mastoid cells."""
    index = np.flatnonzero(bone)
    x, y, z = x[index], y[index], z[index]
    depth, t = outline.cavity[index], outline.thickness[index]
    fine = noise(x, y, z, head.shifted(3), 3.0)
    table = np.clip(0.3 * t, 1.2, 2.2)
    core = _step((np.minimum(depth, t - depth) - table) / 0.5)
    value = head.table_hu * (0.95 + 0.06 * fine)
    value += (520 + 170 * fine - value) * core * _step((t - 3.5) / 0.7)
    # Sutures: coronal ahead, sagittal on top, lambdoid behind; they meander along the outer surface.
    wave = 1.6 * fine
    coronal = np.abs(y - (28 - 0.25 * (60 - z)) + wave)
    sagittal = np.where((y < 22) & (y > -62), np.abs(x + wave), 99)
    lambdoid = np.where(y < -40, np.abs(np.abs(x) - 1.05 * (45 - z) + wave), 99)
    suture = np.minimum(np.minimum(np.where(z > 0, coronal, 99), np.where(z > 30, sagittal, 99)), lambdoid)
    value -= (value - 250) * 0.8 * (suture < 0.9)
    a = np.abs(x)
    sinus = (y > 60) & (a < 22 + 6 * fine) & (np.abs(z + 5) < 13 + 3 * fine) & (depth > 2) & (depth < t - 2.2)
    cells = (a > 38) & (z < -20) & (y < -8) & (y > -50) & (depth > 2.5) & (fine > -0.1)
    air = sinus | cells
    value[air] = -950
    value[cells & (fine < 0.15)] = 300
    hu[index] = value
    kind[index] = np.where(air, np.uint8(Tissue.AIR), np.uint8(Tissue.BONE))


def _soft_tissue(
    head: Head, x: Float, y: Float, z: Float, outline: Shell, mask: Bool, kind: npt.NDArray[np.uint8], hu: Float
) -> None:
    """Scalp and temporal muscle; below the base muscles, fat, orbits, sinuses and the airway."""
    index = np.flatnonzero(mask)
    x, y, z = x[index], y[index], z[index]
    depth = -outline.skin[index]
    gap = outline.cavity[index] - outline.thickness[index]
    a = np.abs(x)
    coarse = noise(x, y, z, head.shifted(4), 1.3)
    value = np.full(x.shape, -92, np.float32) + 8 * coarse
    belly = 7.5 * (1 - np.square((y - 18) / 36) - np.square(np.maximum(z + 14, 0) / 42)) + coarse
    temporal = (a > 38) & (z > -60) & (gap > 0.8) & (gap < belly)
    galea = (gap < 1.2) & (z > -30)
    value[temporal | galea] = 48
    below = z < np.where(y > 20, -22, -34)
    face = below & (gap > 0.5)
    muscle = face & (coarse > -0.35) & (depth > 5)
    value[muscle] = 55
    bits = face & (noise(x, y, z, head.shifted(5), 1.1) > 1.25) & (depth > 8)
    value[bits] = 750
    solid = np.zeros(x.shape, bool)
    for centre, axes, hollow in (
        ((31, 62, -29), (18, 24, 17), -88.0),
        ((27, 55, -63), (15, 18, 16), -960.0),
        ((0, 56, -50), (13, 30, 24), -930.0),
        ((0, 18, -32), (13, 12, 9), -960.0),
        ((0, 5, -80), (13, 14, 30), -980.0),
    ):
        d = _ellipsoid(a, y, z, centre, axes)
        wall = (d > 0) & (d < 2.0) & (depth > 3)
        value[wall & ~solid] = 650
        void = (d <= 0) & (depth > 2)
        value[void] = hollow
        solid |= void
    nasal = (a < 13) & (y > 30) & (z < -28) & solid & (np.abs(coarse) < 0.55)
    value[nasal] = 40
    globe = _ellipsoid(a, y, z, (31, 70, -28), (12, 12, 12))
    value[globe < 0] = 12
    value[np.abs(globe) < 0.9] = 45
    value[_ellipsoid(a, y, z, (31, 79.5, -28), (4.5, 2.2, 4.5)) < 0] = 85
    value[(globe > 0) & (_ellipsoid(a, y, z, (24, 45, -28), (3.5, 22, 3.5)) < 0)] = 40
    cord = np.square(x / 14) + np.square((y + 34) / 14)
    canal = z < -58
    value[canal & (cord < 1.9)] = 900
    value[canal & (cord < 1)] = 8
    value[canal & (cord < 0.3)] = 32
    value[depth < 1.9] = 50
    hu[index] = value
    kind[index] = np.where(value < -300, np.uint8(Tissue.AIR), np.uint8(Tissue.SOFT))


def _brain(head: Head, x: Float, y: Float, z: Float, depth: Float) -> Tissues:
    """Everything inside the dura. `depth` is the distance from the inner table, mm."""
    wide = np.float32(head.atrophy)
    low = noise(x, y, z, head.shifted(6), 0.5)
    a = np.abs(x + 0.8 * low)

    # The falx reaches down to the corpus callosum; the tentorium is a tent over the posterior fossa.
    above_callosum = np.square((y + 4) / 44) + np.square((z - 4) / 29) > 1
    tent = 13 - 0.33 * a + 0.3 * np.minimum(y + 32, 0)
    ridge = -10 - 0.62 * np.maximum(a - 15, 0)
    infra = (z < tent) & (y < ridge - 4)
    medial = above_callosum & ~infra & (z > -12)
    fissure = np.where(medial, a, np.float32(99))
    surface = np.minimum(depth, fissure)

    # Sulci run inward from the surface: the noise is looked up almost by direction alone.
    radius = np.sqrt(np.square(x) + np.square(y) + np.square(z - 5) + 1)
    stretch = (np.float32(62) / radius) ** np.float32(0.75)
    folds = noise(x * stretch, y * stretch, z * stretch, head.shifted(7))
    wall = np.abs(folds) * np.float32(1 / SLOPE_PER_MM)
    reach = 13 + 4 * low + 5 * wide
    front = 1 + 0.35 * np.clip(y / 60, -0.5, 1)
    opening = (0.7 + 2.2 * wide) * front * (1 - surface / reach) + 0.25 * low
    ribbon = 3.0 + 0.4 * low
    supra = ~infra
    deep_enough = surface < reach
    sulcus = deep_enough & (wall < opening)
    grey = (surface < opening + ribbon + 1.5) | (deep_enough & (wall < opening + ribbon))

    hu = np.where(grey, np.float32(head.grey), np.float32(head.white)) + 0.8 * low
    kind = np.full(x.shape, Tissue.PARENCHYMA, np.uint8)

    margin = (0.7 + 1.8 * wide) * front + 0.5 * low
    csf = supra & (sulcus | (depth < margin) | (fissure < 0.9 + 1.3 * wide))
    # Sylvian fissure: an opening on the side that leads to the cleft over the insula.
    side = (a > 33) & (y < 34) & (y > -32)
    sylvian = side & (np.abs(z - 3 + 0.38 * (y - 8) + 1.5 * low) < 0.9 + 1.6 * wide) & (a > 39)
    cleft = a - 38 + 0.006 * np.square(y - 4) + 1.8 * folds
    insula = side & (np.abs(cleft) < 0.3 + 1.6 * wide) & (np.abs(z - 4) < 14) & (y > -20) & (y < 26)
    grey_insula = side & (np.abs(cleft) < 4) & (np.abs(z - 4) < 16) & ~insula & (y > -22)
    hu[grey_insula & (y < 28)] = head.grey
    csf |= sylvian | insula

    _deep_grey(head, a, y, z, hu)
    _posterior_fossa(head, x, y, z, a, depth, infra, hu, csf)
    hu[csf] = head.csf + 0.8 * low[csf]
    kind[csf] = Tissue.SUBARACHNOID
    _ventricles(head, x, y, z, hu, kind)

    falx = (fissure < 0.75) & (depth < np.where(y > 0, 26, 55))
    tentorium = (np.abs(z - tent) < 0.9) & (y < ridge - 4) & (a > 9) & (depth > 0.8)
    sinus = (a < 4.5 - 0.5 * depth) & (depth < 7) & (z > 5) & ((z > 30) | (y < -40))
    transverse = (np.abs(z - tent + 2) < 3.5) & (depth < 4.5) & (y < -45)
    for where, value in ((falx, 46.0), (tentorium, 44.0), (sinus | transverse, 53.0)):
        hu[where] = value
        kind[where] = Tissue.DURA
    for blob in head.blobs:
        _paint_blob(head, blob, x, y, z, hu)
    return Tissues(kind, hu)


def _deep_grey(head: Head, a: Float, y: Float, z: Float, hu: Float) -> None:
    """Caudate head, lentiform nucleus and thalamus; the internal capsule is what stays white between them."""
    index = np.flatnonzero((a < 36) & (y < 34) & (y > -34) & (z > -12) & (z < 24))
    a, y, z = a[index], y[index], z[index]
    # The lens and the thalamus are slanted: they open toward the back.
    lens = np.square((a - 24 - 0.25 * (2 - y)) / 6.5) + np.square((y - 3) / 17) + np.square((z - 2) / 11)
    thalamus = np.square((a - 10 - 0.25 * (-10 - y)) / 8) + np.square((y + 15) / 14) + np.square((z - 6) / 10)
    caudate = np.square((a - 14 + 0.2 * (y - 18)) / 5) + np.square((y - 19) / 10) + np.square((z - 9) / 11)
    nearest = np.minimum(np.minimum(lens, thalamus), caudate)
    hu[index] += (head.grey - hu[index]) * np.clip((1.15 - nearest) / 0.3, 0, 1)


def _posterior_fossa(
    head: Head, x: Float, y: Float, z: Float, a: Float, depth: Float, infra: Bool, hu: Float, csf: Bool
) -> None:
    """Brainstem, cerebellum with folia, fourth ventricle's surroundings and the basal cisterns."""
    wide = head.atrophy
    index = np.flatnonzero(infra | ((z < 12) & (a < 32) & (y < 24) & (y > -46)))
    x, y, z, a, depth = x[index], y[index], z[index], a[index], depth[index]
    is_infra = infra[index]
    value, wet = hu[index], csf[index]
    folia = noise(x, 2.2 * z, y, head.shifted(8), 1.4)
    value = np.where(is_infra, np.where((depth < 13) & (folia > -0.4), head.grey, head.white + 3), value)
    wet |= is_infra & ((depth < 0.8 + wide) | ((depth < 7 + 4 * wide) & (np.abs(folia) < 0.05 + 0.14 * wide)))
    stem_y = -20 - 0.12 * (z + 25)
    # Pons below, the slimmer midbrain above.
    slim = 1 - 0.16 * _step((z + 14) / 5)
    stem = np.sqrt(np.square(x / 15.5) + np.square((y - stem_y) / 12.5)) / slim
    level = (z < -3) & (z > -70)
    rough = noise(x, y, z, head.shifted(11), 0.8)
    rim = 0.98 + 0.2 * wide + 0.16 * rough
    ring = level & (stem > 1) & (stem < rim) & ((y > stem_y - 4) | (z > -14))
    prepontine = level & (stem > 1) & (y > stem_y) & (a < 11) & (y < 2) & (z < -14)
    quadrigeminal = (_ellipsoid(x, y, z, (0, -36, 1), (10 + 4 * wide, 3.5 + 3 * wide, 6)) < 0) & (stem > 1)
    # The suprasellar star: the sum of cosines gives it five points.
    angle = np.arctan2(x, y - 4)
    star = np.hypot(x, y - 4) - (8 + 3 * wide + 3.5 * np.cos(5 * angle + np.float32(np.pi)) + 1.8 * rough)
    suprasellar = (np.abs(z + 13) < 5.5) & (star < 0) & (stem > 1.02)
    magna = is_infra & (_ellipsoid(x, y, z, (0, -66, -50), (9, 9, 12 + 6 * wide)) < 0)
    cistern = ring | prepontine | quadrigeminal | suprasellar | magna
    inside = level & (stem <= 1)
    value[inside] = 0.5 * (head.grey + head.white) - 1
    wet = (wet & ~inside) | cistern
    hu[index], csf[index] = value, wet


# Right lateral ventricle: centre line (x, y, z) and radius in mm, from the frontal to the temporal horn tip.
_HORNS = (
    ((11.5, 33, 5, 2.6), (9.0, 20, 11, 4.4), (8.5, 5, 18, 4.6), (11, -12, 22, 4.6), (17, -27, 18, 5.2)),
    ((17, -27, 18, 5.2), (24, -38, 9, 6.6), (23.5, -52, 5, 3.8), (21, -62, 4, 1.6)),
    ((24, -38, 9, 6.2), (31, -28, -4, 3.2), (33, -14, -13, 2.2), (30, -3, -17, 1.6)),
)


def _ventricles(head: Head, x: Float, y: Float, z: Float, hu: Float, kind: npt.NDArray[np.uint8]) -> None:
    """Lateral, third and fourth ventricles, and the low white matter around them in the old."""
    index = np.flatnonzero((np.abs(x) < 48) & (y < 48) & (y > -76) & (z < 42) & (z > -46))
    x, y, z = x[index], y[index], z[index]
    ripple = noise(x, y, z, head.shifted(9), 0.9)
    a = np.abs(x)
    swell = np.float32(head.ventricles) * (1 + np.float32(head.ventricle_bias) * np.sign(x))
    lateral = np.full(x.shape, 99, np.float32)
    for horn in _HORNS:
        for start, end in pairwise(horn):
            np.minimum(lateral, _capsule(a, y, z, start, end, swell), out=lateral)
    # The septum pellucidum keeps the two bodies apart.
    lateral = np.maximum(lateral + 0.35 * ripple, 1.0 - a)
    third = _ellipsoid(x, y, z, (0, -5, 0), (1.2 + 2.3 * head.ventricles * head.atrophy + 0.4, 14, 10))
    fourth = _ellipsoid(x, y, z, (0, -38, -31), (5 + 3 * head.atrophy, 3.6 + 1.5 * head.atrophy, 10))
    fluid = np.minimum(np.minimum(lateral, third), fourth)
    wet = fluid < 0
    if head.leukoaraiosis > 0:
        dry = (kind[index] == Tissue.PARENCHYMA) & (z > 2)
        hu[index] -= np.where(dry, head.leukoaraiosis * np.exp(-np.maximum(lateral, 0) / 5), 0).astype(np.float32)
    chosen = index[wet]
    hu[chosen] = head.csf
    kind[chosen] = Tissue.VENTRICLE
    plexus = (_ellipsoid(a, y, z, (23.5, -38, 9), (2.8, 5, 4)) < 0.6 * ripple) & wet
    hu[index[plexus]] = 42


def _paint_blob(head: Head, blob: Blob, x: Float, y: Float, z: Float, hu: Float) -> None:
    reach = [1.4 * axis for axis in blob.axes]
    near = np.abs(x - blob.centre[0]) < reach[0]
    near &= np.abs(y - blob.centre[1]) < reach[1]
    near &= np.abs(z - blob.centre[2]) < reach[2]
    index = np.flatnonzero(near)
    x, y, z = x[index], y[index], z[index]
    rho = sum(
        np.square((value - centre) / axis)
        for value, centre, axis in zip((x, y, z), blob.centre, blob.axes, strict=True)
    )
    grain = float(np.clip(9 / np.mean(blob.axes), 0.6, 3.0))
    hit = index[rho < 1 + 0.3 * noise(x, y, z, head.shifted(10), grain)]
    hu[hit] = blob.hu


def _capsule(x: Float, y: Float, z: Float, start: tuple[float, ...], end: tuple[float, ...], swell: Float) -> Float:
    """Distance from a cone-like tube between two points whose radius runs from start[3] to end[3], times swell."""
    axis = np.array(end[:3], np.float32) - np.array(start[:3], np.float32)
    px, py, pz = (np.float32(s) for s in start[:3])
    along = ((x - px) * axis[0] + (y - py) * axis[1] + (z - pz) * axis[2]) / np.float32(axis @ axis)
    np.clip(along, 0, 1, out=along)
    gap = np.square(x - px - along * axis[0]) + np.square(y - py - along * axis[1])
    gap += np.square(z - pz - along * axis[2])
    return np.sqrt(gap) - swell * (np.float32(start[3]) + along * np.float32(end[3] - start[3]))


def _ellipsoid(
    x: Float, y: Float, z: Float, centre: tuple[float, float, float], axes: tuple[float, float, float]
) -> Float:
    """Distance from an ellipsoid, scaled by its mean axis; negative inside."""
    rho = np.square((x - np.float32(centre[0])) * np.float32(1 / axes[0]))
    rho += np.square((y - np.float32(centre[1])) * np.float32(1 / axes[1]))
    rho += np.square((z - np.float32(centre[2])) * np.float32(1 / axes[2]))
    return (np.sqrt(rho) - 1) * np.float32(np.mean(axes))


def _step(value: Float) -> Float:
    """A smooth step from 0 to 1 over about two units around 0 (half a tanh, without its cost)."""
    return 0.5 + 0.5 * np.clip(value, -1, 1)


def _smooth_min(first: Float, second: Float, width: float) -> Float:
    """Minimum whose crease is rounded over `width` mm."""
    return 0.5 * (first + second - np.sqrt(np.square(first - second) + np.float32(width * width / 4)))
