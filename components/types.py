"""Artifact types of our own; their names are import paths, as Kubeflow wants them."""

from tfx.types.artifact import Artifact


class DataReport(Artifact):
    """What is known of a run's data: `findings.json`."""

    TYPE_NAME = "components.types.DataReport"
