"""What TFX's Trainer calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.errors import IchError, UsageError
from components.imaging.postprocess import Postprocess
from components.trainer.data import count_slices, list_shards, steps_per_epoch, train_dataset
from components.trainer.export import export_model
from components.trainer.fingerprint import data_origin, package_versions, run_key
from components.trainer.fit import TENSORBOARD, Task, fit
from components.trainer.network import build_network, inference_network
from components.trainer.progress import Progress, Terminal
from components.trainer.step import looks_at_scans, make_predict
from components.trainer.tuning import Tuning, needs_hu
from components.trainer.validation import Validation, tune_postprocess, validate, validation_dataset
from components.trainer.volumes import count_patches, patch_dataset
from components.transform.preprocessing import CONFIG_KEY
from serving.contract import Contract

HISTORY_FILE = "history.json"


def run_fn(fn_args: Any, progress: Progress | None = None) -> None:
    """Trains, tunes the post-processing, validates and exports.

    Post-processing is tuned on the validation split and with the exported network; the final figures, of that split
    too, are those of the tuned settings.

    Args:
        fn_args: TFX's FnArgs. `custom_config` holds the sections grid, windows, normalisation, network, training,
            postprocess and output as JSON under `CONFIG_KEY`, and `work_dir`, where checkpoints and TensorBoard logs
            live; optionally `config_fingerprint`, `model_name` and `code_version`.
        progress: Where to report; the user's terminal by default.

    Raises:
        UsageError: No lesion in the training split, or a precision that this machine does not have.
        IchError: A split has no shards, or training diverged.
    """
    custom = fn_args.custom_config
    config = json.loads(custom[CONFIG_KEY])
    progress = progress or Terminal()
    tft_output = tft.TFTransformOutput(fn_args.transform_graph_path or fn_args.transform_output)
    train, val = _shards(fn_args.train_files, "training"), _shards(fn_args.eval_files, "validation")
    origin = data_origin(train)
    key = run_key(config, origin.fingerprint, custom.get("code_version", ""))
    folder = f"{custom['work_dir'].rstrip('/')}/{key}"
    _prepare_devices(config["training"], volumes=config["network"]["kind"] == "3d")

    volumes = config["network"]["kind"] == "3d"
    if volumes:
        counts = count_patches(train, tft_output, config["training"]["patch_slices"])
    else:
        counts = count_slices(train, tft_output, config["training"]["min_lesion_cm2"])
    batches, drawn = (patch_dataset, "patches") if volumes else (train_dataset, "slices")
    steps = steps_per_epoch(counts, config["training"])
    network = _network(config, config["training"]["precision"])
    served = inference_network(network)
    progress.say(
        f"{counts.slices} training {drawn}, {counts.lesion} with lesion; {steps} steps of "
        f"{config['training']['batch_size']} an epoch; {served.count_params() / 1e6:.2f} million parameters"
    )
    validator = Validator(val, tft_output, config, served)
    task = Task(
        network,
        lambda epoch: batches(train, tft_output, config, counts, first_epoch=epoch, steps=steps),
        steps,
        validator,
        config["training"],
        folder,
    )
    state = fit(task, progress)

    exported = served
    if config["training"]["precision"] != "float32":
        exported = inference_network(_network(config, "float32"))
        exported.set_weights(served.get_weights())
    validator = Validator(val, tft_output, config, exported, mirror=config["inference"]["mirror"])
    post, tuning = Postprocess.from_dict(config["postprocess"]), {}
    if config["postprocess"]["tune"]:
        tuned = validator.tune()
        progress.say(tuned.summary())
        post, tuning = tuned.chosen.post, tuned.to_dict()
    final = validator(post)
    metrics: dict[str, float | None] = {
        "val_dice": final.mean,
        "val_dice_sd": final.sd,
        "val_cases": float(len(final.dice)),
        "epochs": float(state.epochs),
        "best_epoch": float(state.best_epoch),
        "minutes": round(state.minutes, 2),
    }
    contract = Contract(
        model_name=custom.get("model_name", config["output"]["model_name"]),
        grid_size=config["grid"]["size"],
        grid_spacing_mm=config["grid"]["spacing_mm"],
        context_slices=config["grid"]["context_slices"],
        windows=config["windows"],
        normalisation=config["normalisation"],
        postprocess=post.to_dict(),
        data_fingerprint=custom.get("data_fingerprint", origin.fingerprint),
        config_fingerprint=custom.get("config_fingerprint", key),
        patients=origin.patients,
        metrics=metrics,
        tuning=tuning,
        versions=package_versions(),
        input="scan" if looks_at_scans(exported) else "slices",
    )
    export_model(fn_args.serving_model_dir, exported, tft_output, config, contract)
    if fn_args.model_run_dir:
        _copy_logs(folder, fn_args.model_run_dir)
        _write_json(
            f"{fn_args.model_run_dir}/{HISTORY_FILE}",
            {
                "finished": state.finished,
                "epochs": state.history,
                "val_dice": final.dice,
                "metrics": metrics,
                "postprocess": post.to_dict(),
                "tuning": tuning,
            },
        )


class Validator:
    """Validates one network on the validation split; reads it anew each time, so that memory stays flat."""

    def __init__(
        self,
        shards: Sequence[str],
        tft_output: Any,
        config: Mapping[str, Any],
        network: keras.Model,
        *,
        mirror: bool = False,
    ) -> None:
        """Takes the split.

        Args:
            shards: Files of its examples.
            tft_output: The Transform output.
            config: The sections grid, inference and postprocess.
            network: The network, whose weights may change from call to call.
            mirror: Average with what it makes of the mirrored slices.
        """
        scans = looks_at_scans(network)
        self._plain = validation_dataset(shards, tft_output, scans=scans)
        self._with_hu = validation_dataset(shards, tft_output, hu=True, scans=scans)
        self._predict = make_predict(network, mirror=mirror, overlap=config["inference"]["overlap"])
        self._config = config

    def __call__(self, post: Postprocess | None = None) -> Validation:
        """Runs the validation with the given post-processing; by default with the configured one."""
        post = post or Postprocess.from_dict(self._config["postprocess"])
        dataset = self._plain if post.hu_range is None else self._with_hu
        return validate(self._predict, dataset, self._config["grid"], post)

    def tune(self) -> Tuning:
        """Chooses the post-processing for the network as it is."""
        section = self._config["postprocess"]
        dataset = self._with_hu if needs_hu(section) else self._plain
        return tune_postprocess(self._predict, dataset, self._config["grid"], section)


def _network(config: Mapping[str, Any], precision: str) -> keras.Model:
    channels = (2 * config["grid"]["context_slices"] + 1) * len(config["windows"])
    seed = config["training"]["seed"]
    size, slices = config["grid"]["size"], None
    if config["network"]["kind"] == "3d":
        size, slices = config["training"]["patch_size"] or size, config["training"]["patch_slices"]
    return build_network(size, channels, config["network"], slices=slices, seed=seed, precision=precision)


def _shards(patterns: Sequence[str] | str, split: str) -> list[str]:
    found = list_shards([patterns] if isinstance(patterns, str) else patterns)
    if not found:
        raise IchError(f"the {split} split holds no shards: found no file at {patterns}; check the splits section")
    return found


def _prepare_devices(training: Mapping[str, Any], *, volumes: bool) -> None:
    """Asks for reproducible kernels where they are not so anyway; on a CPU they are."""
    gpus = tf.config.list_physical_devices("GPU")
    if volumes and training["precision"] == "mixed_float16" and not gpus:
        raise UsageError(
            "training.precision: found mixed_float16, but this machine has no GPU and TensorFlow no 3d network in "
            "float16 without one; set float32 or mixed_bfloat16"
        )
    if training["deterministic"] and gpus:
        tf.config.experimental.enable_op_determinism()


def _copy_logs(folder: str, target: str) -> None:
    """Copies the event files to where TFX keeps a training's logs."""
    source = f"{folder}/{TENSORBOARD}"
    tf.io.gfile.makedirs(target)
    for name in tf.io.gfile.listdir(source) if tf.io.gfile.isdir(source) else []:
        tf.io.gfile.copy(f"{source}/{name}", f"{target}/{name}", overwrite=True)


def _write_json(path: str, content: Any) -> None:
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(content, indent=1))
