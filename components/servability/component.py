"""`Servability`: proves that a blessed model can be served, where TFX's InfraValidator would want containers."""

import json
import os

import tfx.v1 as tfx
from tfx.components.util import model_utils
from tfx.dsl.io import fileio
from tfx.utils import path_utils

from components.servability.rules import FILE_NAME, not_looked_at
from components.servability.supervise import examine
from serving.versions import CONTRACT_FILE


@tfx.dsl.components.component
def Servability(  # noqa: N802 - a component, named as TFX names its own
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    model_blessing: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    blessing: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.InfraBlessing],
    bounds: tfx.dsl.components.Parameter[str],
    code_version: tfx.dsl.components.Parameter[str],
) -> None:
    """Loads the SavedModel in a fresh process, asks it what clients will ask, and blesses it as InfraValidator does.

    Args:
        model: The candidate.
        model_blessing: The gate's verdict on it; a model that it refused is not looked at, and not blessed here.
        blessing: Receives `servability.json`, TFX's marker and the property `blessed` that its Pusher reads.
        bounds: JSON of the configuration's section servability.
        code_version: Changes when the code does, so that its cached results are not reused.
    """
    if model_utils.is_model_blessed(model_blessing):
        path = path_utils.serving_model_path(model.uri)
        contract = os.path.join(path, CONTRACT_FILE)  # noqa: PTH118 - a URI
        text = ""
        if fileio.exists(contract):
            with fileio.open(contract, "r") as file:
                text = file.read()
        verdict = examine(path, text, json.loads(bounds)["servability"])
    else:
        verdict = not_looked_at()
    blessed = verdict["blessed"]
    files = {FILE_NAME: json.dumps(verdict, indent=1), "INFRA_BLESSED" if blessed else "INFRA_NOT_BLESSED": ""}
    for name, content in files.items():
        with fileio.open(os.path.join(blessing.uri, name), "w") as file:  # noqa: PTH118 - a URI
            file.write(content)
    blessing.set_int_custom_property("blessed", int(blessed))
