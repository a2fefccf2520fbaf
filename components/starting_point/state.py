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
from serving.versions import versions


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
        folder: The folder that TF Serving watches.
    """
    return ",".join(path.name for path in versions(Path(folder)))


def data_state(folder: str, section: Mapping[str, Any]) -> str:
    """Names the scans and masks; none is read.

    Args:
        folder: The data folder.
        section: The configuration's section data.

    Raises:
        UsageError: There are none, or the layout does not fit.
    """
    cohort = find_cases(Path(folder), section)
    return f"spans:{','.join(map(str, cohort.spans))},files:{fingerprint(cohort, Path(folder))}"
