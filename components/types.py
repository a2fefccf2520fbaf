"""Artifact types of our own.

Kubeflow finds a type again by its name alone, which has to be `<package>.<Class>` with a single dot: each type is
therefore an attribute of the package `components`, too.
"""

from tfx.types.artifact import Artifact


class DataReport(Artifact):
    """What is known of a run's data: `findings.json` and what belongs to it, or the page made of it."""

    TYPE_NAME = "components.DataReport"


class RunReport(Artifact):
    """What a run came to: the page on it, and the same as JSON."""

    TYPE_NAME = "components.RunReport"
