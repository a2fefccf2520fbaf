"""What TFX's Tuner calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tfx.v1.components import TunerFnResult

from components.trainer.fingerprint import data_origin, run_key
from components.trainer.hyperparameters import describe
from components.trainer.progress import Progress, Terminal
from components.trainer.run_fn import is_3d, prepare_devices, split_shards
from components.transform.preprocessing import CONFIG_KEY
from components.tuner.oracles import make_oracle
from components.tuner.search import Search
from components.tuner.space import configured, search_space
from components.tuner.trials import Trials, trial_config

SHAPING_KEYS = ("algorithm", "seed", "epochs", "space")
"""Keys of the section `tuner` that make another search; more trials or more time go on with the same."""


def tuner_fn(fn_args: Any, progress: Progress | None = None) -> TunerFnResult:
    """Prepares a search, or takes up the one that was begun.

    Args:
        fn_args: TFX's FnArgs. `custom_config` holds the sections grid, windows, normalisation, network, training,
            postprocess and tuner, of a 3D network inference too, as JSON under `CONFIG_KEY`, and `work_dir`, where
            the search and the checkpoints of its trials live; optionally `code_version`.
        progress: Where to report; the user's terminal by default.

    Raises:
        UsageError: No lesion in the training split, or a precision that this machine does not have.
        IchError: A split has no shards.
    """
    custom = fn_args.custom_config
    config = json.loads(custom[CONFIG_KEY])
    section = config["tuner"]
    progress = progress or Terminal()
    train, val = split_shards(fn_args.train_files, "training"), split_shards(fn_args.eval_files, "validation")
    folder = f"{custom['work_dir'].rstrip('/')}/tuner-{_key(config, train, custom.get('code_version', ''))}"
    prepare_devices(config)
    trials = Trials(config, train, val, tft.TFTransformOutput(fn_args.transform_graph_path), folder)
    first = configured(config)
    progress.say(
        f"{section['algorithm']} search, up to {section['trials']} trials, epochs of a trial: {section['epochs']}; "
        + (f"beginning with what is configured: {describe(first)}" if first else "what is configured not among them")
    )

    def search(overwrite: bool = False) -> Search:
        return Search(
            make_oracle(section, search_space(section["space"]), first),
            trials.run,
            folder=folder,
            epochs=section["epochs"],
            max_minutes=section["max_minutes"],
            progress=progress,
            overwrite=overwrite,
        )

    return TunerFnResult(tuner=_whole(search), fit_kwargs={})


def _whole(search: Callable[..., Search]) -> Search:
    """The search, begun anew where its notes are not whole: KerasTuner does not replace its files in one go.

    Nothing is lost by it: the same seed proposes the same trials, and the results of those that ended are beside them.
    """
    try:
        found = search()
        whole = set(found.oracle.trials) == set(found.oracle.start_order)
    except (ValueError, KeyError, TypeError, RuntimeError, tf.errors.NotFoundError):
        whole = False
    return found if whole else search(overwrite=True)


def _key(config: Mapping[str, Any], train: list[str], code: str) -> str:
    """Name of the search's folder: the same for whatever leads to the same trials."""
    section = config["tuner"]
    # How windows overlap changes what validation finds.
    overlap = {"overlap": config["inference"]["overlap"]} if is_3d(config) else {}
    shape = json.dumps({**{key: section[key] for key in SHAPING_KEYS}, **overlap}, sort_keys=True)
    return run_key(trial_config(config, {}, section["epochs"]), data_origin(train).fingerprint, code, shape)
