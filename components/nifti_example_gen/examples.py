"""From one case's files to its slice examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.example.feature_pb2 import Feature

from components.imaging.checks.case import check_case
from components.imaging.checks.finding import Finding
from components.imaging.errors import ScanError
from components.imaging.head import Head
from components.imaging.postprocess import pack_mask
from components.imaging.scan import Scan, prepare_scan
from components.nifti_example_gen.layout import Case, data_for
from schema import features as f


@dataclass(frozen=True)
class CaseRecord:
    """What is remembered of an ingested case, without pixels.

    Attributes:
        case_id: The case.
        patient_id: Its patient.
        split: Its split.
        slices: Number of slices.
        lesion_slices: Slices with lesion.
        lesion_ml: Lesion volume.
        size_bin: Bin of that volume.
        digest: Hash of the pixels on the model grid: equal for equal content.
        spacing_mm: Native spacing along slices, rows and columns.
        native_shape: Native shape in the same order.
        orientation: Axis codes of the file as stored.
        brain_hu_mean: Mean HU of the brain; None when no brain was found.
        brain_hu_sd: Its standard deviation; None likewise.
        head_hu: HU percentiles inside the head, keyed as in `schema.features.HEAD_HU_PERCENTILES`: of each, the
            median over the slices that show the head.
        image_digest: Hash of the scan's own content, to find one image under two case ids.
        findings: Warnings and repairs: `code`, `severity`, `message` and `value` of each.
        source: Its source; empty where the data has but one layout.
    """

    case_id: str
    patient_id: str
    split: str
    slices: int
    lesion_slices: int
    lesion_ml: float
    size_bin: str
    digest: str
    spacing_mm: list[float]
    native_shape: list[int]
    orientation: str
    brain_hu_mean: float | None
    brain_hu_sd: float | None
    head_hu: dict[str, float]
    image_digest: str = ""
    findings: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""


@dataclass(frozen=True)
class Ingested:
    """A case that passed the checks.

    Attributes:
        scan: The prepared scan.
        lesion: bool of shape (slices, rows, columns), canonical orientation.
        findings: What the checks say of it: warnings and repairs.
        image_digest: Hash of the scan's content, however it is stored.
    """

    scan: Scan
    lesion: np.ndarray
    findings: tuple[Finding, ...] = ()
    image_digest: str = ""


def read_case(case: Case, data: Mapping[str, Any], grid: Mapping[str, Any]) -> Ingested:
    """Reads, checks and prepares a scan and its mask.

    Args:
        case: The case.
        data: The configuration's section `data`.
        grid: Its section `grid`.

    Raises:
        ScanError: A check says that the scan or its mask cannot be used; the code is the check's.
    """
    checked = check_case(case.image, case.mask, data_for(case, data))
    if checked.error is not None:
        raise ScanError(checked.error.code, checked.error.message)
    assert checked.volume is not None  # only an error keeps a scan or mask from being read
    assert checked.lesion is not None
    scan = prepare_scan(checked.volume, case.image, size=grid["size"], spacing_mm=grid["spacing_mm"], head=checked.head)
    return Ingested(scan, checked.lesion, checked.findings, checked.digest)


def slice_examples(case: Case, split: str, ingested: Ingested, context_slices: int) -> tuple[list[bytes], CaseRecord]:
    """One serialised example per axial slice, with and without lesion.

    Args:
        case: The case.
        split: Its split.
        ingested: The scan and its lesion.
        context_slices: Neighbours on each side that go with a slice.

    Returns:
        The examples in slice order, and the record of the case.
    """
    scan, mask = ingested.scan, ingested.lesion
    geometry = scan.geometry
    count = geometry.native_shape[0]
    pixels = np.array([np.count_nonzero(plane) for plane in mask])
    pixel_cm2 = geometry.spacing_mm[1] * geometry.spacing_mm[2] / 100.0
    volume_ml = float(pixels.sum()) * geometry.voxel_ml
    bin_name = f.size_bin(volume_ml)
    images = scan.examples(context_slices)
    coverage = np.zeros((count, geometry.grid_size, geometry.grid_size), np.uint8)
    lesion = np.flatnonzero(pixels)
    if lesion.size:
        coverage[lesion] = np.rint(geometry.to_grid(mask[lesion], outside=0) * 255)

    whole_scan = Example()
    values = whole_scan.features.feature
    _set(values[f.CASE_ID], case.case_id.encode())
    _set(values[f.PATIENT_ID], case.patient_id.encode())
    _set(values[f.ORIENTATION], scan.orientation.codes.encode())
    _set(values[f.SIZE_BIN], bin_name.encode())
    _set(values[f.SLICE_COUNT], count)
    _set(values[f.NATIVE_SHAPE], geometry.native_shape)
    _set(values[f.SPACING_MM], geometry.spacing_mm)
    _set(values[f.GRID_CENTER], geometry.grid_center)
    _set(values[f.AFFINE], scan.affine.ravel().tolist())
    _set(values[f.LESION_VOLUME_ML], volume_ml)
    _set(values[f.SLICE_SPACING_MM], geometry.spacing_mm[0])
    _set(values[f.PIXEL_SPACING_MM], geometry.spacing_mm[1])
    _set(values[f.BRAIN_HU_MEAN], scan.head.brain_mean)
    _set(values[f.BRAIN_HU_SD], scan.head.brain_sd)

    records = []
    for index in range(count):
        example = Example()
        example.CopyFrom(whole_scan)
        values = example.features.feature
        _set(values[f.IMAGE], images[index].tobytes())
        _set(values[f.MASK], coverage[index].tobytes())
        _set(values[f.NATIVE_MASK], pack_mask(mask[index]))
        _set(values[f.SLICE_INDEX], index)
        _set(values[f.LESION_PIXELS], int(pixels[index]))
        _set(values[f.LESION_AREA_CM2], float(pixels[index]) * pixel_cm2)
        _set(values[f.HEAD_AREA_CM2], float(scan.head.area_cm2[index]))
        for position, name in enumerate(f.HEAD_HU_PERCENTILES):
            _set(values[name], float(scan.head.percentiles[index, position]))
        # By name: else the features' order is another in each process, and so are the bytes from worker to worker.
        records.append(example.SerializeToString(deterministic=True))
    digest = hashlib.sha256(scan.hu.data)
    digest.update(lesion.tobytes() + coverage[lesion].tobytes())  # the rest is empty
    record = CaseRecord(
        case_id=case.case_id,
        patient_id=case.patient_id,
        split=split,
        slices=count,
        lesion_slices=int(lesion.size),
        lesion_ml=round(volume_ml, 4),
        size_bin=bin_name,
        digest=digest.hexdigest()[:32],
        spacing_mm=list(geometry.spacing_mm),
        native_shape=list(geometry.native_shape),
        orientation=scan.orientation.codes,
        brain_hu_mean=_finite(scan.head.brain_mean),
        brain_hu_sd=_finite(scan.head.brain_sd),
        head_hu=_head_hu(scan.head),
        image_digest=ingested.image_digest,
        findings=[asdict(finding) for finding in ingested.findings],
        source=case.source,
    )
    return records, record


def _head_hu(head: Head) -> dict[str, float]:
    """Of each percentile, the median over the slices that show the head: one slice of hair or chin does not count."""
    medians = np.median(head.percentiles[head.area_cm2 > 0], axis=0)
    return {name: round(float(value), 2) for name, value in zip(f.HEAD_HU_PERCENTILES, medians, strict=True)}


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _set(feature: Feature, value: Any) -> None:
    """Fills a feature by the type of the value: bytes, ints or floats."""
    values = value if isinstance(value, list | tuple) else [value]
    if isinstance(values[0], bytes):
        feature.bytes_list.value.extend(values)
    elif isinstance(values[0], int | np.integer):
        feature.int64_list.value.extend(int(item) for item in values)
    else:
        feature.float_list.value.extend(float(item) for item in values)
