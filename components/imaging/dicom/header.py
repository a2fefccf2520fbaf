"""The few header fields that geometry needs, one plane a slice; a multi-frame file gives many planes."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

_TAGS: list[str] = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription", "ContrastBolusAgent",
    "SliceThickness", "ConvolutionKernel", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "SeriesNumber", "AcquisitionNumber", "TemporalPositionIdentifier", "ImagePositionPatient",
    "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated",
    "RescaleIntercept", "RescaleSlope", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FIRST_ELEMENTS = {(8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x16), (8, 0x18), (2, 0), (2, 1), (2, 2), (2, 0x10)}
_CT = "1.2.840.10008.5.1.4.1.1.2"
"""CT Image Storage; `.1` and on are enhanced CT."""
_FIRST_GROUP_AT = 144
"""Bytes before what the length of the first group counts: preamble, magic, and that length itself."""
_LOGGERS = ("pydicom", "openjpeg", "libjpeg", "pylibjpeg")
_SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}


class HeaderError(Exception):
    """A DICOM file that cannot be used; the text is a reason without any value of the header that is not geometry."""


@dataclass(frozen=True)
class Plane:
    """One slice as the header has it, in DICOM's patient coordinates (LPS, mm).

    Attributes:
        name: Its file within the folder or zip.
        frame: Its frame in that file, from 0.
        shape: Rows and columns.
        position: Centre of the first pixel; None where the header has none.
        orientation: Direction in which the column index grows, then the row index; unit vectors.
        spacing: Distance between rows, and between columns.
        thickness: Slice thickness.
        slope: Rescale slope; None where there is none.
        intercept: Rescale intercept; None likewise.
        acquisition: Acquisition number and temporal position.
        localiser: It is a scout view.
        sop_uid: Its instance, only for references from a segmentation to its source; never to be shown or logged.
    """

    name: str = field(repr=False)
    frame: int
    shape: tuple[int, int]
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    acquisition: tuple[str, str]
    localiser: bool
    sop_uid: str = field(repr=False)

    @property
    def placed(self) -> bool:
        """It has all that a slice needs."""
        return None not in (self.position, self.orientation, self.spacing)


@dataclass(frozen=True)
class Header:
    """What a file says of its series, and its planes.

    The identifiers are for grouping and for references from a segmentation only; never to be shown or logged.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    modality: str
    number: str
    description: str = field(repr=False)
    kernel: str
    image_type: tuple[str, ...]
    contrast: bool
    planes: tuple[Plane, ...]


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom and its decoders without validation, warnings and log lines: they quote header values."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or more) is DICOM, also without its preamble."""
    if start[128:132] == b"DICM":
        return True
    if len(start) < 8:
        return False
    element = int.from_bytes(start[:2], "little"), int.from_bytes(start[2:4], "little")
    explicit = start[4:6] in (b"UL", b"CS", b"UI", b"DA", b"SH", b"OB")
    return element in _FIRST_ELEMENTS and (explicit or int.from_bytes(start[4:8], "little") <= 256)


def read_header(stream: BinaryIO, size: int, name: str) -> Header | None:
    """Reads a file's header; call within `quiet`.

    Args:
        stream: The file.
        size: Its length in bytes.
        name: Its name within the folder or zip.

    Returns:
        None if it is no DICOM file, or holds no image.

    Raises:
        HeaderError: It is a DICOM image that cannot be used; the text says why.
    """
    start = stream.read(1024)
    if not is_dicom(start):
        return None
    if _DEFLATED in start:
        raise HeaderError("deflated as a whole, which may unpack to any size; store it uncompressed")
    stream.seek(0)
    try:
        dataset = dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
        rest = size - stream.tell()
        if not dataset.get("Rows") or not dataset.get("Columns"):
            meta = getattr(dataset, "file_meta", Dataset())
            kind = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
            # Even a directory says what it is, and a file that ends within its first group is none to pass over.
            first_group = int(meta.get("FileMetaInformationGroupLength") or 0)
            cut = start[128:132] == b"DICM" and (not kind or size < _FIRST_GROUP_AT + first_group)
            if cut or kind == _CT or kind.startswith(f"{_CT}."):
                raise HeaderError("the file ends within its header; copy it anew")
            return None
        _check_length(dataset, rest)
        return _header(dataset, name)
    except HeaderError:
        raise
    except RecursionError:
        raise HeaderError("sequences nested too deeply; the file is corrupt") from None
    except Exception as error:  # pydicom raises nearly anything on corrupt bytes, and quotes them
        raise HeaderError(f"its header cannot be read ({type(error).__name__}); copy the file anew") from None


def _check_length(dataset: Dataset, rest: int) -> None:
    """Whether the pixels that the header claims can be there."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if rest <= 0:
        raise HeaderError("the file ends before its pixels; copy it anew")
    if syntax is not None and UID(syntax).is_private is False and UID(syntax).is_compressed:
        return
    wanted = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    wanted *= int(dataset.get("BitsAllocated") or 16) // 8 * int(dataset.get("SamplesPerPixel") or 1)
    if rest < wanted:
        raise HeaderError(f"found {rest} bytes of pixels, the header claims {wanted}; copy the file anew")


def _header(dataset: Dataset, name: str) -> Header:
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if frames is None and count > 1:
        raise HeaderError(f"{count} frames without their positions; export enhanced CT or single slices")
    if frames is not None and len(frames) != count:
        raise HeaderError(f"{len(frames)} frame descriptions for {count} frames; export the series anew")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        planes: tuple[Plane, ...] = ()  # a colour picture, such as a dose report
    else:
        groups = frames if frames is not None else [Dataset()]
        planes = tuple(_plane(dataset, shared, group, name, index) for index, group in enumerate(groups))
    kernel = _of("ConvolutionKernel", dataset, shared, "CTReconstructionSequence")
    return Header(
        study_uid=str(dataset.get("StudyInstanceUID") or ""),
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        modality=str(dataset.get("Modality") or ""),
        number=str(dataset.get("SeriesNumber") if dataset.get("SeriesNumber") is not None else ""),
        description=str(dataset.get("SeriesDescription") or ""),
        kernel=" ".join(_texts(kernel)),
        image_type=tuple(text.upper() for text in _texts(dataset.get("ImageType"))),
        contrast=bool(str(dataset.get("ContrastBolusAgent") or "").strip()),
        planes=planes,
    )


def _plane(dataset: Dataset, shared: Dataset, group: Dataset, name: str, index: int) -> Plane:
    def find(keyword: str, sequence: str) -> Any:
        found = _of(keyword, group, group, sequence)
        return found if found is not None else _of(keyword, dataset, shared, sequence)

    position = _numbers(find("ImagePositionPatient", "PlanePositionSequence"), 3)
    spacing = _numbers(find("PixelSpacing", "PixelMeasuresSequence"), 2)
    kinds = {*_texts(dataset.get("ImageType")), *_texts(find("FrameType", "CTImageFrameTypeSequence"))}
    content = _first(group, "FrameContentSequence")
    return Plane(
        name=name,
        frame=index,
        shape=(int(dataset.Rows), int(dataset.Columns)),
        position=None if position is None else (position[0], position[1], position[2]),
        orientation=_unit(_numbers(find("ImageOrientationPatient", "PlaneOrientationSequence"), 6)),
        spacing=None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1]),
        thickness=_number(find("SliceThickness", "PixelMeasuresSequence")),
        slope=_number(find("RescaleSlope", "PixelValueTransformationSequence")),
        intercept=_number(find("RescaleIntercept", "PixelValueTransformationSequence")),
        acquisition=(
            str(content.get("FrameAcquisitionNumber", dataset.get("AcquisitionNumber")) or ""),
            str(content.get("TemporalPositionIndex", dataset.get("TemporalPositionIdentifier")) or ""),
        ),
        localiser=bool({kind.upper() for kind in kinds} & _SCOUTS),
        sop_uid=str(dataset.get("SOPInstanceUID") or ""),
    )


def _of(keyword: str, plain: Dataset, groups: Dataset, sequence: str) -> Any:
    """A value from a functional group, or from the file itself as in single-frame CT."""
    found = _first(groups, sequence).get(keyword)
    return found if found is not None else plain.get(keyword)


def _first(dataset: Dataset, keyword: str) -> Dataset:
    items = dataset.get(keyword)
    return items[0] if items else Dataset()


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers(value: Any, count: int) -> list[float] | None:
    try:
        numbers = [float(part) for part in value]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _unit(directions: list[float] | None) -> tuple[float, ...] | None:
    """Both directions at length 1; None where they are no right angle."""
    if directions is None:
        return None
    row, column = directions[:3], directions[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    if min(lengths) < 0.9 or max(lengths) > 1.1:
        return None
    if abs(sum(a * b for a, b in zip(row, column, strict=True))) > 1e-2:
        return None
    return (*(value / lengths[0] for value in row), *(value / lengths[1] for value in column))
