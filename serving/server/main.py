"""`ich serve`: what happens before and after the server runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

from serving.prediction.predictor import find_model
from serving.server.options import Options


def serve(
    options: Options,
    say: Callable[[str], None],
    quietly: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> NoReturn:
    """Serves a model until SIGTERM or SIGINT, and ends the process with exit code 0 then.

    Args:
        options: How.
        say: Shows a line to whoever started the server.
        quietly: Hides what TensorFlow prints while it is read.

    Raises:
        UsageError: There is no model, or a port is taken.
    """
    find_model(options.model)  # a wrong folder is refused before TensorFlow is read
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log = logging.getLogger("serving.server")
    log.setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    with quietly():
        from serving.server.app import serve_until_signal

    serve_until_signal(options, say)
    # The interpreter would wait for a request that nobody waits for, and TensorFlow takes seconds to be taken down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
