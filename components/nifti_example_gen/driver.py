"""The stage's driver: TFX's own fingerprint, and that of the volumes a manifest names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tfx.components.example_gen import utils
from tfx.components.example_gen.driver import FileBasedDriver
from tfx.types import standard_component_specs as specs

from components.nifti_example_gen.layout import find_cases
from components.nifti_example_gen.settings import read_settings


class Driver(FileBasedDriver):
    """Resolves spans as TFX does; the fingerprint of a manifest includes the files that it lists."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """Adds the fingerprint, without which a changed volume would be served from the cache."""
        resolved = super().resolve_exec_properties(exec_properties, pipeline_info, component_info)
        data = read_settings(resolved)["data"]
        if data["manifest"]:
            digest = hashlib.sha256()
            for case in find_cases(Path(resolved[specs.INPUT_BASE_KEY]), data).cases:
                for path in (case.image, case.mask):
                    state = path.stat()
                    digest.update(f"{path},{state.st_size},{state.st_mtime_ns}\n".encode())
            resolved[utils.FINGERPRINT_PROPERTY_NAME] += f",volumes:{digest.hexdigest()[:16]}"
        return resolved
