"""Why a request got no answer, in the words of both interfaces."""

from __future__ import annotations

from enum import Enum

import grpc


class Code(Enum):
    """The codes this server gives: gRPC's, and the HTTP status that TF Serving makes of each."""

    OK = (grpc.StatusCode.OK, 200)
    INVALID_ARGUMENT = (grpc.StatusCode.INVALID_ARGUMENT, 400)
    NO_SIGNATURE = (grpc.StatusCode.FAILED_PRECONDITION, 400)
    NOT_FOUND = (grpc.StatusCode.NOT_FOUND, 404)
    RESOURCE_EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, 429)
    TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, 413)
    CANCELLED = (grpc.StatusCode.CANCELLED, 499)
    INTERNAL = (grpc.StatusCode.INTERNAL, 500)
    UNIMPLEMENTED = (grpc.StatusCode.UNIMPLEMENTED, 501)
    UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, 503)
    DEADLINE_EXCEEDED = (grpc.StatusCode.DEADLINE_EXCEEDED, 504)

    def __init__(self, status: grpc.StatusCode, http: int) -> None:
        self.status = status
        self.http = http


class Refusal(Exception):  # noqa: N818 - an answer to the client, no failure of the server
    """A request that is not answered; the text goes to the client and holds nothing of what it sent but names.

    Attributes:
        code: Why.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Refusal:
    """The client's mistake."""
    return Refusal(Code.INVALID_ARGUMENT, message)
