"""From shards to a SavedModel, through a real Transform output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
import tensorflow_transform as tft
from apache_beam.testing.util import assert_that

from components.evaluator.component import eval_config
from components.evaluator.extractors import KEPT_FEATURES, WholeScans
from components.evaluator.patient_metrics import scan_values
from components.imaging.errors import UsageError
from components.imaging.metrics import dice
from components.imaging.postprocess import Postprocess, outline, own_hu, quantise, skull_for, unpack_mask
from components.trainer.checkpoint import Checkpoint
from components.trainer.data import count_patients
from components.trainer.folds import deal_folds
from components.trainer.network import build_network
from components.trainer.progress import Silent
from components.trainer.run_fn import LEAST_MINUTES, Validator, make_network, run_fn
from components.trainer.step import build_optimizer, make_predict
from components.trainer.tuning import tune
from components.transform.preprocessing import CONFIG_KEY
from schema import features as f
from serving.prediction.predictor import Predictor
from serving.versions import read_contract
from tests.cases import Sample
from tests.components.trainer.conftest import NATIVE, geometry, make_case, small_config, write_shard
from tests.models import postprocess


class Lines(Silent):
    """Collects what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def arguments(
    cohort: dict[str, list[str]],
    transform: str,
    folder: Path,
    config: dict[str, Any],
    hyperparameters: dict[str, Any] | None = None,
) -> Any:
    """What TFX hands to run_fn."""
    patterns = {split: [str(Path(shards[0]).parent / "*")] for split, shards in cohort.items()}
    return SimpleNamespace(
        train_files=patterns["train"],
        eval_files=patterns["val"],
        transform_graph_path=transform,
        serving_model_dir=str(folder / "model" / "Format-Serving"),
        model_run_dir=str(folder / "model_run"),
        hyperparameters=hyperparameters,
        custom_config={
            CONFIG_KEY: json.dumps(config),
            "work_dir": str(folder / "work"),
            "config_fingerprint": "c0ffee",
            "model_name": "ich",
        },
    )


def test_a_run_trains_exports_and_is_not_repeated(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(epochs=14)
    args = arguments(cohort, transform_output(config), tmp_path, config)
    lines = Lines()
    run_fn(args, lines)
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == list(range(1, 15))
    assert set(history["val_dice"]) == {"v0", "v1"}
    # The exported weights are the best ones, so their Dice is the best of the history.
    best = max(row["val_dice"] for row in history["epochs"])
    tuning = history["tuning"]
    assert tuning["start"]["dice"] == pytest.approx(best, abs=1e-4)
    assert best > 0.8
    # Then the post-processing is tuned, and the final figures are those of what was chosen.
    tuned = history["metrics"]["val_dice"]
    assert tuning["chosen"]["dice"] == pytest.approx(tuned, abs=1e-5)
    assert tuned >= best - 1e-4
    assert tuning["chosen"] in tuning["curve"]
    assert {row["threshold"] for row in tuning["curve"]} == {0.3, 0.4, 0.5, 0.6, 0.7}
    (line,) = [line for line in lines.lines if "tuned" in line]
    assert f"threshold {tuning['chosen']['threshold']:g}" in line
    assert f"-> {tuned:.4f}" in line
    assert list((tmp_path / "model_run").glob("events.*"))
    contract = read_contract(tmp_path / "model" / "Format-Serving")
    assert contract.config_fingerprint == "c0ffee"
    assert contract.hyperparameters == {}
    assert contract.grid_size == 32
    assert contract.metrics["val_dice"] == tuned
    assert contract.tuning == tuning
    assert contract.postprocess == history["postprocess"]
    assert contract.postprocess == {name: tuning["chosen"][name] for name in contract.postprocess}
    assert sum("epoch" in line and "slices/s" in line for line in lines.lines) == 14

    again = Lines()
    run_fn(args, again)
    assert any("already trained" in line for line in again.lines)
    assert not any("slices/s" in line for line in again.lines)


def test_what_a_search_chose_goes_before_the_configuration(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(epochs=1)
    values = {"base_filters": 4, "learning_rate": 2e-3}
    tuned = {"space": [], "values": {**values, "tuner/epochs": 3}}
    lines = Lines()
    run_fn(arguments(cohort, transform_output(config), tmp_path, config, tuned), lines)
    assert lines.lines[0] == "with the hyperparameters that the search chose: learning_rate 0.002, base_filters 4"
    contract = read_contract(tmp_path / "model" / "Format-Serving")
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert contract.hyperparameters == history["hyperparameters"] == values
    # It trained so: the first weights are the stem's, and the rate stays below the one chosen.
    (checkpoint,) = (tmp_path / "work").glob("*/state.npz")
    with np.load(checkpoint) as arrays:
        assert arrays["variable0"].shape == (4, 4, 3, 4)
    assert 0 < history["epochs"][0]["learning_rate"] < 2e-3


def test_no_lesion_in_training_is_refused_with_the_counts(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config()
    shard = write_shard(tmp_path / "Split-train" / "a.gz", make_case("n", 3, 0, np.random.default_rng(1)))
    args = arguments({"train": [shard], "val": cohort["val"]}, transform_output(config), tmp_path, config)
    with pytest.raises(UsageError, match="no lesion in the whole training split: found 0 of 3 slices"):
        run_fn(args, Silent())


def test_the_exported_model_loads_without_our_code(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    import subprocess
    import sys

    config = small_config(epochs=1)
    # Without tuning, what is configured is exported, and measured as in training.
    settings = {"tune": False, "threshold": 0.4, "min_component_ml": 0.2, "hu_range": [20.0, 90.0]}
    config["postprocess"].update(settings)
    args = arguments(cohort, transform_output(config), tmp_path, config)
    run_fn(args, Silent())
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert history["metrics"]["val_dice"] == pytest.approx(history["epochs"][0]["val_dice"], abs=1e-6)
    contract = read_contract(Path(args.serving_model_dir))
    wanted = {"threshold": 0.4, "core_threshold": 0.4, "min_component_ml": 0.2, "fill_holes": False}
    assert contract.postprocess == {**wanted, "hu_range": [20.0, 90.0], "head_only": False}
    assert contract.tuning == history["tuning"] == {}
    code = (
        "import sys\n"
        "sys.modules['keras'] = sys.modules['tf_keras'] = sys.modules['components'] = None\n"
        "import tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "out = model.signatures['predict_slices'](hu=tf.zeros([3, 1, 32, 32], tf.int16))['probability']\n"
        "assert out.shape == (3, 32, 32), out.shape\n"
        "text = model.signatures['describe'](query=tf.constant(['']))['contract'].numpy()[0].decode()\n"
        "print(text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, args.serving_model_dir], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    described = json.loads(done.stdout.strip().splitlines()[-1])
    assert described == json.loads(read_contract(Path(args.serving_model_dir)).to_json())
    assert tf.io.gfile.exists(f"{args.serving_model_dir}/assets.extra/contract.json")


class Killed(Lines):
    """Ends the process, so to say, once a line holds a text."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def say(self, line: str) -> None:
        super().say(line)
        if self.at in line:
            raise KeyboardInterrupt


def test_folds_are_trained_resumed_and_exported_as_their_mean(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(epochs=5, folds=3, seed=2)
    path = transform_output(config)
    args = arguments(cohort, path, tmp_path, config)
    killed = Killed("fold 2/3  epoch 2/5")
    with pytest.raises(KeyboardInterrupt):
        run_fn(args, killed)
    assert sum("fold 1/3  epoch" in line for line in killed.lines) == 5
    lines = Lines()
    run_fn(args, lines)
    # The finished fold is not repeated, nor the epoch of the other that was saved.
    assert any("fold 1/3  already trained for 5 epochs" in line for line in lines.lines)
    assert any("fold 2/3  resuming after epoch 1" in line for line in lines.lines)
    epochs = [line.split("  loss")[0] for line in lines.lines if "slices/s" in line]
    assert epochs == [f"fold 2/3  epoch {n}/5" for n in range(2, 6)] + [f"fold 3/3  epoch {n}/5" for n in range(1, 6)]

    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert [(row["fold"], row["epoch"]) for row in history["epochs"]] == [
        (fold, epoch) for fold in (1, 2, 3) for epoch in range(1, 6)
    ]
    folds = history["folds"]
    assert [fold["train_patients"] for fold in folds] == [4, 4, 4]
    assert [fold["val_patients"] for fold in folds] == [fold["val_cases"] for fold in folds] == [2, 2, 2]
    for number in (1, 2, 3):
        assert list((tmp_path / "model_run" / f"fold-{number}").glob("events.*"))

    # Each scan is measured once, by the network that never saw its patient: done anew from the checkpoints.
    assert set(history["val_dice"]) == {"t0", "t1", "t2", "t3", "v0", "v1"}
    output = tft.TFTransformOutput(path)
    shards = [*cohort["train"], *cohort["val"]]
    dealt = deal_folds(count_patients(shards, output), 3, "2")
    post = Postprocess.from_dict(history["postprocess"])
    (work,) = (tmp_path / "work").iterdir()
    members = []
    for number, held_out in enumerate(dealt, 1):
        network = build_network(32, 3, config["network"])
        optimizer = build_optimizer(network, config["training"])
        checkpoint = Checkpoint(str(work / f"fold-{number}"), network, optimizer)
        assert checkpoint.load() is not None
        checkpoint.restore_best()
        members.append(network)
        found = Validator(shards, output, config, network, patients=held_out)(post)
        assert set(found.dice) == set(held_out)
        assert found.dice == pytest.approx({case: history["val_dice"][case] for case in held_out}, abs=1e-6)
        assert folds[number - 1]["val_dice"] == pytest.approx(found.mean, abs=1e-6)
    weights = [network.get_weights()[0] for network in members]
    assert not np.allclose(weights[0], weights[1], atol=1e-3)

    contract = read_contract(Path(args.serving_model_dir))
    assert contract.metrics["val_dice"] == pytest.approx(np.mean(list(history["val_dice"].values())))
    assert contract.metrics["val_cases"] == 6
    assert contract.metrics["folds"] == 3
    assert contract.tuning["chosen"]["dice"] == pytest.approx(contract.metrics["val_dice"], abs=1e-5)

    # What is served is the mean of the three.
    raw = tf.io.parse_example(make_case("a", 4, 2, np.random.default_rng(5)), output.raw_feature_spec())
    image = output.transform_features_layer()(raw)[f.IMAGE_XF]
    wanted = np.mean([tf.sigmoid(network(image, training=False)).numpy() for network in members], axis=0)[..., 0]
    hu = np.stack([np.frombuffer(value.numpy(), "<i2").reshape(-1, 32, 32) for value in raw[f.IMAGE]])
    served = tf.saved_model.load(args.serving_model_dir).signatures["predict_slices"](hu=tf.constant(hu))
    np.testing.assert_allclose(served["probability"], wanted, atol=1e-5)


def test_time_is_shared_among_the_folds(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(epochs=100_000, folds=2, max_minutes=0.1, patience=100_000)
    lines = Lines()
    run_fn(arguments(cohort, transform_output(config), tmp_path, config), lines)
    first, second = json.loads((tmp_path / "model_run" / "history.json").read_text())["folds"]
    assert first["finished"] == "0.05 minutes used"
    assert first["minutes"] >= 0.05
    assert second["finished"] == f"{max(0.1 - first['minutes'], LEAST_MINUTES):g} minutes used"


def test_too_many_folds_are_refused(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(folds=7)
    with pytest.raises(UsageError, match=r"training\.folds: found 7, but 6 of the 6 patients .* to 6 or less"):
        run_fn(arguments(cohort, transform_output(config), tmp_path, config), Silent())


class HalfBlind:
    """Knows the lesion of 70 HU, but only in the left half of a slice; in the other it says 1 to 99."""

    input_shape = (None, 32, 32, 3)

    def __call__(self, image: tf.Tensor, *, training: bool) -> tf.Tensor:
        assert not training
        blood = image[..., :1] > 50 / 80
        left = tf.range(32)[tf.newaxis, tf.newaxis, :, tf.newaxis] < 16
        return tf.where(blood & left, 4.6, -4.6)


def test_a_network_is_validated_and_tuned_as_it_will_be_served(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str]
) -> None:
    """Averaged with the mirrored slices, each half of the blood is seen once: its probability is about one half."""
    config = small_config()
    output = tft.TFTransformOutput(transform_output(config))
    alone = Validator(cohort["val"], output, config, HalfBlind())
    both = Validator(cohort["val"], output, config, HalfBlind(), mirror=True)
    low = postprocess(0.4)
    assert both(low).mean > 0.85
    assert alone(low).mean < 0.8
    assert both().mean == pytest.approx(both(postprocess(0.5)).mean)
    tuned = tune(both.count(), config["postprocess"])
    assert tuned.chosen.dice == pytest.approx(both(tuned.chosen.post).mean, abs=1e-9)
    assert tuned.chosen.dice > 0.85


def test_a_network_trained_with_deep_supervision_is_exported_without_it(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(epochs=2, ema=0.5, network={"depth": 3, "deep_supervision": True})
    args = arguments(cohort, transform_output(config), tmp_path, config)
    run_fn(args, Silent())
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    best = max(row["val_dice"] for row in history["epochs"])
    assert history["tuning"]["start"]["dice"] == pytest.approx(best, abs=1e-4)
    model = tf.saved_model.load(args.serving_model_dir)
    found = model.signatures["predict_slices"](hu=tf.zeros([3, 1, 32, 32], tf.int16))
    assert {name: value.shape for name, value in found.items()} == {"probability": (3, 32, 32)}
    assert not any(weight.name.startswith("head1") for weight in model.signatures["predict_slices"].variables)
    # A sitting that begins anew finds the coarse heads in its checkpoint too, and so a training that is done.
    again = Lines()
    run_fn(args, again)
    assert any("already trained" in line for line in again.lines)


def test_a_3d_network_is_trained_validated_and_exported(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    network = {"kind": "3d", "thick_levels": 2, "deep_supervision": True, "depth": 3, "norm": "instance"}
    config = small_config(
        epochs=2, steps_per_epoch=25, batch_size=2, patch_slices=4, patch_size=16, network=network,
        lesion_fraction=0.9, learning_rate=1e-2, augment={"affine_share": 0.0},
    )  # fmt: skip
    config["inference"]["mirror"] = True
    args = arguments(cohort, transform_output(config), tmp_path, config)
    lines = Lines()
    run_fn(args, lines)
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert any("8 training patches, 8 with lesion; 25 steps of 2" in line for line in lines.lines)
    contract = read_contract(Path(args.serving_model_dir))
    assert (contract.input, contract.grid_size) == ("scan", 32)
    post = Postprocess.from_dict(contract.postprocess)
    # What is served outlines every validation scan as the trainer's own validation did: scans of 5 and of 4 slices, one
    # longer than a patch and one equal to it.
    model = tf.saved_model.load(args.serving_model_dir)
    predictor = Predictor(Path(args.serving_model_dir))
    prepared = Sample("any").scan()
    outlined = {}
    for case, records in by_case(cohort["val"]).items():
        hu = np.stack([own_hu(feature(record, f.IMAGE), 32, 0) for record in records])
        found = predictor.answer(replace(prepared, hu=hu)).probabilities
        served = model.signatures["serving_default"](examples=tf.constant(records))["probability"]
        np.testing.assert_allclose(served, found, atol=1e-5)
        mirrored = predictor.answer(replace(prepared, hu=hu[:, :, ::-1].copy())).probabilities
        np.testing.assert_allclose(mirrored, found[:, :, ::-1], atol=1e-5)
        mask = outline(quantise(found), geometry(len(records)), post, hu, skull_for(post, hu, 5.5))
        truth = np.stack([unpack_mask(feature(record, f.NATIVE_MASK), NATIVE, NATIVE) for record in records])
        outlined[case] = dice(truth, mask)
    assert outlined == pytest.approx(history["val_dice"], abs=1e-6)
    assert min(outlined.values()) > 0.3
    # And so does the gate, to which slices come in disorder.
    records = [record for case in by_case(cohort["val"]).values() for record in case]
    measured = gate_dice(args.serving_model_dir, [records[1::2], records[::2]])
    assert measured == pytest.approx(outlined, abs=1e-6)
    empty = model.signatures["predict_slices"](hu=tf.zeros([0, 1, 32, 32], tf.int16))["probability"]
    assert empty.shape == (0, 32, 32)
    single = model.signatures["predict_slices"](hu=tf.zeros([1, 1, 32, 32], tf.int16))["probability"]
    assert single.shape == (1, 32, 32)
    again = Lines()
    run_fn(args, again)
    assert any("already trained" in line for line in again.lines)


def test_folds_of_3d_networks_become_one_model_of_whole_scans(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    config = small_config(
        epochs=1, steps_per_epoch=3, batch_size=2, patch_slices=4, patch_size=16, folds=2, patient_balance=1.0,
        network={"kind": "3d", "thick_levels": 1},
    )  # fmt: skip
    config["postprocess"]["tune"] = False
    args = arguments(cohort, transform_output(config), tmp_path, config)
    lines = Lines()
    run_fn(args, lines)
    assert any("fold 2/2" in line and "training patches" in line for line in lines.lines)
    contract = read_contract(Path(args.serving_model_dir))
    assert (contract.input, contract.metrics["folds"]) == ("scan", 2)
    history = json.loads((tmp_path / "model_run" / "history.json").read_text())
    assert set(history["val_dice"]) == {"t0", "t1", "t2", "t3", "v0", "v1"}
    assert [fold["train_patients"] for fold in history["folds"]] == [3, 3]
    # What is served is the mean of both, over the windows of a whole scan.
    (work,) = (tmp_path / "work").iterdir()
    found = []
    output = tft.TFTransformOutput(args.transform_graph_path)
    raw = tf.io.parse_example(by_case(cohort["val"])["v0"], output.raw_feature_spec())
    image = output.transform_features_layer()(raw)[f.IMAGE_XF]
    for number in (1, 2):
        network = make_network(config, "float32")
        checkpoint = Checkpoint(str(work / f"fold-{number}"), network, build_optimizer(network, config["training"]))
        assert checkpoint.load() is not None
        checkpoint.restore_best()
        found.append(make_predict(network, overlap=config["inference"]["overlap"])(image).numpy()[..., 0])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    hu = np.stack([np.frombuffer(value.numpy(), "<i2").reshape(-1, 32, 32) for value in raw[f.IMAGE]])
    served = tf.saved_model.load(args.serving_model_dir).signatures["predict_slices"](hu=tf.constant(hu))
    np.testing.assert_allclose(served["probability"], np.mean(found, axis=0), atol=1e-5)


def test_half_precision_without_a_gpu_is_refused_for_volumes(
    cohort: dict[str, list[str]], transform_output: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    config = small_config(network={"kind": "3d"}, patch_slices=4, precision="mixed_float16")
    args = arguments(cohort, transform_output(config), tmp_path, config)
    with pytest.raises(UsageError, match=r"training\.precision: found mixed_float16, .* set float32"):
        run_fn(args, Silent())


def gate_dice(model: str, batches: list[list[bytes]]) -> dict[str, float]:
    """Dice by patient as the gate measures it, of a model of whole scans."""
    config = eval_config("1")
    del config.model_specs[1]
    shared = tfma.default_eval_shared_model(eval_saved_model_path=model, eval_config=config)
    with beam.Pipeline(runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner") as pipeline:
        extracts = pipeline | beam.Create([batch_of(records) for records in batches])
        scans = extracts | WholeScans({"": shared}, {"": read_contract(Path(model))}, config)
        assert_that(scans, keep)
    measured = [scan_values(scan["features"], scan["predictions"]) for scan in OUTCOMES.pop()]
    return {scan["patient"]: scan["values"][0] for scan in measured}


def batch_of(records: list[bytes]) -> dict[str, Any]:
    """Slices as TFMA hands them over."""
    features = {}
    for name in KEPT_FEATURES:
        rows = [tf.train.Example.FromString(record).features.feature[name] for record in records]
        kind = rows[0].WhichOneof("kind")
        values = [list(getattr(row, kind).value) for row in rows]
        features[name] = np.array(values, dtype=object if kind == "bytes_list" else None)
    return {"features": features, "input": np.array(records, dtype=object)}


OUTCOMES: list[Any] = []
"""What a Beam pipeline made; it runs in this process, but copies what its functions close over."""


def keep(outcome: list[Any]) -> None:
    """Takes what a Beam pipeline made."""
    OUTCOMES.append(outcome)


def feature(record: bytes, name: str) -> bytes:
    """A bytes feature of an example."""
    return bytes(tf.train.Example.FromString(record).features.feature[name].bytes_list.value[0])


def by_case(shards: list[str]) -> dict[str, list[bytes]]:
    """The records of each case, in order."""
    found: dict[str, list[bytes]] = {}
    for record in tf.data.TFRecordDataset(shards, compression_type="GZIP").as_numpy_iterator():
        found.setdefault(feature(record, f.CASE_ID).decode(), []).append(record)
    return found
