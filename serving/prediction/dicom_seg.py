"""A mask as a DICOM segmentation that points at the slices it was drawn on."""

from __future__ import annotations

import io
from collections import defaultdict

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid

from components.imaging.dicom.header import quiet
from components.imaging.dicom.read import DicomScan
from components.imaging.dicom.series import Series
from components.imaging.dicom.store import Limits, open_store
from components.imaging.errors import ScanError

HEMORRHAGE = CodedConcept("50960005", "SCT", "Hemorrhage")
BRAIN = CodedConcept("12738006", "SCT", "Brain")
_SERIES_NUMBER = 9100
"""Behind the scanner's own series of a study."""


def segmentation(
    mask: np.ndarray, scan: DicomScan, series: Series, *, model: str, model_version: str, software_version: str
) -> bytes:
    """Encodes a mask as a binary segmentation of one segment.

    Patient, study and frame of reference are the source's, as the standard wants: the file belongs where the scan is.

    Args:
        mask: bool of the shape of `scan.volume.data`: (columns, rows, slices).
        scan: The series as read.
        series: The series.
        model: Name of the model.
        model_version: Its version.
        software_version: Of this program.

    Returns:
        A DICOM file.

    Raises:
        ScanError: `unreadable`: a source file is gone, or lacks what a segmentation must repeat of it.
    """
    frames_of: dict[str, list[int]] = defaultdict(list)
    for index, plane in enumerate(scan.planes):
        frames_of[plane.name].append(index)
    planes = np.ascontiguousarray(mask.transpose(2, 1, 0)).astype(np.uint8)  # slices, rows, columns
    with quiet():
        sources = _headers(series, list(frames_of))
        if len(sources) == 1 and int(sources[0].get("NumberOfFrames") or 1) > 1:
            frames = np.zeros((int(sources[0].NumberOfFrames), *planes.shape[1:]), np.uint8)
            for index, plane in enumerate(scan.planes):
                frames[plane.frame] = planes[index]
        else:
            frames = planes
        try:
            made = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(model, model_version)],
                series_instance_uid=generate_uid(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="ich",
                manufacturer_model_name=model,
                software_versions=software_version,
                device_serial_number=model_version,
                content_label="HEMORRHAGE",
                content_description="Outline of intracranial hemorrhage, not for diagnosis",
                series_description="Intracranial hemorrhage, outlined by software",
            )
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # The words of the library may quote the header: its type says enough.
            raise ScanError(
                "unreadable",
                f"{series.path.name}: no segmentation can be made of these files ({type(error).__name__}): they lack "
                "what it must repeat of its source; leave --dicom-seg out, or export the series anew",
            ) from None
        stream = io.BytesIO()
        made.save_as(stream)
    return stream.getvalue()


def _segment(model: str, version: str) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Intracranial hemorrhage",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=HEMORRHAGE,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model, version=version, family=codes.DCM.ArtificialIntelligence
        ),
        anatomic_regions=[BRAIN],
        display_color=hd.color.CIELabColor(53.2, 80.1, 67.2),
    )


def _headers(series: Series, names: list[str]) -> list[Dataset]:
    """The files without their pixels, with what other objects must repeat of them."""
    found = []
    with open_store(series.path, Limits()) as store:
        for name in names:
            try:
                stream, _ = store.open(name)
                with stream:
                    found.append(_complete(dcmread(stream, stop_before_pixels=True, force=True), series))
            except (OSError, KeyError, ValueError) as error:
                raise ScanError(
                    "unreadable", f"{series.path.name}: a slice cannot be opened any more ({type(error).__name__})"
                ) from None
    return found


def _complete(header: Dataset, series: Series) -> Dataset:
    """Sets what the standard wants of every image, empty where it may be, so that it can be repeated."""
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
                 "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        if name not in header:
            setattr(header, name, "")
    if "SOPClassUID" not in header:
        header.SOPClassUID = getattr(header.file_meta, "MediaStorageSOPClassUID", None) or CTImageStorage
    if "NumberOfFrames" not in header and not header.get("SliceThickness"):
        header.SliceThickness = series.step_mm
    if "FrameOfReferenceUID" not in header:
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[series.series_uid])
    return header
