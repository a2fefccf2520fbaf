"""From shards of slice examples to batches, in a stream: memory does not grow with the cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from components.imaging.errors import UsageError
from components.trainer.augment import augment, channel_sensitivity
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


def count_slices(shards: Sequence[str], tft_output: Any, min_lesion_cm2: float = 0.0) -> Counts:
    """Counts slices with and without lesion in one pass that looks at nothing else.

    Args:
        shards: TFRecord files.
        tft_output: The Transform output, for the schema.
        min_lesion_cm2: Slices that hold less lesion, but some, are left out.

    Raises:
        UsageError: No slice, or none with lesion.
    """
    spec = raw_spec(tft_output, LESION_FEATURES)
    slices = lesion = 0
    records = tf.data.Dataset.from_tensor_slices(list(shards)).interleave(
        read_records, cycle_length=THREADS, num_parallel_calls=THREADS, deterministic=True
    )
    for batch in records.batch(64).prefetch(1):
        parsed = tf.io.parse_example(batch, spec)
        bleeding = parsed[f.LESION_PIXELS].numpy() > 0
        large = bleeding & (parsed[f.LESION_AREA_CM2].numpy() >= min_lesion_cm2)
        slices += int((large | ~bleeding).sum())
        lesion += int(large.sum())
    if lesion == 0:
        raise UsageError(
            f"no lesion in the whole training split: found 0 of {slices} slices with lesion in {len(shards)} shards; "
            "check data.mask, data.lesion_labels, training.min_lesion_cm2 and the splits"
        )
    return Counts(slices, lesion)


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
) -> tf.data.Dataset:
    """An endless stream of training batches, epoch after epoch.

    What an epoch holds depends on the seed and the epoch's number alone, so a training that is taken up again at
    epoch n sees what it would have seen.

    Args:
        shards: TFRecord files of the training split.
        tft_output: The Transform output.
        config: The sections grid, windows and training.
        counts: Slices in the shards.
        first_epoch: Number of the epoch to begin with.
        steps: Batches of an epoch; by default `steps_per_epoch`.

    Returns:
        Pairs of float32 (batch, size, size, channels) and (batch, size, size, 1).
    """
    training = config["training"]
    steps = steps or steps_per_epoch(counts, training)
    keep = counts.kept_share(training["lesion_fraction"])
    epochs = tf.data.Dataset.counter(first_epoch)
    records = epochs.flat_map(lambda epoch: _epoch(shards, tft_output, config, keep, epoch).take(steps))
    batches = records.map(_finish(tft_output, config), num_parallel_calls=THREADS, deterministic=True)
    return batches.prefetch(PREFETCHED_BATCHES).with_options(stream_options())


def _epoch(
    shards: Sequence[str], tft_output: Any, config: Mapping[str, Any], keep: float, epoch: tf.Tensor
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
        least = training["min_lesion_cm2"]
        if keep < 1 or least:
            records = records.enumerate().filter(_balanced(tft_output, keep, least, fold(key, 1)))
            records = records.map(lambda _, record: record)
        return records.shuffle(buffer, seed=scalar(key, 2))

    batches = tf.data.Dataset.counter().flat_map(one_pass).batch(training["batch_size"], drop_remainder=True)
    draws = fold(start, -1)
    return batches.enumerate().map(lambda step, batch: (batch, fold(draws, step)))


def _balanced(tft_output: Any, keep: float, min_lesion_cm2: float, seed: tf.Tensor) -> Any:
    """A predicate that keeps slices with enough lesion and a random share of those without any."""
    spec = raw_spec(tft_output, LESION_FEATURES)

    def kept(index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_single_example(record, spec)
        bleeding = tf.reshape(parsed[f.LESION_PIXELS], []) > 0
        large = tf.reshape(parsed[f.LESION_AREA_CM2], []) >= min_lesion_cm2
        drawn = tf.random.stateless_uniform([], fold(seed, index)) < keep
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


def fold(seed: tf.Tensor, number: Any) -> tf.Tensor:
    """Another seed of shape (2,), the same for the same number."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int64))


def scalar(seed: tf.Tensor, number: int) -> tf.Tensor:
    """One int64 that depends on a seed of shape (2,); never 0, which shuffle would read as no seed."""
    return tf.random.stateless_uniform([], fold(seed, number), 1, tf.int64.max, tf.int64)


def stream_options() -> tf.data.Options:
    """Few threads of its own: the network needs the cores, and the stream is far ahead anyway."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    return options
