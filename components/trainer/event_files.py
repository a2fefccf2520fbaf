"""TensorBoard's event files, where TensorFlow can write them and where they are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import tensorflow as tf

from components.storage.files import copy_tree
from components.storage.uri import is_remote


@contextmanager
def event_files(place: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Opens a writer of event files.

    TensorFlow appends to them, which no bucket can: of a URI they are written on this machine and copied.

    Args:
        place: Folder or URI where they are kept.

    Yields:
        The writer, and what puts there all that was flushed.
    """
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="ich-")) if is_remote(place) else place
        writer = tf.summary.create_file_writer(folder)
        opened.callback(writer.close)
        yield writer, (lambda: copy_tree(folder, place)) if is_remote(place) else (lambda: None)
