"""A server for one page: a few files by exact name, to this user of this machine alone."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from components.imaging.errors import UsageError
from components.pages.html import style
from serving.viewer.scene import Scene, mask_file, nifti, page_data

_STATIC = Path(__file__).parent / "static"
_HOST = "127.0.0.1"
_LOOPBACK = ("127.0.0.1", "localhost")
_TEXT = {"html": "text/html", "css": "text/css", "js": "text/javascript", "txt": "text/plain"}

_HEADERS = {
    # NiiVue's font is a picture in a data URL; it styles its canvas through the object model, which this allows.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class File:
    """What is served under one name.

    Attributes:
        content: Its bytes.
        type: Its media type.
        encoding: How these are packed, if at all.
    """

    content: bytes
    type: str
    encoding: str = ""


def files_of(scene: Scene) -> dict[str, File]:
    """Everything that the page loads, by name; the page itself has the empty name."""
    files = {}
    for path in sorted(_STATIC.iterdir()):
        packed = path.suffix == ".gz"
        name = path.name.removesuffix(".gz")
        kind = f"{_TEXT[name.rpartition('.')[2]]}; charset=utf-8"
        files[name] = File(path.read_bytes(), kind, "gzip" if packed else "")
    files[""] = files.pop("index.html")
    files["view.css"] = replace(files["view.css"], content=style(_STATIC / "view.css").encode())
    files["scene.json"] = File(json.dumps(page_data(scene)).encode(), "application/json")
    volumes = {"scan.nii": scene.volume.data}
    volumes |= {mask_file(position): mask.voxels.astype(np.uint8) for position, mask in enumerate(scene.masks)}
    for name, voxels in volumes.items():
        files[name] = File(nifti(voxels, scene.volume.affine), "application/octet-stream")
    return files


class Server(ThreadingHTTPServer):
    """Serves files below a path that nobody can guess; bound to the loopback interface.

    Another user of the machine might still read that path where a browser is started with it on its command line.
    So a connection counts only if it is this user's (or root's), which the kernel knows.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, File], port: int = 0) -> None:
        """Binds.

        Args:
            files: By name.
            port: 0 takes a free one.

        Raises:
            UsageError: The port cannot be had.
        """
        self.files = files
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise UsageError(f"port {port}: cannot listen there ({error.strerror}); give another --port") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def find(self, path: str) -> File | None:
        """The file of a request's path; None for everything but the exact names below the token."""
        token, slash, name = path.partition("?")[0].removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.token.encode())
        return self.files.get(name) if known and slash else None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Drops connections of other users."""
        owner = owner_of(client_address, (_HOST, self.server_port))
        return owner is None or owner in (0, os.getuid())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is nobody's error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def owner_of(client: tuple[str, int], server: tuple[str, int], tables: Path = Path("/proc/net")) -> int | None:
    """The user whose socket is at the other end of a loopback connection; None where the system does not say.

    Args:
        client: Address and port of that socket.
        server: Address and port of ours.
        tables: Where Linux lists its connections.
    """
    # Addresses are printed as numbers of the machine's own byte order; the one table has IPv4, the other IPv4 in IPv6.
    far, near = (
        f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}" for host, port in (client, server)
    )
    for table in ("tcp", "tcp6"):
        try:
            lines = (tables / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[1].endswith(far) and fields[2].endswith(near):
                return int(fields[7])
    return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        file = self.server.find(self.path)
        # A page elsewhere whose name was pointed at this machine sends its own name.
        if self.headers.get("Host", "").partition(":")[0] not in _LOOPBACK:
            status, file = HTTPStatus.FORBIDDEN, None
        else:
            status = HTTPStatus.OK if file else HTTPStatus.NOT_FOUND
        file = file or File(f"{status.value} {status.phrase}\n".encode(), "text/plain; charset=utf-8")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", file.type)
        self.send_header("Content-Length", str(len(file.content)))
        if file.encoding:
            self.send_header("Content-Encoding", file.encoding)
        self.end_headers()
        if body:
            self.wfile.write(file.content)

    def version_string(self) -> str:
        """Says nothing of Python's version."""
        return "ich"

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for what concerns the user."""


def serve(scene: Scene, say: Callable[[str], None], *, port: int = 0, browser: bool = True) -> None:
    """Shows a scene until SIGINT or SIGTERM.

    Args:
        scene: What.
        say: Shows a line to the user.
        port: 0 takes a free one.
        browser: Also open it in the user's browser.

    Raises:
        UsageError: The port cannot be had.
    """
    with Server(files_of(scene), port) as server:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            say(f"{server.url} shows {scene.name}; Ctrl-C ends it")
            if browser and _has_screen():
                # Some browsers come back only when they are closed, and by then the page must have been served.
                Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def _has_screen() -> bool:
    """Whether a browser would have a window: one in the terminal cannot show the page."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
