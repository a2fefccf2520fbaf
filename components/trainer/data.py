"""From shards of slice examples to batches, in a stream: memory does not grow with the cohort."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from components.imaging.errors import UsageError
from components.trainer.augment import augment, channel_sensitivity
from components.trainer.folds import PatientSlices
from schema import features as f

SHUFFLE_BYTES = 64 * 1024 * 1024
"""What the shuffle buffer may hold; shards are shuffled and interleaved before it."""

INTERLEAVED_SHARDS = 8
READ_BUFFER_BYTES = 1024 * 1024
THREADS = 2
PREFETCHED_BATCHES = 4
LESION_FEATURES = (f.LESION_PIXELS, f.LESION_AREA_CM2)
TRAIN_FEATURES = (f.IMAGE, f.MASK, f.BRAIN_HU_MEAN, f.BRAIN_HU_SD)


@dataclass(frozen=True)
class Counts:
    """Slices of a split.

    Attributes:
        slices: All that training may draw.
        lesion: Those of them with lesion.
    """

    slices: int
    lesion: int

    def kept_share(self, lesion_fraction: float) -> float:
        """The share of slices without lesion to draw so that `lesion_fraction` of what is drawn has lesion."""
        empty = self.slices - self.lesion
        if lesion_fraction == 0 or empty == 0:
            return 1.0
        return min(1.0, self.lesion * (1 - lesion_fraction) / lesion_fraction / empty)

    def drawn(self, lesion_fraction: float) -> float:
        """Slices that one balanced pass draws, on average."""
        return self.lesion + (self.slices - self.lesion) * self.kept_share(lesion_fraction)


def raw_spec(tft_output: Any, names: Sequence[str]) -> dict[str, Any]:
    """Parsing specification of some raw features, as the schema declares them."""
    spec = tft_output.raw_feature_spec()
    return {name: spec[name] for name in names}


def list_shards(patterns: Sequence[str]) -> list[str]:
    """The files that patterns match, sorted; files of the same name in several folders stay in the given order."""
    return [path for pattern in patterns for path in sorted(tf.io.gfile.glob(pattern))]


def read_records(shards: Sequence[str] | tf.Tensor) -> tf.data.Dataset:
    """Serialised examples of GZIP TFRecord files, one file after another."""
    return tf.data.TFRecordDataset(shards, compression_type="GZIP", buffer_size=READ_BUFFER_BYTES)


def count_patients(shards: Sequence[str], tft_output: Any, min_lesion_cm2: float = 0.0) -> dict[str, PatientSlices]:
    """Counts each patient's slices in one pass that looks at nothing but a few scalars.

    Args:
        shards: TFRecord files.
        tft_output: The Transform output, for the schema.
        min_lesion_cm2: Slices that hold less lesion, but some, are left out.

    Returns:
        The counts by patient id.
    """
    spec = raw_spec(tft_output, (*LESION_FEATURES, f.PATIENT_ID, f.LESION_VOLUME_ML))
    found: dict[str, PatientSlices] = {}
    records = tf.data.Dataset.from_tensor_slices(list(shards)).interleave(
        read_records, cycle_length=THREADS, num_parallel_calls=THREADS, deterministic=True
    )
    for batch in records.batch(64).prefetch(1):
        parsed = {name: tensor.numpy().reshape(-1) for name, tensor in tf.io.parse_example(batch, spec).items()}
        bleeding = parsed[f.LESION_PIXELS] > 0
        large = bleeding & (parsed[f.LESION_AREA_CM2] >= min_lesion_cm2)
        for index, patient in enumerate(parsed[f.PATIENT_ID]):
            before = found.get(patient.decode(), PatientSlices(0, 0, 0.0))
            found[patient.decode()] = PatientSlices(
                before.slices + int(large[index] or not bleeding[index]),
                before.lesion + int(large[index]),
                max(before.volume_ml, float(parsed[f.LESION_VOLUME_ML][index])),
            )
    return found


def total(patients: Mapping[str, PatientSlices], shards: int, unit: str = "slices") -> Counts:
    """The slices of some patients together.

    Args:
        patients: From `count_patients`, or `volumes.count_patches`.
        shards: Number of files that they were counted in.
        unit: What was counted: `slices` or `patches`.

    Raises:
        UsageError: No slice, or none with lesion.
    """
    slices = sum(found.slices for found in patients.values())
    lesion = sum(found.lesion for found in patients.values())
    if lesion == 0:
        raise UsageError(
            f"no lesion in the whole training split: found 0 of {slices} {unit} with lesion in {shards} shards; "
            "check data.mask, data.lesion_labels, training.min_lesion_cm2 and the splits"
        )
    return Counts(slices, lesion)


def count_slices(shards: Sequence[str], tft_output: Any, min_lesion_cm2: float = 0.0) -> Counts:
    """The `total` of `count_patients`.

    Raises:
        UsageError: No slice, or none with lesion.
    """
    return total(count_patients(shards, tft_output, min_lesion_cm2), len(shards))


def lesion_draws(
    patients: Mapping[str, PatientSlices], balance: float, shares: Mapping[str, float] | None = None
) -> dict[str, float]:
    """How often a pass draws each slice with lesion of a patient, on average.

    In proportion to one over the number of the patient's slices with lesion to the power of `balance`, and so that a
    pass draws as many slices with lesion as there are. With `shares`, that holds within each source.

    Args:
        patients: From `count_patients`, of whom some have lesion.
        balance: 0 draws every slice equally often, 1 as many of one patient as of another.
        shares: By the name of a source, which stands before its patients' ids, the share of all slices with lesion
            that are drawn from it, above 0; what they add up to does not matter, and a source without lesion gets none.

    Raises:
        UsageError: A patient is of no source in `shares`.
    """
    weights = {patient: max(found.lesion, 1) ** -balance for patient, found in patients.items()}
    by_source = _by_source(patients, shares or {})
    drawn = {
        source: sum(patients[patient].lesion * weights[patient] for patient in members)
        for source, members in by_source.items()
    }
    wanted = {source: (shares or {"": 1.0})[source] for source, weight in drawn.items() if weight}
    scale = sum(found.lesion for found in patients.values()) / sum(wanted.values())
    return {
        patient: weights[patient] * scale * (wanted[source] / drawn[source] if drawn[source] else 0.0)
        for source, members in by_source.items()
        for patient in members
    }


def _by_source(patients: Collection[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """The patients of each source in `shares`; without shares all are of one source without a name."""
    if not shares:
        return {"": list(patients)}
    found: dict[str, list[str]] = {}
    for patient in patients:
        source = next((name for name in shares if patient.startswith(f"{name}_")), None)
        if source is None:
            raise UsageError(
                f"training.source_shares: names {', '.join(shares)}, but patient {patient} is of another source; "
                "name every key of data.sources"
            )
        found.setdefault(source, []).append(patient)
    return found


def steps_per_epoch(counts: Counts, training: Mapping[str, Any]) -> int:
    """Steps of one epoch: as configured, or one pass over the balanced slices."""
    configured = training["steps_per_epoch"]
    return int(configured or math.ceil(counts.drawn(training["lesion_fraction"]) / training["batch_size"]))


def train_dataset(
    shards: Sequence[str],
    tft_output: Any,
    config: Mapping[str, Any],
    counts: Counts,
    *,
    first_epoch: int = 0,
    first_step: int = 0,
    steps: int | None = None,
    draws: Mapping[str, float] | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, epoch after epoch.

    What a batch holds depends on the seed and the numbers of epoch and step alone, so a training that is taken up
    again at epoch n and step m sees what it would have seen. To get to step m, slices are read but not decoded.

    Args:
        shards: TFRecord files of the training split.
        tft_output: The Transform output.
        config: The sections grid, windows and training.
        counts: Slices that may be drawn.
        first_epoch: Number of the epoch to begin with, from 0.
        first_step: Batches of that epoch to pass over.
        steps: Batches of an epoch; by default `steps_per_epoch`.
        draws: By patient, how often a pass draws each slice with lesion, on average, as `lesion_draws` has it;
            patients who are not in it are left out. By default each slice of everyone once.

    Returns:
        Pairs of float32 (batch, size, size, channels) and (batch, size, size, 1).
    """
    training = config["training"]
    steps = steps or steps_per_epoch(counts, training)
    keep = counts.kept_share(training["lesion_fraction"])
    return endless(
        lambda number: _epoch(shards, tft_output, config, keep, draws, number).take(steps),
        _finish(tft_output, config),
        first=(first_epoch, first_step),
        prefetched=PREFETCHED_BATCHES,
    )


def endless(
    epoch: Callable[[tf.Tensor], tf.data.Dataset],
    finish: Callable[..., Any],
    *,
    first: tuple[int, int],
    prefetched: int,
) -> tf.data.Dataset:
    """Epoch after epoch, from a step within one on; what comes before it is read and not finished.

    Args:
        epoch: From an epoch's number to its batches as they are stored.
        finish: Decodes and changes a batch.
        first: Numbers of the epoch and the step to begin with.
        prefetched: Batches held ready.
    """

    def rest_of(number: tf.Tensor) -> tf.data.Dataset:
        return epoch(number).skip(tf.where(number == first[0], tf.cast(first[1], tf.int64), 0))

    batches = tf.data.Dataset.counter(first[0]).flat_map(rest_of)
    finished = batches.map(finish, num_parallel_calls=THREADS, deterministic=True)
    return finished.prefetch(prefetched).with_options(_stream_options())


def of_patients(records: tf.data.Dataset, tft_output: Any, patients: Collection[str]) -> tf.data.Dataset:
    """Those of some serialised examples that are of these patients; of each no more than the id is read."""
    value_of = by_patient(tft_output, dict.fromkeys(patients, 1.0))
    return records.filter(lambda record: value_of(record) > 0)


def by_patient(tft_output: Any, values: Mapping[str, float]) -> Callable[[tf.Tensor], tf.Tensor]:
    """From a serialised example to its patient's value, a float32 scalar; 0 for any other patient.

    The id is compared with every patient's: for a thousand that takes far less than to read a slice, and needs no
    table, whose resource would have to outlive the stream.
    """
    spec = raw_spec(tft_output, [f.PATIENT_ID])
    ids = tf.constant(sorted(values), tf.string)
    numbers = tf.constant([values[patient] for patient in sorted(values)], tf.float32)

    def value(record: tf.Tensor) -> tf.Tensor:
        patient = tf.reshape(tf.io.parse_single_example(record, spec)[f.PATIENT_ID], [])
        return tf.reduce_sum(tf.where(ids == patient, numbers, 0.0))

    return value


def _epoch(
    shards: Sequence[str],
    tft_output: Any,
    config: Mapping[str, Any],
    keep: float,
    draws: Mapping[str, float] | None,
    epoch: tf.Tensor,
) -> tf.data.Dataset:
    """Endless batches of serialised examples, each with a seed; passes are dealt anew until enough is drawn."""
    training = config["training"]
    side = config["grid"]["size"]
    slice_bytes = side * side * (2 * (2 * config["grid"]["context_slices"] + 1) + 1)
    buffer = max(training["batch_size"], SHUFFLE_BYTES // slice_bytes)
    start = tf.stack([tf.constant(training["seed"], tf.int64), epoch])

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        key = fold(start, number)
        files = tf.data.Dataset.from_tensor_slices(list(shards)).shuffle(len(shards), seed=scalar(key, 0))
        records = files.interleave(
            read_records, cycle_length=INTERLEAVED_SHARDS, num_parallel_calls=THREADS, deterministic=True
        )
        if draws is not None:
            records = of_patients(records, tft_output, draws)
        least = training["min_lesion_cm2"]
        if draws is not None and set(draws.values()) != {1.0}:
            copies = _copies(tft_output, keep, least, by_patient(tft_output, draws), fold(key, 1))
            records = records.enumerate().flat_map(
                lambda index, record: tf.data.Dataset.from_tensors(record).repeat(copies(index, record))
            )
        elif keep < 1 or least:
            copies = _copies(tft_output, keep, least, lambda record: tf.constant(1.0), fold(key, 1))
            records = records.enumerate().filter(lambda index, record: copies(index, record) > 0)
            records = records.map(lambda _, record: record)
        return records.shuffle(buffer, seed=scalar(key, 2))

    batches = tf.data.Dataset.counter().flat_map(one_pass).batch(training["batch_size"], drop_remainder=True)
    draws = fold(start, -1)
    return batches.enumerate().map(lambda step, batch: (batch, fold(draws, step)))


def _copies(
    tft_output: Any, keep: float, min_lesion_cm2: float, draws: Callable[[tf.Tensor], tf.Tensor], seed: tf.Tensor
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """How often a pass draws a slice: the wanted mean, rounded up or down at random.

    The mean is that of `draws` for slices with enough lesion, 0 for those with less, `keep` for those without any.
    """
    spec = raw_spec(tft_output, LESION_FEATURES)

    def copies(index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_single_example(record, spec)
        bleeding = tf.reshape(parsed[f.LESION_PIXELS], []) > 0
        large = tf.reshape(parsed[f.LESION_AREA_CM2], []) >= min_lesion_cm2
        mean = tf.where(bleeding, tf.where(large, draws(record), 0.0), keep)
        least = tf.floor(mean)
        more = tf.random.stateless_uniform([], fold(seed, index)) < mean - least
        return tf.cast(least, tf.int64) + tf.cast(more, tf.int64)

    return copies


def _finish(tft_output: Any, config: Mapping[str, Any]) -> Any:
    """Parses a batch, applies the transform graph, augments."""
    spec = raw_spec(tft_output, TRAIN_FEATURES)
    layer = tft_output.transform_features_layer()
    slices = 2 * config["grid"]["context_slices"] + 1
    sensitivity = channel_sensitivity(config["windows"], slices)
    side, channels = config["grid"]["size"], slices * len(config["windows"])

    def finish(records: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        transformed = layer(tf.io.parse_example(records, spec))
        image = tf.ensure_shape(transformed[f.IMAGE_XF], [None, side, side, channels])
        mask = tf.ensure_shape(transformed[f.MASK_XF], [None, side, side, 1])
        return augment(image, mask, seed, config["training"]["augment"], sensitivity)

    return finish


def fold(seed: tf.Tensor, number: Any) -> tf.Tensor:
    """Another seed of shape (2,), the same for the same number."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))


def scalar(seed: tf.Tensor, number: int) -> tf.Tensor:
    """One int64 that depends on a seed of shape (2,); never 0, which shuffle would read as no seed."""
    return tf.random.stateless_uniform([], fold(seed, number), 1, tf.int64.max, tf.int64)


def _stream_options() -> tf.data.Options:
    """Few threads of its own: the network needs the cores, and the stream is far ahead anyway."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    return options
