"""What TFX's Trainer calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tfx.dsl.io import fileio

from components.imaging.errors import IchError
from components.imaging.postprocess import Postprocess
from components.storage.files import copy_tree
from components.trainer.checkpoint import State
from components.trainer.data import count_patients, lesion_draws, list_shards, steps_per_epoch, total, train_dataset
from components.trainer.ensemble import build_ensemble
from components.trainer.export import export_model
from components.trainer.fingerprint import data_origin, package_versions, run_key
from components.trainer.fit import TENSORBOARD, Task, fit
from components.trainer.folds import MAX_FOLDS, PatientSlices, deal_folds, others
from components.trainer.hyperparameters import apply, best_values, describe
from components.trainer.network import build_network, inference_network
from components.trainer.precision import resolve_precision
from components.trainer.progress import Progress, Terminal, Titled
from components.trainer.replicas import choose_strategy
from components.trainer.step import looks_at_scans, make_predict
from components.trainer.tuning import CaseCounts, tune
from components.trainer.validation import Validation, count_cases, merged, validate, validation_dataset
from components.trainer.volumes import count_patches, patch_dataset
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
            live; optionally `config_fingerprint`, `model_name` and `code_version`. `hyperparameters` is what a search
            chose; it goes before the configuration.
        progress: Where to report; the user's terminal by default.

    Raises:
        UsageError: No lesion in the training split, too little for so many folds, a batch that GPUs cannot share, or a
            precision that this machine does not have.
        IchError: A split has no shards, or training diverged.
    """
    custom = fn_args.custom_config
    chosen = best_values(fn_args.hyperparameters)
    config = apply(json.loads(custom[CONFIG_KEY]), chosen)
    progress = progress or Terminal()
    if chosen:
        progress.say(f"with the hyperparameters that the search chose: {describe(chosen)}")
    tft_output = tft.TFTransformOutput(fn_args.transform_graph_path or fn_args.transform_output)
    train, val = split_shards(fn_args.train_files, "training"), split_shards(fn_args.eval_files, "validation")
    origin = data_origin(train)
    key = run_key(config, origin.fingerprint, custom.get("code_version", ""))
    folder = f"{custom['work_dir'].rstrip('/')}/{key}"
    prepare_devices(config)

    fitted: list[Fitted] = []
    for part in _parts(train, val, tft_output, config):
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
    exported = build_ensemble([item.network for item in fitted])
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
        hyperparameters=chosen,
        versions=package_versions(),
        input="scan" if looks_at_scans(exported) else "slices",
    )
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
                "hyperparameters": chosen,
            },
        )


def is_3d(config: Mapping[str, Any]) -> bool:
    """Whether the network sees patches of scans, and not slices."""
    return bool(config["network"]["kind"] == "3d")


def unit_of(config: Mapping[str, Any]) -> str:
    """What training draws, in the plural."""
    return "patches" if is_3d(config) else "slices"


def count_drawable(shards: Sequence[str], tft_output: Any, config: Mapping[str, Any]) -> dict[str, PatientSlices]:
    """What training may draw of each patient, by id.

    Args:
        shards: TFRecord files.
        tft_output: The Transform output.
        config: The sections network and training.
    """
    training = config["training"]
    if is_3d(config):
        return count_patches(shards, tft_output, training["patch_slices"])
    return count_patients(shards, tft_output, training["min_lesion_cm2"])


def _parts(train: list[str], val: list[str], tft_output: Any, config: Mapping[str, Any]) -> list[Part]:
    """What there is to fit, one network each."""
    count = config["training"]["folds"]
    if count == 1:
        return [Part(0, train, val, count_drawable(train, tft_output, config))]
    shards = [*train, *val]
    patients = count_drawable(shards, tft_output, config)
    total(patients, len(shards), unit_of(config))
    dealt = deal_folds(patients, count, str(config["training"]["seed"]))
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
    task = make_task(part, tft_output, config, _folder(folder, part), progress.say)
    state = fit(task, progress)
    exported = served = inference_network(task.network)
    if task.training["precision"] != "float32" or task.strategy.num_replicas_in_sync > 1:
        exported = inference_network(make_network(config, "float32"))
        exported.set_weights(served.get_weights())
    mirror = config["inference"]["mirror"]
    final = Validator(part.val, tft_output, config, exported, mirror=mirror, patients=part.held_out)
    return Fitted(part, exported, state, final)


def make_task(part: Part, tft_output: Any, config: Mapping[str, Any], folder: str, say: Callable[[str], None]) -> Task:
    """What `fit` needs for one network; the Tuner's trials are made of it too.

    Args:
        part: The data.
        tft_output: The Transform output.
        config: The sections grid, windows, network, training and postprocess; of a 3D network inference too.
        folder: Folder or URI of the checkpoint.
        say: Takes one line on slices, steps and parameters.

    Raises:
        UsageError: There is no lesion to train on, or several GPUs cannot share the batch.
    """
    precision = resolve_precision(config["training"]["precision"], volumes=is_3d(config))
    training = {**config["training"], "precision": precision}
    counts = total(part.patients, len(part.train), unit_of(config))
    steps = steps_per_epoch(counts, training)
    strategy = choose_strategy(training["batch_size"])
    with strategy.scope():
        network = make_network(config, precision)
        served = inference_network(network)
    replicas = strategy.num_replicas_in_sync
    say(
        f"{counts.slices} training {unit_of(config)}, {counts.lesion} with lesion; {steps} steps of "
        f"{training['batch_size']} an epoch{f' on {replicas} GPUs' if replicas > 1 else ''}; "
        f"{served.count_params() / 1e6:.2f} million parameters" + ("" if precision == "float32" else f" in {precision}")
    )
    balance, shares = training["patient_balance"], training["source_shares"]
    draws = lesion_draws(part.patients, balance, shares) if part.number or balance or shares else None
    stream = patch_dataset if is_3d(config) else train_dataset
    return Task(
        network,
        lambda epoch, step: stream(
            part.train, tft_output, config, counts, first_epoch=epoch, first_step=step, steps=steps, draws=draws
        ),
        steps,
        Validator(part.val, tft_output, config, served, patients=part.held_out),
        training,
        folder,
        strategy,
    )


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
            config: The sections grid and postprocess; of a 3D network inference too.
            network: The network, whose weights may change from call to call.
            mirror: Average with what it makes of the mirrored slices.
            patients: On whom to validate; by default on all in the files.
        """
        scans = looks_at_scans(network)
        self._plain = validation_dataset(shards, tft_output, patients=patients, scans=scans)
        self._with_hu = validation_dataset(shards, tft_output, hu=True, patients=patients, scans=scans)
        overlap = {"overlap": config["inference"]["overlap"]} if scans else {}
        self._predict = make_predict(network, mirror=mirror, **overlap)
        self._config = config

    def __call__(self, post: Postprocess | None = None) -> Validation:
        """Runs the validation with the given post-processing; by default with the configured one."""
        post = post or Postprocess.from_dict(self._config["postprocess"])
        dataset = self._with_hu if post.needs_hu else self._plain
        return validate(self._predict, dataset, self._config["grid"], post)

    def count(self) -> list[CaseCounts]:
        """What `tune` needs to choose the post-processing for the network as it is."""
        section = self._config["postprocess"]
        return count_cases(self._predict, self._with_hu, self._config["grid"], section)


def make_network(config: Mapping[str, Any], precision: str) -> keras.Model:
    """The untrained network of a configuration.

    Args:
        config: The sections grid, windows, network and training.
        precision: Keras dtype policy of everything but the logits.
    """
    channels = (2 * config["grid"]["context_slices"] + 1) * len(config["windows"])
    seed = config["training"]["seed"]
    size, slices = config["grid"]["size"], None
    if config["network"]["kind"] == "3d":
        size, slices = config["training"]["patch_size"] or size, config["training"]["patch_slices"]
    return build_network(size, channels, config["network"], slices=slices, seed=seed, precision=precision)


def split_shards(patterns: Sequence[str] | str, split: str) -> list[str]:
    """The files of a split.

    Raises:
        IchError: There are none.
    """
    found = list_shards([patterns] if isinstance(patterns, str) else patterns)
    if not found:
        raise IchError(f"the {split} split holds no shards: found no file at {patterns}; check the splits section")
    return found


def prepare_devices(config: Mapping[str, Any]) -> None:
    """Asks for reproducible kernels where they are not so anyway; on a CPU they are.

    Args:
        config: The sections network and training.

    Raises:
        UsageError: The configured precision does not work on this machine; said before anything is read.
    """
    training = config["training"]
    resolve_precision(training["precision"], volumes=is_3d(config))
    if training["deterministic"] and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def _copy_logs(folder: str, target: str) -> None:
    """Copies the event files to where TFX keeps a training's logs."""
    fileio.makedirs(target)
    copy_tree(f"{folder}/{TENSORBOARD}", target)


def _write_json(path: str, content: Any) -> None:
    fileio.makedirs(path.rpartition("/")[0])
    with fileio.open(path, "w") as file:
        file.write(json.dumps(content, indent=1))
