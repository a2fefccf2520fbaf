"""Damaged files end in findings: no other exception, no hang, no memory beyond what the file can justify.

`ICH_FUZZ_EXAMPLES=2000` runs the long version.
"""

from __future__ import annotations

import gzip
import os
import struct
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.imaging.checks.case import check_case
from components.imaging.checks.registry import CHECKS
from tests.imaging.checks.data import data_section
from tests.imaging.scans import ellipse_head, lps_affine, to_lps

EXAMPLES = int(os.environ.get("ICH_FUZZ_EXAMPLES", "300"))
SECONDS = 5.0
GIB = 2**30
DATA = data_section()

SHAPE, SPACING_MM = (6, 48, 48), (8.0, 4.5, 4.5)


def _sound(kind: type[nib.Nifti1Image] | type[nib.Nifti2Image], dtype: str) -> bytes:
    head = to_lps(ellipse_head(SHAPE, SPACING_MM)).astype(dtype)
    image = kind(head, lps_affine(SPACING_MM))
    image.header.set_slope_inter(1, 0)
    return bytes(image.to_bytes())


SOUND = {
    "int16": _sound(nib.Nifti1Image, "int16"),
    "float64": _sound(nib.Nifti1Image, "float64"),
    "uint16": _sound(nib.Nifti1Image, "uint16"),
    "nifti2": _sound(nib.Nifti2Image, "int16"),
}
MASK = (to_lps(ellipse_head(SHAPE, SPACING_MM)) == 35).astype(np.uint8)
MASK[24:] = 0  # of a whole brain no lesion is believed

# Offset and layout of the NIfTI-1 fields on which reading depends.
FIELDS = {
    "sizeof_hdr": (0, "<i"), "dim0": (40, "<h"), "dim1": (42, "<h"), "dim2": (44, "<h"), "dim3": (46, "<h"),
    "dim4": (48, "<h"), "datatype": (70, "<h"), "bitpix": (72, "<h"), "pixdim0": (76, "<f"), "pixdim1": (80, "<f"),
    "pixdim3": (88, "<f"), "vox_offset": (108, "<f"), "scl_slope": (112, "<f"), "scl_inter": (116, "<f"),
    "qform_code": (252, "<h"), "sform_code": (254, "<h"), "quatern_b": (256, "<f"), "quatern_d": (264, "<f"),
    "qoffset_x": (268, "<f"), "srow_x0": (280, "<f"), "srow_y1": (300, "<f"), "srow_z2": (320, "<f"),
    "magic": (344, "<i"),
}  # fmt: skip
SHORTS = st.one_of(st.integers(-2, 8), st.integers(-(2**15), 2**15 - 1), st.sampled_from([2, 4, 8, 16, 32, 64, 128]))
FLOATS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -1.0, 1e-30, 1e30, 352.0, 1e9, float("nan"), float("inf")])
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A NIfTI file, gzipped or not, with some of its fields, bytes or its end changed."""
    name = draw(st.sampled_from(sorted(SOUND)))
    raw = bytearray(SOUND[name])
    if name != "nifti2":
        for field in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=4)):
            offset, layout = FIELDS[field]
            value = draw(FLOATS) if layout == "<f" else draw(SHORTS)
            struct.pack_into(layout, raw, offset, value)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, 543) | st.integers(0, len(raw) - 1))
        raw[place] = draw(st.integers(0, 255))
    end = draw(st.just(len(raw)) | st.integers(0, len(raw)))
    body = bytes(raw[:end]) + draw(st.binary(max_size=64))
    if not draw(st.booleans()):
        return body
    packed = bytearray(gzip.compress(body, 1, mtime=0))
    for _ in range(draw(st.integers(0, 3))):
        packed[draw(st.integers(0, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(packed[: draw(st.just(len(packed)) | st.integers(0, len(packed)))])


def _with(field: str, value: float, source: str = "int16") -> bytes:
    raw = bytearray(SOUND[source])
    offset, layout = FIELDS[field]
    struct.pack_into(layout, raw, offset, value)
    return bytes(raw)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples share; each writes its own file anew."""
    folder = tmp_path_factory.mktemp("fuzz")
    nib.save(nib.Nifti1Image(MASK, lps_affine(SPACING_MM)), folder / "mask.nii.gz")
    (folder / "image.nii").write_bytes(SOUND["int16"])
    return folder


@pytest.mark.filterwarnings("error::RuntimeWarning")  # nothing is printed either
@settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(content=damaged(), as_mask=st.booleans())
@example(content=b"", as_mask=False)
@example(content=b"\x1f\x8b", as_mask=False)
@example(content=_with("scl_slope", float("inf")), as_mask=False)
@example(content=_with("scl_slope", 1e38, "float64"), as_mask=True)
@example(content=_with("vox_offset", float("nan")), as_mask=False)
@example(content=_with("vox_offset", -1e9), as_mask=False)
@example(content=gzip.compress(_with("dim3", 32767)), as_mask=False)
@example(content=_with("pixdim0", float("nan")), as_mask=True)
def test_damage_ends_in_findings(folder: Path, content: bytes, as_mask: bool) -> None:
    path = folder / "damaged.nii"
    path.write_bytes(content)
    image, mask = (folder / "image.nii", path) if as_mask else (path, folder / "mask.nii.gz")
    tracemalloc.start()
    began = time.perf_counter()
    try:
        checked = check_case(image, mask, DATA)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < SECONDS
    assert peak < GIB
    assert all(finding.code in CHECKS for finding in checked.findings)
    # What is not quarantined can be used.
    if checked.error is None:
        assert checked.volume is not None and checked.lesion is not None
        assert np.isfinite(checked.volume.data).all()
        assert checked.lesion.size == checked.volume.data.size


def test_the_undamaged_file_has_no_error(folder: Path) -> None:
    for name, content in SOUND.items():
        if name != "uint16":
            (folder / "damaged.nii").write_bytes(content)
            assert check_case(folder / "damaged.nii", folder / "mask.nii.gz", DATA).error is None, name


def test_a_claim_beyond_the_file_takes_no_memory(folder: Path) -> None:
    raw = bytearray(SOUND["int16"])
    struct.pack_into("<hhh", raw, 42, 700, 700, 700)
    for content in (bytes(raw), gzip.compress(bytes(raw))):
        (folder / "damaged.nii").write_bytes(content)
        tracemalloc.start()
        error = check_case(folder / "damaged.nii", None, DATA).error
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error is not None and error.code == "truncated"
        assert peak < 4 * 2**20


def test_a_file_that_unpacks_beyond_the_limit_is_refused_unread(folder: Path) -> None:
    raw = bytearray(SOUND["float64"])
    struct.pack_into("<hhh", raw, 42, 600, 600, 600)
    # As large as it must be to hold so much: no bound on packing refuses it.
    (folder / "damaged.nii").write_bytes(gzip.compress(bytes(raw)) + bytes(2_000_000))
    error = check_case(folder / "damaged.nii", None, DATA).error
    assert error is not None and error.code == "too-large"
    assert "max_memory_gib" in error.message


def test_many_slices_do_not_hang(folder: Path) -> None:
    image = nib.Nifti1Image(np.full((12, 12, 30_000), 40, np.int8), np.diag([2.0, 2.0, 0.5, 1.0]))
    nib.save(image, folder / "long.nii")
    began = time.perf_counter()
    error = check_case(folder / "long.nii", None, DATA).error
    assert error is not None and error.code == "geometry"
    assert time.perf_counter() - began < SECONDS
