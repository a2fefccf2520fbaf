"""Each planted defect, read back from its files without the code that planted it."""

import csv
import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from components.imaging.phantom import DEFECTS, CohortSummary, write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortSummary:
    """Two sound patients and one case per defect."""
    out = tmp_path_factory.mktemp("defects") / "cohort"
    return write_cohort(out, patients=2, seed=6, size="tiny", defects=["all"])


@dataclass
class Files:
    """The two files of one case, and of the first sound case."""

    image: Path
    mask: Path
    first_image: Path
    first_mask: Path

    @cached_property
    def raw(self) -> bytes:
        return gzip.decompress(self.image.read_bytes())

    @cached_property
    def header(self) -> nib.Nifti1Header:
        return nib.Nifti1Header(self.raw[:348], check=False)

    @cached_property
    def hu(self) -> npt.NDArray[Any]:
        return np.asarray(nib.Nifti1Image.from_filename(self.image).dataobj)

    @cached_property
    def blood(self) -> npt.NDArray[Any]:
        return np.asarray(nib.Nifti1Image.from_filename(self.mask).dataobj)

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        return np.asarray(nib.Nifti1Image.from_filename(self.image).affine)

    @property
    def mask_affine(self) -> npt.NDArray[np.float64]:
        return np.asarray(nib.Nifti1Image.from_filename(self.mask).affine)

    @property
    def slices(self) -> int:
        return int(np.abs(self.affine[2, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)).argmax())

    def along(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Slices first."""
        return np.moveaxis(array, self.slices, 0)

    def is_sound(self) -> bool:
        """Image and mask agree, in HU, with blood where the image is as bright as blood."""
        agree = self.hu.shape == self.blood.shape and np.allclose(self.affine, self.mask_affine)
        return bool(agree and 38 < np.median(self.hu[self.blood > 0]) < 82 and self.hu.min() < -900)


def raises(error: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def blood_hu(files: Files) -> float:
    return float(np.median(files.hu[files.blood > 0]))


def check_bit_flip(files: Files) -> bool:
    # The header may still read well; the stream's own checksum or structure must not.
    return raises((gzip.BadGzipFile, zlib.error, EOFError), lambda: files.raw) and files.image.stat().st_size > 10_000


def check_missing_slice(files: Files) -> bool:
    """A jump in the anatomy: the step across the gap is larger than the steps around it."""
    planes = files.along(files.hu).astype(np.float64)
    step = np.abs(np.diff(planes, axis=0)).mean(axis=(1, 2))
    middle = (len(planes) + 2) // 2 - 1
    return bool(step[middle] > 1.2 * max(step[middle - 2], step[middle + 2]) and files.is_sound())


def check_duplicated_slice(files: Files) -> bool:
    planes = files.along(files.hu)
    same = [k for k in range(1, len(planes)) if np.array_equal(planes[k], planes[k - 1])]
    return same == [len(planes) // 2 + 1, len(planes) // 2 + 2]


def check_reversed(files: Files) -> bool:
    """The vertex, where the head is smallest, is at the bottom."""
    planes = files.along(files.hu)
    first, last = ((part > -300).sum() for part in (planes[:3], planes[-3:]))
    bottom, top = (first, last) if files.affine[2, files.slices] > 0 else (last, first)
    return bool(bottom < top and files.hu.shape == files.blood.shape)


def check_motion(files: Files) -> bool:
    """Half of the scalp's outer edge is doubled: far more voxels lie between air and soft tissue."""
    first = np.asarray(nib.Nifti1Image.from_filename(files.first_image).dataobj)
    between = [((a > -800) & (a < -300)).mean() for a in (files.hu, first)]
    return bool(between[0] > 1.5 * between[1] and files.hu.shape == files.blood.shape)


def check_spacing(value: float) -> Callable[[Files], bool]:
    def check(files: Files) -> bool:
        first = float(files.header["pixdim"][1])
        column = [float(files.header[row][0]) for row in ("srow_x", "srow_y", "srow_z")]
        return first == value and np.linalg.norm(column) == pytest.approx(value, rel=1e-4)

    return check


def check_disagree(files: Files) -> bool:
    image = nib.Nifti1Image.from_filename(files.image)
    corner = np.array((*files.hu.shape, 1.0))
    distance = np.linalg.norm((image.get_sform() - image.get_qform()) @ corner)
    return int(files.header["sform_code"]) > 0 < int(files.header["qform_code"]) and bool(distance > 30)


def check_sheared(files: Files) -> bool:
    columns = files.affine[:3, :3] / np.linalg.norm(files.affine[:3, :3], axis=0)
    cosines = columns.T @ columns - np.eye(3)
    return bool(np.abs(cosines).max() > np.sin(np.radians(5))) and int(files.header["qform_code"]) == 0


def check_mirrored_forms(files: Files) -> bool:
    """Each voxel's two positions lie as far apart along x and y, and agree along z."""
    image = nib.Nifti1Image.from_filename(files.image)
    both = image.get_sform()[:3, :3], image.get_qform()[:3, :3]
    return int(files.header["qform_code"]) > 0 and np.allclose(both[0], np.diag([-1, -1, 1]) @ both[1], atol=1e-3)


def check_sheared_plane(files: Files) -> bool:
    columns = files.affine[:3, :3] / np.linalg.norm(files.affine[:3, :3], axis=0)
    first, second = (axis for axis in range(3) if axis != files.slices)
    return abs(np.degrees(np.arcsin(columns[:, first] @ columns[:, second]))) > 8


def check_clipped(files: Files) -> bool:
    gaps = [((files.hu > low) & (files.hu < high)).sum() for low, high in ((-1000, -20), (100, 1000))]
    return gaps == [0, 0] and {-1000, 1000} <= set(np.unique(files.hu)) and 38 < blood_hu(files) < 82


def check_non_axial(files: Files) -> bool:
    spacing = np.linalg.norm(files.affine[:3, :3], axis=0)
    towards = np.abs(files.affine[:3, spacing.argmax()]).argmax()
    return bool(towards == 1 and spacing.max() > 4 * np.sort(spacing)[1] and files.is_sound())


def check_mirrored(files: Files) -> bool:
    return bool(np.linalg.det(files.affine[:3, :3]) != 0 and files.is_sound())


def check_metal(files: Files) -> bool:
    clip = files.hu >= 3000
    planes = files.along(clip).any(axis=(1, 2)).sum()
    return bool(clip.sum() > 20 and planes == 3)


def check_duplicate(files: Files) -> bool:
    return (
        files.image.read_bytes() == files.first_image.read_bytes()
        and files.mask.read_bytes() == files.first_mask.read_bytes()
    )


def check_mask_other_affine(files: Files) -> bool:
    shift = files.mask_affine[:3, 3] - files.affine[:3, 3]
    return np.allclose(files.mask_affine[:3, :3], files.affine[:3, :3]) and np.allclose(shift, (0, 25, 0), atol=1e-3)


def check_mask_rounded(files: Files) -> bool:
    error = np.abs(files.mask_affine - files.affine).max()
    return bool(0 < error < 1e-3)


def check_short_body(files: Files) -> bool:
    wanted = 352 + 2 * int(np.prod(files.header["dim"][1:4].astype(int)))
    return len(files.raw) < wanted


def check_huge(files: Files) -> bool:
    claimed = int(np.prod(files.header["dim"][1:4].astype(np.int64)))
    return claimed > 2**44 and len(files.raw) < 2**26


def check_no_head(files: Files) -> bool:
    return bool(files.hu.max() < -900 and files.hu.std() > 0)


CHECKS: dict[str, Callable[[Files], object]] = {
    "missing-mask": lambda f: f.image.is_file() and not f.mask.exists(),
    "mask-without-image": lambda f: f.mask.is_file() and not f.image.exists(),
    "truncated-gzip": lambda f: raises(EOFError, lambda: f.raw) and f.image.read_bytes()[:2] == b"\x1f\x8b",
    "bit-flipped-gzip": check_bit_flip,
    "not-nifti": lambda f: struct.unpack("<i", f.raw[:4])[0] != 348 and b"n+1" not in f.raw,
    "empty-file": lambda f: f.image.stat().st_size == 0,
    "short-body": check_short_body,
    "huge-claim": check_huge,
    "four-dimensional": lambda f: f.hu.ndim == 4 and f.hu.shape[3] == 3 and f.blood.ndim == 3,
    "one-frame": lambda f: int(f.header["dim"][0]) == 4 and f.hu.shape == (*f.blood.shape, 1),
    "one-slice": lambda f: f.hu.shape == f.blood.shape and f.hu.shape[f.slices] == 1,
    "nan-voxels": lambda f: np.isnan(f.hu).sum() == 27 and np.isfinite(f.hu).sum() == f.hu.size - 27,
    "inf-voxels": lambda f: np.isinf(f.hu).sum() == 27 and np.isfinite(f.hu).sum() == f.hu.size - 27,
    "constant": lambda f: np.ptp(f.hu) == 0,
    "complex-dtype": lambda f: np.iscomplexobj(f.hu),
    "rgb-dtype": lambda f: int(f.header["datatype"]) == 128 and f.hu.dtype.names == ("R", "G", "B"),
    "float64": lambda f: int(f.header["datatype"]) == 64 and f.is_sound(),
    "slope-zero": lambda f: float(f.header["scl_slope"]) == 0,
    "slope-nan": lambda f: np.isnan(float(f.header["scl_slope"])),
    "hu-shifted-1024": lambda f: 1062 < blood_hu(f) < 1106 and f.hu.min() >= 0,
    "hu-0-255": lambda f: f.hu.min() == 0 and f.hu.max() == 255,
    "hu-0-1": lambda f: f.hu.min() == 0 and f.hu.max() == 1 and len(np.unique(f.hu)) > 100,
    "hu-wrapped": lambda f: f.hu.min() >= 0 and (f.hu > 64_000).mean() > 0.3 and 38 < blood_hu(f) < 82,
    "hu-windowed": lambda f: f.hu.min() == 0 and f.hu.max() == 80 and 38 < blood_hu(f) < 82,
    "hu-clipped": check_clipped,
    "mr-like": lambda f: f.hu.min() >= 0 and np.percentile(f.hu[f.hu > 100], 99) > 600,
    "no-head": check_no_head,
    "no-skull": lambda f: f.hu.max() <= 130 and 38 < blood_hu(f) < 82,
    "motion": check_motion,
    "metal": check_metal,
    "unset-codes": lambda f: int(f.header["sform_code"]) == int(f.header["qform_code"]) == 0,
    "sform-qform-disagree": check_disagree,
    "sform-qform-mirrored": check_mirrored_forms,
    "zero-spacing": check_spacing(0.0),
    "negative-spacing": lambda f: (f.header["pixdim"][1:4] < 0).all(),
    "absurd-spacing": check_spacing(40.0),
    "sheared-affine": check_sheared,
    "sheared-plane": check_sheared_plane,
    "non-axial": check_non_axial,
    "mirrored": check_mirrored,
    "missing-slice": check_missing_slice,
    "duplicated-slice": check_duplicated_slice,
    "reversed-slices": check_reversed,
    "mask-other-shape": lambda f: all(a != b for a, b in zip(f.hu.shape[::2], f.blood.shape[::2], strict=True)),
    "mask-other-affine": check_mask_other_affine,
    "mask-rounded-affine": check_mask_rounded,
    "labels-255": lambda f: set(np.unique(f.blood)) == {0, 255},
    "float-mask": lambda f: f.blood.dtype == np.float32 and ((f.blood > 0) & (f.blood < 1)).sum() > 0,
    "multi-class-mask": lambda f: set(np.unique(f.blood)) == {0, 1, 2},
    "mask-equals-image": lambda f: np.array_equal(f.hu, f.blood),
    "mask-of-brain": lambda f: 15 < np.median(f.hu[f.blood > 0]) < 40 and (f.blood > 0).mean() > 0.1,
    "empty-mask": lambda f: not f.blood.any() and ((f.hu > 50) & (f.hu < 80)).mean() > 1e-3,
    "mask-outside-head": lambda f: f.blood.any() and (f.hu[f.blood > 0] < -900).all(),
    "duplicated-image": check_duplicate,
    "same-patient-two-splits": lambda f: f.is_sound(),
}


def test_every_defect_has_a_check_and_a_summary() -> None:
    assert set(CHECKS) == set(DEFECTS)
    assert len(DEFECTS) >= 35
    summaries = [defect.summary for defect in DEFECTS.values()]
    assert all(summaries) and len(set(summaries)) == len(summaries)


@pytest.mark.parametrize("name", DEFECTS)
def test_the_case_shows_its_defect(cohort: CohortSummary, name: str) -> None:
    records = {record.case_id: record for record in cohort.cases}
    record, first = records[name], records["001"]
    assert record.defect == name
    files = Files(*(cohort.out / path for path in (record.image, record.mask, first.image, first.mask)))
    assert CHECKS[name](files)


# These lie in the pairing of files, the manifest or the declared handedness: their files alone are sound.
SOUND_ALONE = {"missing-mask", "mask-without-image", "duplicated-image", "same-patient-two-splits", "mirrored"}


@pytest.mark.parametrize("name", sorted(set(CHECKS) - SOUND_ALONE))
def test_a_sound_case_does_not_pass_for_a_defect(cohort: CohortSummary, name: str) -> None:
    first, other = cohort.cases[:2]
    files = Files(*(cohort.out / path for path in (first.image, first.mask, other.image, other.mask)))
    assert not CHECKS[name](files)


def test_the_mirrored_case_has_the_other_handedness(cohort: CohortSummary) -> None:
    record = next(record for record in cohort.cases if record.case_id == "mirrored")
    stored = nib.Nifti1Image.from_filename(cohort.out / record.image).affine
    declared = np.linalg.det(nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(record.codes), (2, 2, 2)))
    assert np.sign(np.linalg.det(stored[:3, :3])) == -np.sign(declared)


def test_the_manifest_puts_one_patient_into_two_splits(cohort: CohortSummary) -> None:
    with (cohort.out / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert {patient for patient, found in splits.items() if len(found) > 1} == {"p001"}


def test_a_defect_does_not_depend_on_its_company(cohort: CohortSummary, tmp_path: Path) -> None:
    alone = write_cohort(tmp_path / "c", patients=1, seed=6, size="tiny", defects=["metal"], workers=1)
    assert [record.case_id for record in alone.cases] == ["001", "metal"]
    for record in alone.cases:
        for path in (record.image, record.mask):
            assert (alone.out / path).read_bytes() == (cohort.out / path).read_bytes()
