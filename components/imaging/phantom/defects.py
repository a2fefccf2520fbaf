"""Named faults of scans, masks and manifests: each is a small change to a sound case, for checks to find."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import nibabel as nib
import numpy as np
import numpy.typing as npt

from components.imaging.phantom import nifti
from components.imaging.phantom.acquisition import Affine, Size, Storage
from components.imaging.phantom.nifti import PLAIN, HeaderEdit
from components.imaging.phantom.patient import Phantom, generate_patient


@dataclass(frozen=True)
class Case:
    """Where a case lies, and the sound case that some faults copy from."""

    image: Path
    mask: Path
    sound_image: Path
    sound_mask: Path


@dataclass(frozen=True)
class Defect:
    """One fault.

    Attributes:
        summary: One line: what is wrong.
        plant: Writes the faulty files of the case.
        needs_manifest: The fault lies in the manifest, so one is written.
        sheared: The phantom is generated with a sheared affine.
    """

    summary: str
    plant: Callable[[Phantom, Case], None]
    needs_manifest: bool = False
    sheared: bool = False


def plant(name: str, seed: int, size: Size, case: Case) -> Phantom:
    """Write the files of the case that shows the defect `name`; the case does not depend on other defects."""
    defect = DEFECTS[name]
    phantom = generate_patient(
        seed,
        10_000 + crc32(name.encode()) % 1_000_000,
        size=size,
        kinds=("intraparenchymal",),
        volume_ml=(12, 40),
        sheared=defect.sheared,
    )
    # One plain storage, so that nothing but the fault is unusual.
    phantom = replace(phantom, storage=PLAIN)
    defect.plant(phantom, case)
    return phantom


def _image(
    phantom: Phantom,
    path: Path,
    *,
    data: npt.NDArray[np.generic] | None = None,
    affine: Affine | None = None,
    storage: Storage = PLAIN,
    edit: HeaderEdit | None = None,
) -> None:
    stored = phantom.hu if data is None else data
    nifti.write(path, nifti.encode(stored, phantom.affine if affine is None else affine, storage, edit))


def _mask(
    phantom: Phantom,
    path: Path,
    *,
    data: npt.NDArray[np.generic] | None = None,
    affine: Affine | None = None,
    edit: HeaderEdit | None = None,
) -> None:
    stored = phantom.mask if data is None else data
    nifti.write(path, nifti.encode(stored, phantom.affine if affine is None else affine, None, edit))


def slice_axis(affine: Affine) -> int:
    """The storage axis along which the slices are stacked: the one nearest the world's z axis."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.abs(columns[2]).argmax())


def _values(change: Callable[[npt.NDArray[np.int16]], npt.NDArray[np.generic]]) -> Callable[[Phantom, Case], None]:
    """The image's numbers changed, all else sound."""

    def plant_values(phantom: Phantom, case: Case) -> None:
        _image(phantom, case.image, data=change(phantom.hu))
        _mask(phantom, case.mask)

    return plant_values


def _labels(change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.generic]]) -> Callable[[Phantom, Case], None]:
    """The mask's numbers changed, all else sound."""

    def plant_labels(phantom: Phantom, case: Case) -> None:
        _image(phantom, case.image)
        _mask(phantom, case.mask, data=change(phantom.mask))

    return plant_labels


def _header(edit: HeaderEdit, *, both: bool = True) -> Callable[[Phantom, Case], None]:
    """The header changed, in the image and, if it is about geometry, in the mask too."""

    def plant_header(phantom: Phantom, case: Case) -> None:
        _image(phantom, case.image, edit=edit)
        _mask(phantom, case.mask, edit=edit if both else None)

    return plant_header


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Phantom, Case], None]:
    """The image's file changed as bytes after it was written."""

    def plant_bytes(phantom: Phantom, case: Case) -> None:
        _image(phantom, case.image)
        _mask(phantom, case.mask)
        nifti.write_bytes(case.image, change(case.image.read_bytes()))

    return plant_bytes


def _slices(pick: Callable[[int], list[int]]) -> Callable[[Phantom, Case], None]:
    """Image and mask keep only, or repeat, the slices whose numbers `pick` gives for a count of slices."""

    def plant_slices(phantom: Phantom, case: Case) -> None:
        axis = slice_axis(phantom.affine)
        chosen = pick(phantom.hu.shape[axis])
        affine = phantom.affine.copy()
        affine[:3, 3] += affine[:3, axis] * chosen[0] if chosen[0] <= chosen[-1] else 0
        _image(phantom, case.image, data=np.take(phantom.hu, chosen, axis), affine=affine)
        _mask(phantom, case.mask, data=np.take(phantom.mask, chosen, axis), affine=affine)

    return plant_slices


def _missing_mask(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)


def _mask_without_image(phantom: Phantom, case: Case) -> None:
    _mask(phantom, case.mask)


def _mask_other_shape(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    _mask(phantom, case.mask, data=phantom.mask[:-8, :, :-1])


def _mask_other_affine(phantom: Phantom, case: Case) -> None:
    affine = phantom.affine.copy()
    affine[:3, 3] += (0, 25, 0)
    _image(phantom, case.image)
    _mask(phantom, case.mask, affine=affine)


def _mask_rounded_affine(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    _mask(phantom, case.mask, affine=np.round(phantom.affine, 3))


def _mask_equals_image(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    _image(phantom, case.mask)


def _mask_of_brain(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    _mask(phantom, case.mask, data=((phantom.hu > 0) & (phantom.hu < 80)).astype(np.uint8))


def _mask_outside_head(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    mask = np.zeros_like(phantom.mask)
    # The corner of the field is air whatever the orientation.
    mask[:9, :9, :9] = 1
    _mask(phantom, case.mask, data=mask)


def _four_dimensional(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image, data=np.stack((phantom.hu, phantom.hu + 1, phantom.hu - 1), axis=3))
    _mask(phantom, case.mask)


def _one_frame(phantom: Phantom, case: Case) -> None:
    def four_axes(header: nib.Nifti1Header) -> None:
        header["dim"][0], header["dim"][4] = 4, 1

    _image(phantom, case.image, edit=four_axes)
    _mask(phantom, case.mask)


def _not_nifti(phantom: Phantom, case: Case) -> None:
    nifti.write(case.image, b"This is a note about a scan, not a scan.\n" * 64)
    _mask(phantom, case.mask)


def _empty_file(phantom: Phantom, case: Case) -> None:
    nifti.write_bytes(case.image, b"")
    _mask(phantom, case.mask)


def _short_body(phantom: Phantom, case: Case) -> None:
    raw = nifti.encode(phantom.hu, phantom.affine, PLAIN)
    nifti.write(case.image, raw[: len(raw) * 2 // 3])
    _mask(phantom, case.mask)


def _huge_claim(header: nib.Nifti1Header) -> None:
    header["dim"][1:4] = 32_000


def _unset_codes(header: nib.Nifti1Header) -> None:
    header["sform_code"] = header["qform_code"] = 0


def _disagree(header: nib.Nifti1Header) -> None:
    header["qform_code"] = nifti.SCANNER_CODE
    header["qoffset_y"] = header["qoffset_y"] + 40


def _disagree_about_sides(header: nib.Nifti1Header) -> None:
    """The qform turned by half a turn about the body's axis: left is right, front is back."""
    header.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.get_sform(), nifti.SCANNER_CODE)


def _skew_plane(header: nib.Nifti1Header) -> None:
    """Rows and columns ten degrees off the right angle, in the sform alone: a quaternion cannot say it."""
    affine = header.get_sform()
    first, second = (axis for axis in range(3) if axis != slice_axis(affine))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    affine[:3, first] += np.tan(np.radians(10)) * spacing[first] / spacing[second] * affine[:3, second]
    header.set_sform(affine, nifti.SCANNER_CODE)
    header["qform_code"] = 0


def _set_spacing(value: float) -> HeaderEdit:
    """The first axis' spacing in pixdim and in both affines."""

    def edit(header: nib.Nifti1Header) -> None:
        old = float(header["pixdim"][1])
        header["pixdim"][1] = value
        for row in ("srow_x", "srow_y", "srow_z"):
            header[row][0] *= value / old

    return edit


def _negative_pixdim(header: nib.Nifti1Header) -> None:
    header["pixdim"][1:4] = -header["pixdim"][1:4]


def _slope(value: float) -> HeaderEdit:
    def edit(header: nib.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = value, 0

    return edit


def _non_axial(phantom: Phantom, case: Case) -> None:
    """Thick coronal slices: every twelfth row from front to back, fine steps kept along the body by repeating."""
    axes = np.abs(phantom.affine[:3, :3] / np.linalg.norm(phantom.affine[:3, :3], axis=0))
    front, top = int(axes[1].argmax()), int(axes[2].argmax())
    step, repeat = 6, 6
    affine = phantom.affine.copy()
    affine[:3, 3] -= affine[:3, top] * (0.5 - 0.5 / repeat)
    affine[:3, front] *= step
    affine[:3, top] /= repeat
    rows = np.arange(0, phantom.hu.shape[front], step)
    _image(phantom, case.image, data=np.repeat(phantom.hu.take(rows, front), repeat, top), affine=affine)
    _mask(phantom, case.mask, data=np.repeat(phantom.mask.take(rows, front), repeat, top), affine=affine)


def _mirrored(phantom: Phantom, case: Case) -> None:
    """The other handedness of storage; voxels and affine are turned over together, so the anatomy is right."""
    affine = phantom.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (phantom.hu.shape[0] - 1)
    affine[:3, 0] *= -1
    _image(phantom, case.image, data=phantom.hu[::-1], affine=affine)
    _mask(phantom, case.mask, data=phantom.mask[::-1], affine=affine)


def _duplicated_image(phantom: Phantom, case: Case) -> None:
    nifti.write_bytes(case.image, case.sound_image.read_bytes())
    nifti.write_bytes(case.mask, case.sound_mask.read_bytes())


def _sound(phantom: Phantom, case: Case) -> None:
    _image(phantom, case.image)
    _mask(phantom, case.mask)


def _truncate(raw: bytes) -> bytes:
    return raw[: len(raw) * 3 // 5]


def _flip_bit(raw: bytes) -> bytes:
    spoiled = bytearray(raw)
    spoiled[len(raw) // 2] ^= 0x10
    return bytes(spoiled)


def _to_float(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    return hu.astype(np.float32)


def _unit_range(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    return (_to_float(hu) - np.float32(hu.min())) / np.float32(np.ptp(hu))


def _with_holes(value: float) -> Callable[[npt.NDArray[np.int16]], npt.NDArray[np.float32]]:
    def change(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        out = _to_float(hu)
        middle = tuple(slice(n // 2, n // 2 + 3) for n in hu.shape)
        out[middle] = value
        return out

    return change


def _windowed(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.clip(hu, 0, 80).astype(np.int16)


def _clipped(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """As recovered from pictures of a brain window: what was cut off below is air, what was above is bone."""
    return np.where(hu <= -20, np.int16(-1000), np.where(hu >= 100, np.int16(1000), hu)).astype(np.int16)


def _eight_bit(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(hu / 80, 0, 1) * 255).astype(np.uint8)


def _wrapped(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    return hu.astype(np.uint16)


def _mr_like(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """As T2-weighted MR: no signal from air and bone, fluid bright, every value positive."""
    signal = np.interp(hu, (-300, -120, -20, 5, 20, 40, 90, 200), (0, 700, 650, 900, 500, 320, 150, 10))
    return np.rint(signal).astype(np.int16)


def _no_head(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    out = np.minimum(hu, np.int16(-960))
    return np.where(hu > -900, np.int16(-1000), out).astype(np.int16)


def _no_skull(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.where(hu > 130, np.int16(-1000), hu).astype(np.int16)


def _constant(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.full_like(hu, 40)


def _complex(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.complex64]:
    return hu.astype(np.complex64)


def _rgb(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.void]:
    grey = _eight_bit(hu)
    out = np.zeros(hu.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for channel in "RGB":
        out[channel] = grey
    return out


def _two_thirds_labels(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A second class, as for oedema, in part of the lesion."""
    out = mask.copy()
    where = np.flatnonzero(mask.ravel())
    out.ravel()[where[: len(where) // 3]] = 2
    return out


def _soft_labels(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Probabilities, as a network or a resampled mask leaves them."""
    out = mask.astype(np.float32)
    return 0.5 * out + 0.25 * (np.roll(out, 1, 0) + np.roll(out, -1, 0))


def _motion(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """The head seen twice, a centimetre apart."""
    return np.rint(0.55 * hu + 0.45 * np.roll(hu, (9, 7), (0, 1))).astype(np.int16)


def _metal(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """A clip at the scanner's ceiling that throws dark and bright rays through its slices."""
    out = hu.astype(np.float32)
    grid = np.meshgrid(*(np.arange(n) - n // 2 for n in hu.shape), indexing="ij", sparse=True)
    thin = int(np.argmin(hu.shape))
    a, b = (g for axis, g in enumerate(grid) if axis != thin)
    near = np.abs(grid[thin]) <= 1
    radius = np.hypot(a, b)
    rays = 900 * np.sin(11 * np.arctan2(b, a)) * np.exp(-radius / 45)
    out += np.where(near, rays, 0)
    out = np.where(near & (radius < 4), 3071, out)
    return np.rint(np.clip(out, -1024, 3071)).astype(np.int16)


DEFECTS: dict[str, Defect] = {
    # Files
    "missing-mask": Defect("an image without a mask", _missing_mask),
    "mask-without-image": Defect("a mask without an image", _mask_without_image),
    "truncated-gzip": Defect("the image's gzip stream ends early", _bytes(_truncate)),
    "bit-flipped-gzip": Defect("one bit in the middle of the image's gzip stream is wrong", _bytes(_flip_bit)),
    "not-nifti": Defect("the image is a text file", _not_nifti),
    "empty-file": Defect("the image has no bytes", _empty_file),
    "short-body": Defect("the header claims more voxels than the file holds", _short_body),
    "huge-claim": Defect("the header claims 32000 voxels along each axis", _header(_huge_claim, both=False)),
    # Array
    "four-dimensional": Defect("three frames in a fourth axis", _four_dimensional),
    "one-frame": Defect("a fourth axis with a single frame", _one_frame),
    "one-slice": Defect("one slice only", _slices(lambda n: [n // 2])),
    "nan-voxels": Defect("27 voxels are not a number", _values(_with_holes(np.nan))),
    "inf-voxels": Defect("27 voxels are infinite", _values(_with_holes(np.inf))),
    "constant": Defect("every voxel is 40", _values(_constant)),
    "complex-dtype": Defect("voxels are complex numbers", _values(_complex)),
    "rgb-dtype": Defect("voxels are colours", _values(_rgb)),
    "float64": Defect("voxels are 64-bit floats", _values(lambda hu: hu.astype(np.float64))),
    "slope-zero": Defect("the rescale slope is 0", _header(_slope(0.0), both=False)),
    "slope-nan": Defect("the rescale slope is not a number", _header(_slope(np.nan), both=False)),
    # Intensities
    "hu-shifted-1024": Defect("values are HU + 1024", _values(lambda hu: (hu + 1024).astype(np.int16))),
    "hu-0-255": Defect("values are grey levels 0 to 255 of a brain window", _values(_eight_bit)),
    "hu-0-1": Defect("values are scaled to 0 to 1", _values(_unit_range)),
    "hu-wrapped": Defect("negative HU wrapped to 65535 and below", _values(_wrapped)),
    "hu-windowed": Defect("values are cut to a brain window, 0 to 80 HU", _values(_windowed)),
    "hu-clipped": Defect("values between brain window and air, and brain window and bone, are lost", _values(_clipped)),
    "mr-like": Defect("values are those of an MR image", _values(_mr_like)),
    "no-head": Defect("only air in the field of view", _values(_no_head)),
    "no-skull": Defect("the skull is stripped", _values(_no_skull)),
    "motion": Defect("the head moved during the scan", _values(_motion)),
    "metal": Defect("a metal clip with streaks", _values(_metal)),
    # Geometry
    "unset-codes": Defect("sform and qform codes are 0", _header(_unset_codes)),
    "sform-qform-disagree": Defect("sform and qform give different positions", _header(_disagree)),
    "sform-qform-mirrored": Defect("sform and qform exchange left and right", _header(_disagree_about_sides)),
    "zero-spacing": Defect("the spacing along the first axis is 0", _header(_set_spacing(0.0))),
    "negative-spacing": Defect("the spacings in pixdim are negative", _header(_negative_pixdim)),
    "absurd-spacing": Defect("the spacing along the first axis is 40 mm", _header(_set_spacing(40.0))),
    "sheared-affine": Defect("slices are offset by a tilted gantry", _sound, sheared=True),
    "sheared-plane": Defect("rows and columns are not at right angles", _header(_skew_plane)),
    "non-axial": Defect("thick coronal slices", _non_axial),
    "mirrored": Defect("the other handedness of storage, anatomy right", _mirrored),
    "missing-slice": Defect(
        "two slices in the middle are missing",
        _slices(lambda n: [k for k in range(n) if k not in (n // 2, n // 2 + 1)]),
    ),
    "duplicated-slice": Defect(
        "two slices repeat the one below",
        _slices(lambda n: [k - min(max(k - n // 2, 0), 2) if k < n // 2 + 3 else k for k in range(n)]),
    ),
    "reversed-slices": Defect("slices run the other way than the affine says", _slices(lambda n: list(range(n))[::-1])),
    # Masks
    "mask-other-shape": Defect("the mask has another shape", _mask_other_shape),
    "mask-other-affine": Defect("the mask lies 25 mm further to the front", _mask_other_affine),
    "mask-rounded-affine": Defect("the mask's affine is rounded to 0.001 mm", _mask_rounded_affine),
    "labels-255": Defect("the mask's labels are 0 and 255", _labels(lambda mask: (mask * 255).astype(np.uint8))),
    "float-mask": Defect("the mask holds fractions", _labels(_soft_labels)),
    "multi-class-mask": Defect("the mask has labels 1 and 2", _labels(_two_thirds_labels)),
    "mask-equals-image": Defect("the mask is a copy of the image", _mask_equals_image),
    "mask-of-brain": Defect("the mask marks the brain, not the bleed", _mask_of_brain),
    "empty-mask": Defect("the mask of a scan with a bleed is empty", _labels(np.zeros_like)),
    "mask-outside-head": Defect("the mask lies in the air", _mask_outside_head),
    # Cohort
    "duplicated-image": Defect("a copy of the first case under another case id", _duplicated_image),
    "same-patient-two-splits": Defect(
        "the first patient again, in another split of the manifest", _sound, needs_manifest=True
    ),
}
