"""`models.config`: which versions of a model TF Serving loads, and their labels. It lies beside the versions.

`Pusher` writes it anew with each push, so that labels move by themselves: `canary` is the newest version, `stable` the
one before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

FILE_NAME = "models.config"
FOLDER = "/models"
"""Where a server finds the folder of all models."""

STABLE, CANARY = "stable", "canary"

_LABEL = re.compile(r'^\s*version_labels \{ key: "([a-z_]+)" value: (\d+) \}$', re.MULTILINE)


def labels_of(numbers: Sequence[int]) -> dict[str, int]:
    """Versions by label.

    Args:
        numbers: At least one version, in any order.
    """
    newest = sorted(numbers)[-2:]
    return {STABLE: newest[0], CANARY: newest[-1]}


def models_config(name: str, labels: Mapping[str, int]) -> str:
    """The file's text, a `ModelServerConfig`.

    Args:
        name: Of the model and its folder.
        labels: Versions by label.
    """
    lines = "\n".join(f'    version_labels {{ key: "{label}" value: {number} }}' for label, number in labels.items())
    return f"""\
# ModelServerConfig, written with each push.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "{FOLDER}/{name}"
    model_platform: "tensorflow"
    # The two that have a label, and the one before them until the labels have moved: TensorFlow Serving moves a label
    # only to a version that is loaded, and would else unload meanwhile what "stable" still points at.
    model_version_policy {{ latest {{ num_versions: 3 }} }}
{lines}
  }}
}}
"""


def read_labels(text: str) -> dict[str, int]:
    """The labels in a text of `models_config`; none if it is another's."""
    return {label: int(number) for label, number in _LABEL.findall(text)}
