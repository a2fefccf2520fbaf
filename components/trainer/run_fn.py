"""What TFX's Trainer calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components.imaging.errors import IchError
from components.imaging.postprocess import Postprocess
from components.trainer.checkpoint import State
from components.trainer.data import count_patients, lesion_draws, list_shards, steps_per_epoch, total, train_dataset
from components.trainer.ensemble import build_ensemble
from components.trainer.export import export_model
from components.trainer.fingerprint import data_origin, package_versions, run_key
from components.trainer.fit import TENSORBOARD, Task, fit
from components.trainer.folds import MAX_FOLDS, PatientSlices, deal_folds, others
from components.trainer.network import build_network, inference_network
from components.trainer.progress import Progress, Terminal, Titled
from components.trainer.step import make_predict
from components.trainer.tuning import CaseCounts, needs_hu, tune
from components.trainer.validation import Validation, count_cases, merged, validate, validation_dataset
from components.transform.preprocessing import CONFIG_KEY
from serving.contract import Contract

HISTORY_FILE = "history.json"

LEAST_MINUTES = 1e-3
"""What folds get together where those before used up all time: a step each, and a validation."""


@dataclass(frozen=True)
class Part:
    """What one network is fitted to: all of train, or all folds of train and val but one.

    Attributes:
        number: The fold, counted from 1; 0 without folds.
        train: Shards to train on.
        val: Shards to validate on.
        patients: What may be trained on of each patient, by id.
        held_out: Ids of the patients to validate on; None: all in `val`.
    """

    number: int
    train: list[str]
    val: list[str]
    patients: dict[str, PatientSlices]
    held_out: list[str] | None = None


@dataclass(frozen=True)
class Fitted:
    """A fitted network.

    Attributes:
        part: What it was fitted to.
        network: In float32, with the best weights.
        state: How its training went.
        validator: Validates it as it will be served, on patients it never saw.
    """

    part: Part
    network: keras.Model
    state: State
    validator: Validator


def run_fn(fn_args: Any, progress: Progress | None = None) -> None:
    """Trains, tunes the post-processing, validates and exports.

    With `training.folds` there is a network for each fold of the patients of train and val; what is exported is the
    mean of them. Post-processing is tuned on the validation split, or on what each network makes of the fold that it
    never saw, and with the networks as they are exported; the final figures, of the same scans, are those of the
    tuned settings.

    Args:
        fn_args: TFX's FnArgs. `custom_config` holds the sections grid, windows, normalisation, network, training,
            postprocess and output as JSON under `CONFIG_KEY`, and `work_dir`, where checkpoints and TensorBoard logs
            live; optionally `config_fingerprint`, `model_name` and `code_version`.
        progress: Where to report; the user's terminal by default.

    Raises:
        UsageError: No lesion in the training split, or too little for so many folds.
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
    _prepare_devices(config["training"])

    fitted: list[Fitted] = []
    for part in _parts(train, val, tft_output, config["training"]):
        spent = sum(item.state.minutes for item in fitted)
        fitted.append(_fit(part, spent, tft_output, config, folder, progress))

    post, tuning = Postprocess.from_dict(config["postprocess"]), {}
    if config["postprocess"]["tune"]:
        tuned = tune([case for item in fitted for case in item.validator.count()], config["postprocess"])
        progress.say(tuned.summary())
        post, tuning = tuned.chosen.post, tuned.to_dict()
    by_part = [item.validator(post) for item in fitted]
    final = merged(by_part)
    states = [item.state for item in fitted]
    metrics: dict[str, float | None] = {
        "val_dice": final.mean,
        "val_dice_sd": final.sd,
        "val_cases": float(len(final.dice)),
        "epochs": float(sum(state.epochs for state in states)),
        "minutes": round(sum(state.minutes for state in states), 2),
    }
    metrics |= {"folds": float(len(states))} if len(states) > 1 else {"best_epoch": float(states[0].best_epoch)}
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
    )
    exported = build_ensemble([item.network for item in fitted])
    export_model(fn_args.serving_model_dir, exported, tft_output, config, contract)
    if fn_args.model_run_dir:
        for item in fitted:
            _copy_logs(_folder(folder, item.part), _folder(fn_args.model_run_dir, item.part))
        _write_json(
            f"{fn_args.model_run_dir}/{HISTORY_FILE}",
            {
                **_history(fitted, by_part),
                "val_dice": final.dice,
                "metrics": metrics,
                "postprocess": post.to_dict(),
                "tuning": tuning,
            },
        )


def _parts(train: list[str], val: list[str], tft_output: Any, training: Mapping[str, Any]) -> list[Part]:
    """What there is to fit, one network each."""
    count, least = training["folds"], training["min_lesion_cm2"]
    if count == 1:
        return [Part(0, train, val, count_patients(train, tft_output, least))]
    shards = [*train, *val]
    patients = count_patients(shards, tft_output, least)
    total(patients, len(shards))
    dealt = deal_folds(patients, count, str(training["seed"]))
    parts = []
    for number, held_out in enumerate(dealt):
        seen = {patient: patients[patient] for patient in others(dealt, number)}
        parts.append(Part(number + 1, shards, shards, seen, held_out))
    return parts


def _fit(
    part: Part, spent: float, tft_output: Any, config: Mapping[str, Any], folder: str, progress: Progress
) -> Fitted:
    """Fits one network; `spent` are the minutes that those before it took."""
    training, count = dict(config["training"]), config["training"]["folds"]
    if part.number:
        progress = Titled(progress, f"fold {part.number}/{count}")
        # Seeds of their own, and none that another training.seed gives to another fold.
        training["seed"] = training["seed"] * MAX_FOLDS + part.number - 1
        if training["max_minutes"] is not None:
            left = max(training["max_minutes"] - spent, LEAST_MINUTES)
            training["max_minutes"] = left / (count - part.number + 1)
    config = {**config, "training": training}
    counts = total(part.patients, len(part.train))
    steps = steps_per_epoch(counts, training)
    network = _network(config, training["precision"])
    served = inference_network(network)
    progress.say(
        f"{counts.slices} training slices, {counts.lesion} with lesion; {steps} steps of "
        f"{training['batch_size']} an epoch; {served.count_params() / 1e6:.2f} million parameters"
    )
    held_out = part.held_out
    balance = training["patient_balance"]
    draws = lesion_draws(part.patients, balance) if part.number or balance else None
    validator = Validator(part.val, tft_output, config, served, patients=held_out)
    task = Task(
        network,
        lambda epoch, step: train_dataset(
            part.train, tft_output, config, counts, first_epoch=epoch, first_step=step, steps=steps, draws=draws
        ),
        steps,
        validator,
        training,
        _folder(folder, part),
    )
    state = fit(task, progress)
    exported = served
    if training["precision"] != "float32":
        exported = inference_network(_network(config, "float32"))
        exported.set_weights(served.get_weights())
    mirror = config["inference"]["mirror"]
    final = Validator(part.val, tft_output, config, exported, mirror=mirror, patients=held_out)
    return Fitted(part, exported, state, final)


def _history(fitted: Sequence[Fitted], found: Sequence[Validation]) -> dict[str, Any]:
    """How training went; with folds, each epoch and each reason to stop says of which."""
    if len(fitted) == 1:
        return {"finished": fitted[0].state.finished, "epochs": fitted[0].state.history}
    rows = [{"fold": item.part.number, **row} for item in fitted for row in item.state.history]
    folds = [
        {
            "fold": item.part.number,
            "finished": item.state.finished,
            "epochs": item.state.epochs,
            "best_epoch": item.state.best_epoch,
            "minutes": item.state.minutes,
            "train_patients": len(item.part.patients),
            "val_patients": len(item.part.held_out or ()),
            "val_cases": len(validation.dice),
            "val_dice": validation.mean,
            "val_dice_sd": validation.sd,
        }
        for item, validation in zip(fitted, found, strict=True)
    ]
    finished = "; ".join(f"fold {fold['fold']}: {fold['finished']}" for fold in folds)
    return {"finished": finished, "epochs": rows, "folds": folds}


def _folder(folder: str, part: Part) -> str:
    """The part's own folder below one of the run."""
    return f"{folder}/fold-{part.number}" if part.number else folder


class Validator:
    """Validates one network on patients it never saw; reads them anew each time, so that memory stays flat."""

    def __init__(
        self,
        shards: Sequence[str],
        tft_output: Any,
        config: Mapping[str, Any],
        network: keras.Model,
        *,
        mirror: bool = False,
        patients: Sequence[str] | None = None,
    ) -> None:
        """Takes the split.

        Args:
            shards: Files of its examples.
            tft_output: The Transform output.
            config: The sections grid and postprocess.
            network: The network, whose weights may change from call to call.
            mirror: Average with what it makes of the mirrored slices.
            patients: On whom to validate; by default on all in the files.
        """
        self._plain = validation_dataset(shards, tft_output, patients=patients)
        self._with_hu = validation_dataset(shards, tft_output, hu=True, patients=patients)
        self._predict = make_predict(network, mirror=mirror)
        self._config = config

    def __call__(self, post: Postprocess | None = None) -> Validation:
        """Runs the validation with the given post-processing; by default with the configured one."""
        post = post or Postprocess.from_dict(self._config["postprocess"])
        dataset = self._plain if post.hu_range is None else self._with_hu
        return validate(self._predict, dataset, self._config["grid"], post)

    def count(self) -> list[CaseCounts]:
        """What `tune` needs to choose the post-processing for the network as it is."""
        section = self._config["postprocess"]
        dataset = self._with_hu if needs_hu(section) else self._plain
        return count_cases(self._predict, dataset, self._config["grid"], section)


def _network(config: Mapping[str, Any], precision: str) -> keras.Model:
    channels = (2 * config["grid"]["context_slices"] + 1) * len(config["windows"])
    seed = config["training"]["seed"]
    return build_network(config["grid"]["size"], channels, config["network"], seed=seed, precision=precision)


def _shards(patterns: Sequence[str] | str, split: str) -> list[str]:
    found = list_shards([patterns] if isinstance(patterns, str) else patterns)
    if not found:
        raise IchError(f"the {split} split holds no shards: found no file at {patterns}; check the splits section")
    return found


def _prepare_devices(training: Mapping[str, Any]) -> None:
    """Asks for reproducible kernels where they are not so anyway; on a CPU they are."""
    if training["deterministic"] and tf.config.list_physical_devices("GPU"):
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
