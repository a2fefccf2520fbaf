"""Names for what there is as a run starts: other content, other name.

What a stage finds in a folder is in no cache key. The stages that look into folders take these names as parameters, so
that other content runs them anew, whatever a runner's cache goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_validator import store
from components.nifti_example_gen.layout import find_cases, fingerprint
from components.storage import mirror
from components.storage.served import served_versions, version_name
from components.storage.uri import is_remote


@dataclass(frozen=True)
class State:
    """What was found.

    Attributes:
        data: The spans that are read, and a hash of every file's name, size and time of change.
        statistics: What is remembered of earlier data.
        serving: The versions in service.
    """

    data: str = ""
    statistics: str = ""
    serving: str = ""


def statistics_state(folder: str) -> str:
    """Names what is remembered of earlier data.

    Args:
        folder: Folder or URI of the statistics of earlier runs.
    """
    return store.state(folder)


def serving_state(folder: str) -> str:
    """Names the versions in service.

    Args:
        folder: The folder that TF Serving watches, or its URI.
    """
    return ",".join(map(version_name, served_versions(folder)))


def data_state(folder: str, section: Mapping[str, Any]) -> str:
    """Names the scans and masks; none is read.

    Of a URI it names every object below it, whether the layout wants it or not.

    Args:
        folder: The data folder, or its URI.
        section: The configuration's section data.

    Raises:
        UsageError: There are none, or the layout does not fit.
    """
    if is_remote(folder):
        return f"objects:{mirror.fingerprint(folder)}"
    cohort = find_cases(Path(folder), section)
    return f"spans:{','.join(map(str, cohort.spans))},files:{fingerprint(cohort, Path(folder))}"
