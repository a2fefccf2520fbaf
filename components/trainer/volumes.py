"""From shards of slice examples to batches of patches for a 3D network, in a stream.

A shard holds the slices of a scan one after another, so scans are put together again as they are read, one at a time
for each shard that is open. Patches are cut, shuffled and batched as the stored examples; only a batch is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from components.trainer.augment import augment_volumes, channel_sensitivity
from components.trainer.data import (
    SHUFFLE_BYTES,
    THREADS,
    TRAIN_FEATURES,
    Counts,
    by_patient,
    endless,
    fold,
    of_patients,
    raw_spec,
    read_records,
    scalar,
    steps_per_epoch,
)
from components.trainer.folds import PatientSlices
from components.trainer.sliding_window import centred_padding
from schema import features as f

INTERLEAVED_SHARDS = 4
"""Fewer than for slices: a whole scan of each is held."""

PREFETCHED_BATCHES = 2
SCAN_FEATURES = (f.CASE_ID, f.SLICE_INDEX, f.SLICE_COUNT, f.LESION_PIXELS)

MAX_SLICES = 2**20
"""More slices than any scan has."""


class Patch(NamedTuple):
    """Neighbouring slices of a scan, before decoding.

    Attributes:
        records: Serialised examples, string of shape (slices,); empty where the scan ends.
        lesion: Position of the slice with lesion that the patch was drawn for; -1 where it was drawn anywhere.
    """

    records: tf.Tensor
    lesion: tf.Tensor


def count_patches(shards: Sequence[str], tft_output: Any, slices: int) -> dict[str, PatientSlices]:
    """Counts the patches that one pass draws of each patient: of each scan as many as cover its slices.

    Args:
        shards: TFRecord files.
        tft_output: The Transform output, for the schema.
        slices: Slices of a patch.

    Returns:
        By patient id all patches, and those of scans with lesion; `data.total` adds them up.
    """
    spec = raw_spec(tft_output, (*SCAN_FEATURES, f.PATIENT_ID, f.LESION_VOLUME_ML))
    # Some numbers a scan; its slices need not come together here.
    scans: dict[bytes, tuple[bytes, int, float]] = {}
    bleeding: set[bytes] = set()
    records = tf.data.Dataset.from_tensor_slices(list(shards)).interleave(
        read_records, cycle_length=THREADS, num_parallel_calls=THREADS, deterministic=True
    )
    for batch in records.batch(64).prefetch(1):
        parsed = {name: values.numpy().ravel() for name, values in tf.io.parse_example(batch, spec).items()}
        about = (parsed[name].tolist() for name in (f.PATIENT_ID, f.SLICE_COUNT, f.LESION_VOLUME_ML))
        scans |= zip(parsed[f.CASE_ID], zip(*about, strict=True), strict=True)
        bleeding |= set(parsed[f.CASE_ID][parsed[f.LESION_PIXELS] > 0])
    found: dict[str, PatientSlices] = {}
    for case, (patient, count, volume_ml) in scans.items():
        before = found.get(patient.decode(), PatientSlices(0, 0, 0.0))
        patches = -(-count // slices)
        found[patient.decode()] = PatientSlices(
            before.slices + patches,
            before.lesion + (patches if case in bleeding else 0),
            max(before.volume_ml, volume_ml),
        )
    return found


def patch_dataset(
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
    """An endless stream of training batches, epoch after epoch, each of which hangs on seed and number alone.

    To get to a step within an epoch, scans are read but not decoded.

    A pass draws of each scan as many patches as cover its slices. A share `lesion_fraction` of them is centred on
    lesion (as in nnU-Net: Isensee et al., Nature Methods 2021): on a slice that shows some, each of a scan's as likely
    as the other, and in-plane on a pixel of it, as far as the patch stays within the scan. The others lie anywhere.
    Where scans with lesion are too few for that share, scans without are drawn less often. Around a scan of fewer
    slices than a patch there is air.

    Args:
        shards: TFRecord files of the training split, each scan whole and in order in one of them.
        tft_output: The Transform output.
        config: The sections grid, windows and training.
        counts: The `total` of `count_patches`.
        first_epoch: Number of the epoch to begin with.
        first_step: Batches of that epoch to pass over.
        steps: Batches of an epoch; by default `steps_per_epoch`.
        draws: By patient, how often a pass draws each patch of a scan with lesion, on average, as `data.lesion_draws`
            has it; patients who are not in it are left out. By default each patch of everyone once.

    Returns:
        Pairs of float32 (batch, slices, size, size, channels) and (batch, slices, size, size, 1).
    """
    steps = steps or steps_per_epoch(counts, config["training"])
    return endless(
        lambda number: _epoch(shards, tft_output, config, counts, draws, number).take(steps),
        _finish(tft_output, config),
        first=(first_epoch, first_step),
        prefetched=PREFETCHED_BATCHES,
    )


def _epoch(
    shards: Sequence[str],
    tft_output: Any,
    config: Mapping[str, Any],
    counts: Counts,
    draws: Mapping[str, float] | None,
    epoch: tf.Tensor,
) -> tf.data.Dataset:
    """Endless batches of patches, each with a seed; passes are dealt anew until enough is drawn."""
    training = config["training"]
    fraction = training["lesion_fraction"]
    keep = counts.kept_share(fraction)
    # Of the patches of scans with lesion, so many are centred on it that they make up the share of all.
    centred = min(1.0, fraction * counts.drawn(fraction) / counts.lesion)
    patch_bytes = training["patch_slices"] * config["grid"]["size"] ** 2 * 3
    buffer = max(training["batch_size"], SHUFFLE_BYTES // patch_bytes)
    start = tf.stack([tf.constant(training["seed"], tf.int64), epoch])
    spec = raw_spec(tft_output, SCAN_FEATURES)
    often = None if draws is None else by_patient(tft_output, draws)

    def records_of(path: tf.Tensor) -> tf.data.Dataset:
        records = read_records(path)
        return records if draws is None else of_patients(records, tft_output, draws)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        key = fold(start, number)
        files = tf.data.Dataset.from_tensor_slices(list(shards)).shuffle(len(shards), seed=scalar(key, 0))
        scans = files.interleave(
            lambda path: _scans(records_of(path), spec), cycle_length=min(INTERLEAVED_SHARDS, len(shards))
        )
        patches = scans.enumerate().flat_map(
            lambda index, records: _patches(
                records, spec, training["patch_slices"], keep, centred, often, fold(key, index)
            )
        )
        return patches.shuffle(buffer, seed=scalar(key, 2))

    batches = tf.data.Dataset.counter().flat_map(one_pass).batch(training["batch_size"], drop_remainder=True)
    seeds = fold(start, -1)
    return batches.enumerate().map(lambda step, batch: (batch, fold(seeds, step)))


def _scans(records: tf.data.Dataset, spec: Mapping[str, Any]) -> tf.data.Dataset:
    """The scans of some slices, each as serialised examples of shape (slices,), let go of as soon as it is whole."""

    def scan_of(record: tf.Tensor) -> tf.Tensor:
        parsed = tf.io.parse_single_example(record, spec)
        case = tf.strings.to_hash_bucket_fast(tf.reshape(parsed[f.CASE_ID], []), 2**42)
        # The number of slices goes along, since the size of a group is asked for by its key.
        return case * MAX_SLICES + tf.reshape(parsed[f.SLICE_COUNT], [])

    return records.group_by_window(
        scan_of, lambda key, group: group.batch(key % MAX_SLICES), window_size_func=lambda key: key % MAX_SLICES
    )


def _patches(
    records: tf.Tensor,
    spec: Mapping[str, Any],
    slices: int,
    keep: float,
    centred: float,
    often: Callable[[tf.Tensor], tf.Tensor] | None,
    seed: tf.Tensor,
) -> tf.data.Dataset:
    """The patches that one pass draws of a scan.

    Args:
        records: Its serialised examples, of shape (count,).
        spec: To parse them.
        slices: Slices of a patch.
        keep: How likely a scan without lesion is drawn at all.
        centred: Share of the patches that are centred on lesion, where there is some.
        often: From an example to how often its patches are drawn, on average, where the scan has lesion; None: once.
        seed: Of shape (2,).
    """
    parsed = tf.io.parse_example(records, spec)
    count = tf.shape(records)[0]
    indices = tf.cast(tf.reshape(parsed[f.SLICE_INDEX], [-1]), tf.int32)
    case = tf.reshape(parsed[f.CASE_ID], [-1])[0]
    whole = tf.cast(tf.reshape(parsed[f.SLICE_COUNT], [-1])[0], tf.int32) == count
    whole &= tf.reduce_all(indices == tf.range(count))
    message = tf.strings.join(["case ", case, ": its slices are not all there and in order; ingest it anew"])
    with tf.control_dependencies([tf.Assert(whole, [message])]):
        lesion = tf.cast(tf.where(tf.reshape(parsed[f.LESION_PIXELS], [-1]) > 0)[:, 0], tf.int32)
    bleeding = tf.shape(lesion)[0] > 0
    number = -(-count // slices)
    if often is not None:
        mean = tf.cast(number, tf.float32) * tf.where(bleeding, often(records[0]), 1.0)
        more = tf.random.stateless_uniform([], fold(seed, 0)) < mean - tf.floor(mean)
        number = tf.cast(tf.floor(mean), tf.int32) + tf.cast(more, tf.int32)
    drawn = tf.random.stateless_uniform([4, tf.maximum(number, 1)], seed)
    on_lesion = (drawn[0] < centred) & bleeding
    which = tf.cast(drawn[1] * tf.cast(tf.shape(lesion)[0], tf.float32), tf.int32)
    slice_of = tf.gather(tf.concat([lesion, [0]], 0), which)
    room = tf.maximum(count - slices, 0)
    anywhere = tf.cast(drawn[2] * tf.cast(room + 1, tf.float32), tf.int32)
    starts = tf.where(on_lesion, tf.clip_by_value(slice_of - slices // 2, 0, room), anywhere)
    before, missing = (value[0] for value in centred_padding(count[tf.newaxis], [slices]))
    padded = tf.concat([tf.fill([before], ""), records, tf.fill([missing - before], "")], 0)
    found = tf.gather(padded, starts[:, tf.newaxis] + tf.range(slices))
    patches = Patch(found, tf.where(on_lesion, slice_of - starts + before, -1))
    kept = bleeding | (drawn[3, 0] < keep)
    return tf.data.Dataset.from_tensor_slices(patches).take(tf.where(kept, tf.cast(number, tf.int64), 0))


def _finish(tft_output: Any, config: Mapping[str, Any]) -> Any:
    """Parses a batch, cuts it in-plane, applies the transform graph, augments."""
    training = config["training"]
    spec = raw_spec(tft_output, TRAIN_FEATURES)
    layer = tft_output.transform_features_layer()
    side, slices = config["grid"]["size"], training["patch_slices"]
    size, channels = training["patch_size"] or side, len(config["windows"])
    sensitivity = channel_sensitivity(config["windows"], 1)

    def finish(patches: Patch, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, mask = _decode(tf.reshape(patches.records, [-1]), spec, layer, side, channels)
        image = tf.reshape(image, [-1, slices, side, side, channels])
        mask = tf.reshape(mask, [-1, slices, side, side, 1])
        if size < side:
            corners = _corners(mask, patches.lesion, size, fold(seed, -1))
            image, mask = _cut(image, corners, size), _cut(mask, corners, size)
        return augment_volumes(image, mask, seed, training["augment"], sensitivity)

    return finish


def _decode(
    records: tf.Tensor, spec: Mapping[str, Any], layer: Any, side: int, channels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image and mask of slices, of which empty ones are air."""
    rows = tf.where(records != "")
    transformed = layer(tf.io.parse_example(tf.gather_nd(records, rows), spec))
    count = tf.shape(records, out_type=tf.int64)

    def spread(values: tf.Tensor, width: int) -> tf.Tensor:
        values = tf.ensure_shape(values, [None, side, side, width])
        return tf.scatter_nd(rows, values, tf.concat([count, [side, side, width]], 0))

    return spread(transformed[f.IMAGE_XF], channels), spread(transformed[f.MASK_XF], 1)


def _corners(mask: tf.Tensor, lesion: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Where patches of `size` pixels a side begin: around a pixel of lesion, or anywhere.

    Args:
        mask: float32 of shape (n, slices, side, side, 1).
        lesion: As in `Patch`, of shape (n,).
        size: Pixels a side.
        seed: Of shape (2,).

    Returns:
        int32 of shape (n, 2): rows and columns.
    """
    count, side = tf.shape(mask)[0], mask.shape[2]
    drawn = tf.random.stateless_uniform([count, 2], fold(seed, 0))
    anywhere = tf.cast(drawn * (side - size + 1), tf.int32)
    planes = tf.gather(mask[..., 0], tf.maximum(lesion, 0), batch_dims=1)
    # The largest of random numbers, one for each pixel of lesion.
    lots = tf.random.stateless_uniform([count, side * side], fold(seed, 1), 0.5, 1.0)
    pixel = tf.argmax(tf.where(tf.reshape(planes, [count, side * side]) > 0, lots, 0.0), 1, tf.int32)
    around = tf.clip_by_value(tf.stack([pixel // side, pixel % side], 1) - size // 2, 0, side - size)
    return tf.where(lesion[:, tf.newaxis] >= 0, around, anywhere)


def _cut(volumes: tf.Tensor, corners: tf.Tensor, size: int) -> tf.Tensor:
    """Squares of each volume; `corners` of shape (n, 2) says where they begin."""
    line = tf.range(size)
    rows, columns = (tf.expand_dims(corners[:, axis], 1) + line for axis in (0, 1))
    volumes = tf.gather(tf.transpose(volumes, [0, 2, 1, 3, 4]), rows, batch_dims=1)
    volumes = tf.gather(tf.transpose(volumes, [0, 3, 2, 1, 4]), columns, batch_dims=1)
    return tf.transpose(volumes, [0, 2, 3, 1, 4])
