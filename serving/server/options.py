"""How the server is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says.

    Attributes:
        model: A SavedModel, a folder of versions, or the output folder of a run.
        host: Address to listen at.
        grpc_port: Port of gRPC; 0 is any free one.
        rest_port: Port of REST; 0 is any free one.
        poll_seconds: Time between two looks at the folder of versions.
        keep_versions: Versions that stay loaded.
        threads: Requests computed at a time.
        queue: Requests that may wait.
        max_request_mib: Largest request.
        grace_seconds: Time that accepted requests have when the server is told to stop.
    """

    model: Path
    host: str = "127.0.0.1"
    grpc_port: int = 8500
    rest_port: int = 8501
    poll_seconds: float = 2.0
    keep_versions: int = 2
    threads: int = 2
    queue: int = 16
    max_request_mib: int = 256
    grace_seconds: float = 30.0

    @property
    def most_bytes(self) -> int:
        """Bytes of the largest request."""
        return self.max_request_mib << 20
