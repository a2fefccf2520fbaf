"""What the model is and how its versions are, as TF Serving's messages."""

from __future__ import annotations

from collections.abc import Sequence

from serving.server.loaded import Loaded
from serving.server.messages import get_model_metadata_pb2, get_model_status_pb2, model_pb2
from serving.server.models import Models, asked
from serving.server.refusal import invalid

SIGNATURES = "signature_def"
"""The one piece of metadata that there is."""

_OK, _UNKNOWN = 0, 2


def model_status(models: Models, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
    """States of the versions that `spec` names.

    Raises:
        Refusal: There is no such model or version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for entry in models.status(*asked(spec)):
        found = response.model_version_status.add(version=entry.number, state=entry.state)
        found.status.error_code = _UNKNOWN if entry.error else _OK
        found.status.error_message = entry.error
    return response


def model_metadata(
    models: Models, spec: model_pb2.ModelSpec, wanted: Sequence[str] = (SIGNATURES,)
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Signatures of the version that `spec` names.

    Raises:
        Refusal: There is no such model or version, or other metadata are wanted.
    """
    if not wanted:
        raise invalid(f"metadata_field: names nothing, wanted {SIGNATURES}")
    if set(wanted) != {SIGNATURES}:
        raise invalid(f"metadata_field: names what is unknown, wanted {SIGNATURES}")
    loaded, give_back = models.lease(*asked(spec))
    try:
        return _metadata(loaded)
    finally:
        give_back()


def _metadata(loaded: Loaded) -> get_model_metadata_pb2.GetModelMetadataResponse:
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = loaded.contract.model_name
    response.model_spec.version.value = loaded.number
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in loaded.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata[SIGNATURES].Pack(signatures)
    return response
