"""The stage's driver: which spans are read, and a fingerprint of every file in them."""

from __future__ import annotations

from typing import Any

from tfx.components.example_gen import utils
from tfx.components.example_gen.driver import FileBasedDriver
from tfx.types import standard_component_specs as specs

from components.nifti_example_gen.layout import find_cases, fingerprint
from components.nifti_example_gen.settings import read_settings
from components.storage.mirror import as_named, local_copy


class Driver(FileBasedDriver):
    """Picks the spans by the very code that the executor lists the cases with, where TFX's own knows but one span.

    The newest span goes to the artifact's property `span`, as TFX has it (a date as days since 1970-01-01).
    """

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """Adds span and fingerprint, without which a changed volume would be served from the cache."""
        place = exec_properties[specs.INPUT_BASE_KEY]
        root = local_copy(place)
        with as_named(place, root):
            cohort = find_cases(root, read_settings(exec_properties)["data"])
        spans = ",".join(map(str, cohort.spans))
        return {
            **exec_properties,
            utils.SPAN_PROPERTY_NAME: cohort.span,
            utils.VERSION_PROPERTY_NAME: None,
            utils.FINGERPRINT_PROPERTY_NAME: f"spans:{spans},files:{fingerprint(cohort, root)}",
        }
