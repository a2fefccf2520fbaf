"""Writing GZIP TFRecords fast: TensorFlow's writer deflates at level 6, about a tenth of the speed of ISA-L's."""

from __future__ import annotations

import io
import struct
from types import TracebackType

import google_crc32c
from isal import igzip

COMPRESSION = 1


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as the TFRecord format wants it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class RecordBuffer:
    """Collects records as one gzipped TFRecord file in memory, to be written in one go.

    Example:
        >>> with RecordBuffer() as buffer:
        ...     buffer.add(b"record")
        >>> data = buffer.data
    """

    def __init__(self) -> None:
        self.count = 0
        self._file = io.BytesIO()
        self._gzip = igzip.IGzipFile(filename="", fileobj=self._file, mode="wb", compresslevel=COMPRESSION, mtime=0)

    def __enter__(self) -> RecordBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gzip.close()

    def add(self, record: bytes) -> None:
        """Appends one record."""
        length = struct.pack("<Q", len(record))
        self._gzip.write(length + struct.pack("<I", _masked_crc(length)))
        self._gzip.write(record)
        self._gzip.write(struct.pack("<I", _masked_crc(record)))
        self.count += 1

    @property
    def data(self) -> bytes:
        """The file's bytes, once closed."""
        return self._file.getvalue()
