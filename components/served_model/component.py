"""`ServedModel`: takes a copy of the model in service, as the baseline of the gate."""

import json
import shutil
from pathlib import Path

import tensorflow as tf
import tfx.v1 as tfx

from components.imaging.errors import UsageError
from components.storage.files import copy_tree
from components.storage.served import served_versions, version_name
from serving.signatures import EXAMPLES_SIGNATURE
from serving.versions import read_contract


@tfx.dsl.components.component
def ServedModel(  # noqa: N802 - a component is named like a class
    model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    folder: tfx.dsl.components.Parameter[str],
    grid: tfx.dsl.components.Parameter[str],
    state: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Copies the newest version, so that what the gate compared with stays known after the next push.

    Where nothing is in service, or a model that cannot be loaded or whose grid differs from that of today's examples,
    the artifact is left empty and `baseline.json` says why.

    Args:
        model: Receives the model under `Format-Serving`.
        folder: The folder that TF Serving watches, or its URI.
        grid: JSON of the configuration's section grid.
        state: Names what is in service now; another value defeats the cache.
        code_version: Changes when the code does, so that its cached results are not reused.
    """
    found = served_versions(folder)
    note = {
        "version": version_name(found[-1]) if found else None,
        "used": False,
        "reason": "no model is in service yet",
    }
    copy = Path(model.uri) / "Format-Serving"
    if found:
        copy_tree(found[-1], str(copy))
        wanted = json.loads(grid)["grid"]
        try:
            contract = read_contract(copy)
        except UsageError as error:
            note["reason"] = str(error)
        else:
            served = (contract.grid_size, contract.grid_spacing_mm, contract.context_slices)
            todays = (wanted["size"], wanted["spacing_mm"], wanted["context_slices"])
            if served != todays:
                note["reason"] = f"the model in service has the grid {served}, today's examples have {todays}"
            elif problem := _problem(copy):
                note["reason"] = f"the model in service cannot be loaded ({problem}); TF Serving could not either"
            else:
                note.update(used=True, reason="compared on the same scans")
        if not note["used"]:
            shutil.rmtree(copy)
    Path(model.uri).mkdir(parents=True, exist_ok=True)
    (Path(model.uri) / "baseline.json").write_text(json.dumps(note), encoding="utf-8")


def _problem(model: Path) -> str:
    """Why a SavedModel cannot be used; empty where it can: a broken one must not keep a sound one from being pushed."""
    try:
        known = tf.saved_model.load(str(model)).signatures
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        return " ".join(str(error).split())[:200]
    return "" if EXAMPLES_SIGNATURE in known else f"signatures {sorted(known)}, wanted {EXAMPLES_SIGNATURE}"
