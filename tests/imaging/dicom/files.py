"""Small DICOM series for tests, written with pydicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SECRET = "DOE^JANE"
"""Stands in every file where a patient's name, id and physician go; must be in nothing that comes back."""
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SHAPE = (12, 10)


def stored(count: int, shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Stored values (HU + 1024), each slice another; int16 of shape (count, rows, columns)."""
    return np.random.default_rng(seed).integers(0, 2000, (count, *shape)).astype(np.int16)


def positions(
    count: int, step: Sequence[float] = (0, 0, 5.0), origin: Sequence[float] = (-50, -60, 30)
) -> list[list[float]]:
    """Positions (LPS, mm) from `origin` on, `step` apart."""
    return [[float(o + s * k) for o, s in zip(origin, step, strict=True)] for k in range(count)]


def image(
    pixels: np.ndarray, position: Sequence[float] | None, orientation: Sequence[float] = AXIAL, **values: Any
) -> Dataset:
    """A single-frame CT image; `values` override its fields, None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID, data.ReferringPhysicianName = SECRET, SECRET, SECRET
    data.StudyDescription = SECRET
    data.Modality, data.StudyInstanceUID, data.SeriesInstanceUID = "CT", "1.2.3", "1.2.3.4"
    data.SeriesNumber, data.SeriesDescription = 2, f"Head {SECRET}"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = position
    data.ImageOrientationPatient = list(orientation)
    data.PixelSpacing, data.SliceThickness = [0.6, 0.5], 5.0
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.RescaleIntercept, data.RescaleSlope = -1024, 1
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    for name, value in values.items():
        if value is None:
            data.pop(name, None)
        else:
            setattr(data, name, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    """Writes it as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    pixels: np.ndarray,
    places: Sequence[Sequence[float]],
    orientation: Sequence[float] = AXIAL,
    *,
    prefix: str = "im",
    **values: Any,
) -> list[Path]:
    """One file a slice, in the given order."""
    return [
        save(image(plane, place, orientation, InstanceNumber=k + 1, **values), folder / f"{prefix}{k:04d}.dcm")
        for k, (plane, place) in enumerate(zip(pixels, places, strict=True))
    ]


def multi_frame(pixels: np.ndarray, places: Sequence[Sequence[float]]) -> Dataset:
    """Enhanced CT: everything shared but the position, which each frame has."""
    data = image(pixels, None, NumberOfFrames=len(pixels))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    del data.RescaleIntercept, data.RescaleSlope
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(AXIAL))]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.6, 0.5], SliceThickness=5.0)]
    shared.PixelValueTransformationSequence = [_item(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")]
    shared.CTReconstructionSequence = [_item(ConvolutionKernel="H30s")]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in places:
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=list(place))]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    return data


def _item(**values: Any) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data
