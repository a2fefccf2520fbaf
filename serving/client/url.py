"""Where a served model is, as a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from components.imaging.errors import UsageError

DEFAULT_MODEL = "ich"
PORTS = {"grpc": 8500, "grpcs": 8500, "http": 8501, "https": 8501}
"""Schemes, and the ports where TF Serving listens unless it is told otherwise."""

_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*)|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_WANTED = "wanted grpc://HOST[:PORT][/MODEL], or the same with grpcs, http or https"


@dataclass(frozen=True)
class ServerUrl:
    """A model on a server.

    Attributes:
        scheme: `grpc`, `grpcs`, `http` or `https`; with an s the connection is encrypted.
        host: Name or address, without brackets.
        port: TCP port.
        model: Name under which it is served.
    """

    scheme: str
    host: str
    port: int
    model: str

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """Reads `scheme://host[:port][/model]`.

        Raises:
            UsageError: It is something else.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{text}: not the URL of a server ({error}); {_WANTED}") from None
        if parts.username is not None or parts.password is not None:
            # The text is not repeated, for it holds a password.
            raise UsageError(f"the server's URL holds a user's name or password, which is not supported; {_WANTED}")
        model = parts.path.removeprefix("/").removesuffix("/") or DEFAULT_MODEL
        for wrong, what in (
            (parts.scheme not in PORTS, f"scheme {parts.scheme!r}"),
            (not _HOST.fullmatch(parts.hostname or ""), f"host {parts.hostname or ''!r}"),
            (port == 0, "port 0"),
            (not _MODEL.fullmatch(model), f"model {model!r}"),
            (bool(parts.query or parts.fragment), "something after the model"),
        ):
            if wrong:
                raise UsageError(f"{text}: not the URL of a server (found {what}); {_WANTED}")
        return cls(parts.scheme, parts.hostname or "", port or PORTS[parts.scheme], model)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}/{self.model}"
