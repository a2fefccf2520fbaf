"""From shards of slice examples to batches, in a stream: memory does not grow with the cohort."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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


def count_patients(
    shards: Sequence[str], tft_output: Any, min_lesion_cm2: float = 0.0
) -> dict[str, PatientSlices]:
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


def total(patients: Mapping[str, PatientSlices], shards: int) -> Counts:
    """The slices of some patients together.

    Args:
        patients: From `count_patients`.
        shards: Number of files that they were counted in.

    Raises:
        UsageError: No slice, or none with lesion.
    """
    slices = sum(found.slices for found in patients.values())
    lesion = sum(found.lesion for found in patients.values())
    if lesion == 0:
        raise UsageError(
            f"no lesion in the whole training split: found 0 of {slices} slices with lesion in {shards} shards; "
            "check data.mask, data.lesion_labels, training.min_lesion_cm2 and the splits"
        )
    return Counts(slices, lesion)


def count_slices(shards: Sequence[str], tft_output: Any, min_lesion_cm2: float = 0.0) -> Counts:
    """The `total` of `count_patients`.

    Raises:
        UsageError: No slice, or none with lesion.
    """
    return total(count_patients(shards, tft_output, min_lesion_cm2), len(shards))


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
    steps: int | None = None,
    patients: Collection[str] | None = None,
) -> tf.data.Dataset:
    """An endless stream of training batches, epoch after epoch.

    What an epoch holds depends on the seed and the epoch's number alone, so a training that is taken up again at
    epoch n sees what it would have seen.

    Args:
        shards: TFRecord files of the training split.
        tft_output: The Transform output.
        config: The sections grid, windows and training.
        counts: Slices that may be drawn.
        first_epoch: Number of the epoch to begin with.
        steps: Batches of an epoch; by default `steps_per_epoch`.
        patients: Whose slices may be drawn; by default everyone's.

    Returns:
        Pairs of float32 (batch, size, size, channels) and (batch, size, size, 1).
    """
    training = config["training"]
    steps = steps or steps_per_epoch(counts, training)
    keep = counts.kept_share(training["lesion_fraction"])
    epochs = tf.data.Dataset.counter(first_epoch)
    kept = None if patients is None else patient_table(patients)
    records = epochs.flat_map(lambda epoch: _epoch(shards, tft_output, config, keep, kept, epoch).take(steps))
    batches = records.map(_finish(tft_output, config), num_parallel_calls=THREADS, deterministic=True)
    return batches.prefetch(PREFETCHED_BATCHES).with_options(_options())


def patient_table(patients: Collection[str]) -> tf.lookup.StaticHashTable:
    """A table in the graph that says 1.0 for these patients and 0.0 for all others."""
    ids = tf.constant(sorted(patients), tf.string)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(ids, tf.ones(tf.shape(ids))), 0.0)


def of_patients(
    records: tf.data.Dataset, tft_output: Any, patients: tf.lookup.StaticHashTable
) -> tf.data.Dataset:
    """Those of some serialised examples that are of patients in a table; of each no more than the id is read."""
    spec = raw_spec(tft_output, [f.PATIENT_ID])
    return records.filter(
        lambda record: tf.reshape(patients.lookup(tf.io.parse_single_example(record, spec)[f.PATIENT_ID]), []) > 0
    )


def _epoch(
    shards: Sequence[str],
    tft_output: Any,
    config: Mapping[str, Any],
    keep: float,
    patients: tf.lookup.StaticHashTable | None,
    epoch: tf.Tensor,
) -> tf.data.Dataset:
    """Endless batches of serialised examples, each with a seed; passes are dealt anew until enough is drawn."""
    training = config["training"]
    side = config["grid"]["size"]
    slice_bytes = side * side * (2 * (2 * config["grid"]["context_slices"] + 1) + 1)
    buffer = max(training["batch_size"], SHUFFLE_BYTES // slice_bytes)
    start = tf.stack([tf.constant(training["seed"], tf.int64), epoch])

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        key = _fold(start, number)
        files = tf.data.Dataset.from_tensor_slices(list(shards)).shuffle(len(shards), seed=_scalar(key, 0))
        records = files.interleave(
            read_records, cycle_length=INTERLEAVED_SHARDS, num_parallel_calls=THREADS, deterministic=True
        )
        if patients is not None:
            records = of_patients(records, tft_output, patients)
        least = training["min_lesion_cm2"]
        if keep < 1 or least:
            records = records.enumerate().filter(_balanced(tft_output, keep, least, _fold(key, 1)))
            records = records.map(lambda _, record: record)
        return records.shuffle(buffer, seed=_scalar(key, 2))

    batches = tf.data.Dataset.counter().flat_map(one_pass).batch(training["batch_size"], drop_remainder=True)
    draws = _fold(start, -1)
    return batches.enumerate().map(lambda step, batch: (batch, _fold(draws, step)))


def _balanced(tft_output: Any, keep: float, min_lesion_cm2: float, seed: tf.Tensor) -> Any:
    """A predicate that keeps slices with enough lesion and a random share of those without any."""
    spec = raw_spec(tft_output, LESION_FEATURES)

    def kept(index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_single_example(record, spec)
        bleeding = tf.reshape(parsed[f.LESION_PIXELS], []) > 0
        large = tf.reshape(parsed[f.LESION_AREA_CM2], []) >= min_lesion_cm2
        drawn = tf.random.stateless_uniform([], _fold(seed, index)) < keep
        return (bleeding & large) | (~bleeding & drawn)

    return kept


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


def _fold(seed: tf.Tensor, number: Any) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))


def _scalar(seed: tf.Tensor, number: int) -> tf.Tensor:
    """One int64 that depends on a seed of shape (2,); never 0, which shuffle would read as no seed."""
    return tf.random.stateless_uniform([], _fold(seed, number), 1, tf.int64.max, tf.int64)


def _options() -> tf.data.Options:
    """Few threads of its own: the network needs the cores, and the stream is far ahead anyway."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    return options
