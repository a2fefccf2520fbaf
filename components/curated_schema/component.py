"""`CuratedSchema`: the schema as an artifact, its text part of the cache key.

TFX's ImportSchemaGen is given a path, and so serves an edited file from its cache.
"""

import os

import tfx.v1 as tfx
from tfx.dsl.io import fileio


@tfx.dsl.components.component
def CuratedSchema(  # noqa: N802 - a component is named like a class
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
    text: tfx.dsl.components.Parameter[str],
) -> None:
    """Writes `schema.pbtxt`.

    Args:
        schema: Receives it.
        text: Its content.
    """
    with fileio.open(os.path.join(schema.uri, "schema.pbtxt"), "w") as file:  # noqa: PTH118 - a URI
        file.write(text)
