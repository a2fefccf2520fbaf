"""What TF Serving is told of merging requests, by a file in the version's folder.

With `--enable_per_model_batching_parameters` it reads that file, and batches no model that has none. A model of whole
scans must have none: the slices of two requests put together would be taken for one scan.
"""

from __future__ import annotations

from serving.contract import Contract
from serving.signatures import BATCH

PARAMETERS_FILE = "batching_params.pbtxt"
"""Beside `saved_model.pb`."""

MAX_REQUEST = 512
"""Slices a request may hold; one with more is refused. The thinnest head CT have about 300."""

WAIT_MICROS = 2000
QUEUED = 64


def batching_parameters(contract: Contract) -> str | None:
    """The file's text, TF Serving's BatchingParameters; None for a model that must not be batched."""
    if contract.input == "scan":
        return None
    return f"""\
# A request of any size up to the first number is taken, and computed in parts of the second: more slices at once are
# not faster on a few cores, and their memory would grow with them.
max_batch_size {{ value: {MAX_REQUEST} }}
enable_large_batch_splitting {{ value: true }}
max_execution_batch_size {{ value: {BATCH} }}
# Short against the time of a slice: so long single slices wait for company.
batch_timeout_micros {{ value: {WAIT_MICROS} }}
# Then requests are turned away (UNAVAILABLE) rather than kept until their clients have given up.
max_enqueued_batches {{ value: {QUEUED} }}
"""
