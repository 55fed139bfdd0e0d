"""Rendezvous: the HTTP key-value store through which Horovod's ranks find each other.

Horovod's own store listens on every address without authentication. This one listens on one address, answers only
below a random path, limits values to 1 MiB, and is stopped once rank 0 has started Horovod.
"""

from __future__ import annotations

import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from spark_dl.launch.messages import Address

__all__ = ["Rendezvous"]

_LARGEST_VALUE = 1 << 20
_MOST_KEYS = 1 << 16


class Rendezvous:
    """Key-value store on one address, open while the `with` lasts.

    Args:
        host: The address to listen on, at which the other ranks reach this host.

    Attributes:
        address: The address, with the random part of the path below which the store answers as its token.
    """

    def __init__(self, host: str) -> None:
        token = secrets.token_hex(16)
        self._values: dict[str, bytes] = {}
        self._server = _Server((host, 0), _handler(token, self._values))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.address = Address(host, int(self._server.server_address[1]), token)

    def __enter__(self) -> Rendezvous:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a client that has disconnected, such as a rank that ended."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(token: str, values: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    # With ADDR="host:port/TOKEN" and PORT=0, Horovod's client requests /TOKEN:0/scope/key.
    prefix = f"/{token}:0/"

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            value = values.get(self.path) if self._allowed() else None
            self._answer(404 if value is None else 200, value or b"")

        def do_PUT(self) -> None:
            if not self._allowed():
                return
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > _LARGEST_VALUE or len(values) >= _MOST_KEYS:
                self._answer(413)
                return
            values[self.path] = self.rfile.read(int(length))
            self._answer(200)

        def do_DELETE(self) -> None:
            if self._allowed():
                values.pop(self.path, None)
                self._answer(200)

        def _allowed(self) -> bool:
            if secrets.compare_digest(self.path[: len(prefix)].encode(), prefix.encode()):
                return True
            self._answer(403)
            return False

        def _answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing, since the paths of requests contain the token."""

    return Handler
