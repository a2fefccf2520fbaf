"""Ingestion against the least that reading can cost, and against the obvious loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from benchmarks.report import Result, interleaved_seconds
from pipeline.config import BeamConfig, load_config


def measure(data: Path, work: Path, repeats: int) -> Iterator[Result]:
    """Yields the two ratios.

    Args:
        data: A folder with images/ and masks/.
        work: A folder to write to.
        repeats: Timed repetitions.
    """
    pairs = scan_pairs(data)
    whole = stage(data, work / "examples")
    ours, floor = interleaved_seconds(whole, lambda: inflate_all(pairs), repeats)
    yield Result(
        "ingest / bare inflate + array",
        ours / floor,
        "x",
        2.5,
        True,
        f"{1e3 * ours / len(pairs):.0f} ms against {1e3 * floor / len(pairs):.0f} ms a volume",
    )
    few = pairs[: max(4, len(pairs) // 6)]

    def loop() -> None:
        obvious_loop(few, work / "loop.gz")

    slow, again = interleaved_seconds(loop, whole, 1)
    yield Result(
        "obvious loop / ingest",
        (slow / len(few)) / (again / len(pairs)),
        "x",
        3.0,
        False,
        f"{1e3 * slow / len(few):.0f} ms against {1e3 * again / len(pairs):.0f} ms a volume",
    )


def scan_pairs(data: Path) -> list[tuple[Path, Path]]:
    """Scan and mask of each case below `data`."""
    return [(path, data / "masks" / path.name) for path in sorted((data / "images").glob("*.nii.gz"))]


def inflate_all(pairs: list[tuple[Path, Path]]) -> None:
    """The floor that readers are measured against: `inflate` for every file, one after the other."""
    for pair in pairs:
        for path in pair:
            inflate(path)


def inflate(path: Path) -> np.ndarray:
    """The least that reading costs: inflate, and an array of the voxels."""
    header = nib.Nifti1Image.from_filename(path).header
    body = igzip.decompress(path.read_bytes())
    start = int(header["vox_offset"])
    return np.array(np.frombuffer(body, header.get_data_dtype(), offset=start))


def obvious_loop(pairs: list[tuple[Path, Path]], target: Path) -> None:
    """What one writes first: nibabel's float64 array, float32 slices, TensorFlow's GZIP writer."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(target), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for image_path, mask_path in pairs:
            image = nib.Nifti1Image.from_filename(image_path).get_fdata().astype(np.float32)
            mask = nib.Nifti1Image.from_filename(mask_path).get_fdata().astype(np.uint8)
            for index in range(image.shape[2]):
                example = tf.train.Example()
                for name, plane in (("image", image[..., index]), ("mask", mask[..., index])):
                    example.features.feature[name].bytes_list.value.append(plane.tobytes())
                writer.write(example.SerializeToString())


def stage(data: Path, target: Path, beam: BeamConfig | None = None) -> Callable[[], None]:
    """The ingestion stage's own executor, as the pipeline runs it.

    Args:
        data: A folder with images/ and masks/.
        target: Where the examples go.
        beam: How Beam runs; default: as configured.
    """
    from tfx.components.example_gen import utils
    from tfx.dsl.components.base import base_beam_executor
    from tfx.types import standard_artifacts

    from components.nifti_example_gen.component import NiftiExampleGen
    from components.nifti_example_gen.executor import Executor

    config = load_config("phe_sich")
    component = NiftiExampleGen(str(data), config=config.subset("data", "grid", "splits"), code_version="benchmark")
    properties = {key: value for key, value in component.exec_properties.items() if value is not None}
    properties[utils.FINGERPRINT_PROPERTY_NAME] = ""
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=(beam or config.beam).pipeline_args(), tmp_dir=str(target / "tmp"), unique_id="1"
    )

    def run() -> None:
        shutil.rmtree(target, ignore_errors=True)
        artifact = standard_artifacts.Examples()
        artifact.uri = str(target)
        Executor(context).Do({}, {"examples": [artifact]}, properties)

    return run
