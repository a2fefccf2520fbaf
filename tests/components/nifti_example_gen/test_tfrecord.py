"""TFRecords written without TensorFlow, read by TensorFlow."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.nifti_example_gen.tfrecord import RecordBuffer

RECORDS = {
    "none": [],
    "empty": [b""],
    "small": [b"one", b"", b"\0\xff" * 5, b"three" * 100],
    "large": [np.random.default_rng(0).bytes(5_000_000), b"after", bytes(3_000_000)],
    "many": [str(number).encode() * (number % 7) for number in range(2000)],
}


def written(records: list[bytes]) -> bytes:
    with RecordBuffer() as buffer:
        for record in records:
            buffer.add(record)
    assert buffer.count == len(records)
    return buffer.data


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_tensorflow_reads_what_was_written(tmp_path: Path, records: list[bytes]) -> None:
    path = tmp_path / "examples.gz"
    path.write_bytes(written(records))
    assert list(tf.data.TFRecordDataset(str(path), compression_type="GZIP").as_numpy_iterator()) == records


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_the_bytes_inside_are_those_of_tensorflows_writer(tmp_path: Path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "reference")) as writer:
        for record in records:
            writer.write(record)
    assert gzip.decompress(written(records)) == (tmp_path / "reference").read_bytes()


def test_no_time_and_no_name_inside() -> None:
    data = written([b"one"])
    assert data == written([b"one"])
    assert data[3] & 0b1000 == 0  # FNAME flag
    assert data[4:8] == bytes(4)  # MTIME
