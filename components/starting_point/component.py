"""`StartingPoint`: looks at what there is as a run starts, where the pipeline was compiled long before."""

import json
from typing import TypedDict

import tfx.v1 as tfx

from components.starting_point.state import data_state, serving_state, statistics_state


class Names(TypedDict):
    """As `State` has them."""

    data_state: str
    statistics_state: str
    serving_state: str


@tfx.dsl.components.component
def StartingPoint(  # noqa: N802 - a component is named like a class
    folder: tfx.dsl.components.Parameter[str],
    data: tfx.dsl.components.Parameter[str],
    statistics: tfx.dsl.components.Parameter[str],
    serving: tfx.dsl.components.Parameter[str],
) -> Names:
    """Names it for the stages that look into folders; must never be cached itself.

    Args:
        folder: The data folder, or its URI.
        data: JSON of the configuration's section data.
        statistics: Folder or URI of the statistics of earlier runs.
        serving: The folder that TF Serving watches, or its URI.

    Returns:
        `data_state`, `statistics_state` and `serving_state`, as `State` has them.
    """
    return {
        "data_state": data_state(folder, json.loads(data)["data"]),
        "statistics_state": statistics_state(statistics),
        "serving_state": serving_state(serving),
    }
