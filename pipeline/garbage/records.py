"""TFX's metadata store: what it knows of artifacts, and that some are gone. No TFX, which takes seconds to load."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ml_metadata import errors
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as pb

from components.imaging.errors import IchError
from pipeline.garbage.reach import Artifact, Execution, Records

_PLACE = re.compile(r".*/artifacts/([^/]+/[^/]+/\d+)(?:/|$)")
"""The part of a URI that stays the same when the output folder is moved."""

_PIPELINE_RUN = "pipeline_run"
"""TFX's type of the contexts that hold the executions of one run."""

_BLESSING = "ModelBlessing"
_CHUNK = 500
"""Ids in one query: SQLite bounds the terms of it."""


def read_records(store: Path) -> Records:
    """Reads artifacts and executions; nothing is changed.

    Args:
        store: `metadata.sqlite`.

    Raises:
        IchError: It cannot be read.
    """
    with _open(store, write=False) as opened:
        executions = _executions(opened, [one.id for one in opened.get_executions()])
        return Records({one.id: _artifact(one) for one in opened.get_artifacts()}, executions)


def executions_of_runs(store: Path) -> dict[float, frozenset[int]]:
    """Ids of executions by the time, in seconds since 1970, at which their run was compiled.

    Raises:
        IchError: The store cannot be read.
    """
    found = {}
    with _open(store, write=False) as opened:
        for context in opened.get_contexts_by_type(_PIPELINE_RUN):
            with contextlib.suppress(ValueError):  # not named by this program
                when = datetime.datetime.fromisoformat(context.name).timestamp()
                found[when] = frozenset(one.id for one in opened.get_executions_by_context(context.id))
    return found


def mark_deleted(store: Path, ids: Collection[int]) -> None:
    """Says of artifacts that they are gone: TFX's cache reuses no execution of which any output is.

    Args:
        store: `metadata.sqlite`.
        ids: Of the artifacts; all others stay as they are, to the byte, for a key of the cache is a hash of them.

    Raises:
        IchError: Nothing was changed.
    """
    if not ids:
        return
    with _open(store, write=True) as opened:
        found = [one for one in opened.get_artifacts() if one.id in ids]
        for one in found:
            one.state = pb.Artifact.DELETED
        opened.put_artifacts(found)  # in one transaction


@contextlib.contextmanager
def _open(store: Path, *, write: bool) -> Iterator[MetadataStore]:
    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(store)
    modes = pb.SqliteMetadataSourceConfig
    config.sqlite.connection_mode = modes.READWRITE if write else modes.READONLY
    try:
        yield MetadataStore(config)
    except (errors.StatusError, RuntimeError) as error:
        what = "written" if write else "read"
        reason = " ".join(str(error).partition("query:")[0].split())
        raise IchError(
            f"{store}: cannot be {what} ({reason}); nothing was removed, because TFX would go on reusing it"
        ) from None


def _artifact(one: pb.Artifact) -> Artifact:
    place = _PLACE.match(one.uri)
    blesses = None
    if one.type == _BLESSING and one.custom_properties["blessed"].int_value:
        blesses = one.custom_properties["current_model_id"].int_value
    return Artifact(one.id, place.group(1) if place else "", one.state == pb.Artifact.LIVE, blesses)


def _executions(store: MetadataStore, ids: list[int]) -> Mapping[int, Execution]:
    inputs: dict[int, set[int]] = {one: set() for one in ids}
    outputs: dict[int, set[int]] = {one: set() for one in ids}
    for start in range(0, len(ids), _CHUNK):
        for event in store.get_events_by_execution_ids(ids[start : start + _CHUNK]):
            side = outputs if event.type in (pb.Event.OUTPUT, pb.Event.DECLARED_OUTPUT) else inputs
            side[event.execution_id].add(event.artifact_id)
    return {one: Execution(frozenset(inputs[one]), frozenset(outputs[one])) for one in ids}
