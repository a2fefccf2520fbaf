"""What the client needs of a protocol, and how a request can fail."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from serving.contract import Contract
from serving.signatures import HU

Inputs = dict[str, np.ndarray]
"""One request's inputs of `predict_slices`, by name."""

_WORDS = 200
"""Most characters repeated of what a server says."""


class Failure(Exception):  # noqa: N818 - turned into an error for users where the attempts end
    """A request without a usable answer. The text is the server's or the network's own, in short."""

    def __init__(self, text: object = "") -> None:
        super().__init__(" ".join(str(text).split())[:_WORDS])


class Unavailable(Failure):
    """The server is not there, or not ready: another attempt may succeed."""


class Busy(Failure):
    """The server has too much to do: fewer requests at a time, later."""


class Late(Failure):
    """No answer within the deadline."""


class Gone(Failure):
    """The server does not have that model or that version."""


class Refused(Failure):
    """Anything else; another attempt would end the same way."""


class Channel(Protocol):
    """A protocol that TF Serving speaks. Every method may be called by several threads at once."""

    def describe(self, version: str | None, deadline_s: float) -> tuple[Contract, str]:
        """The contract of a version, and that version.

        Args:
            version: None for the newest one in service.
            deadline_s: Longest time to wait, in seconds.

        Raises:
            Failure: There is no answer.
            UsageError: The model's contract cannot be read.
        """

    def predict(self, inputs: Inputs, version: str, deadline_s: float) -> np.ndarray:
        """Probabilities of one request by that very version, float32 of the shape `answer_shape`.

        Raises:
            Failure: There is no answer, or it is something else.
        """

    def close(self) -> None:
        """Ends the connection, and requests that still wait as far as the protocol can."""


def answer_shape(inputs: Inputs) -> tuple[int, int, int]:
    """The shape that the answer to a request must have: (n, size, size)."""
    count, _, rows, columns = inputs[HU].shape
    return count, rows, columns


def checked(values: np.ndarray, inputs: Inputs) -> np.ndarray:
    """The answer, if it can be one.

    Args:
        values: What the server sent.
        inputs: What it was asked.

    Raises:
        Refused: Its type or shape is not the wanted one, or it holds values that are not numbers.
    """
    wanted = answer_shape(inputs)
    if values.dtype != np.float32 or values.shape != wanted:
        raise Refused(f"the answer is {values.dtype} of shape {values.shape}, wanted float32 of shape {wanted}")
    if wrong := int(values.size - np.isfinite(values).sum()):
        raise Refused(f"the model gives {wrong} of {values.size} probabilities that are not numbers")
    return values
