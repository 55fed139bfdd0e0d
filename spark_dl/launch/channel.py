"""How ranks and the driver speak while the ranks run: JSON lines over one TCP connection for each rank.

Guarded by a token, with a size limit on each line. What must not be lost travels as rows of the Spark job; the channel
carries what must be known now: where the ranks meet, progress, and that a rank has failed.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spark_dl.errors import ClusterError, explain
from spark_dl.spark.session import driver_address

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Address", "Channel", "Sender"]

_LONGEST_LINE = 1 << 20
# A stranger who connects and says nothing is let go.
_TOKEN_SECONDS = 30.0


@dataclass(frozen=True)
class Address:
    """Where a channel listens, and the token that opens it."""

    host: str
    port: int
    token: str


class Channel:
    """The driver's end, open while the `with` lasts.

    Args:
        host: the driver's address as the executors know it.
        bind: the address to listen on, where it differs.
        messages: where each message is put, as a dict.
    """

    def __init__(self, host: str, bind: str, messages: queue.Queue[dict[str, Any]]) -> None:
        token = secrets.token_hex(16)
        self._ranks: list[socket.socket] = []
        self._lock = threading.Lock()
        ranks, lock = self._ranks, self._lock

        class Handler(socketserver.StreamRequestHandler):
            timeout = _TOKEN_SECONDS

            def handle(self) -> None:
                if not secrets.compare_digest(self._line(), token.encode()):
                    return
                self.connection.settimeout(None)
                _limit_sending(self.connection)
                with lock:
                    ranks.append(self.connection)
                try:
                    while line := self._line():
                        with contextlib.suppress(ValueError):  # a line that was too long costs itself alone
                            messages.put(json.loads(line))
                finally:
                    with lock:
                        ranks.remove(self.connection)

            def _line(self) -> bytes:
                try:
                    return self.rfile.readline(_LONGEST_LINE).strip()
                except OSError:  # the rank's process is gone: Spark tells the driver what became of it
                    return b""

        try:
            self._server = socketserver.ThreadingTCPServer((bind, 0), Handler)
        except OSError as error:
            raise ClusterError(
                explain(
                    f"{socket.gethostname()} can't listen at {bind}, where the executors would reach it.",
                    expected="an address of this host: spark.driver.host, or for a client of Spark Connect the one "
                    "from which it reaches the server",
                    received=f"{type(error).__name__}: {error}",
                    fix="Set spark.driver.host; a client behind a tunnel or a container's port can't be reached: run "
                    "it in the cluster's network.",
                )
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.address = Address(host, self._server.server_address[1], token)

    @classmethod
    def of(cls, spark: SparkSession, messages: queue.Queue[dict[str, Any]]) -> Channel:
        """A channel on the address at which the session's executors know the driver."""
        return cls(*driver_address(spark), messages)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all ranks that are connected."""
        line = json.dumps(message).encode() + b"\n"
        for rank in self._connected():
            with contextlib.suppress(OSError):  # it is gone: Spark tells the driver what became of it
                rank.sendall(line)

    def _connected(self) -> list[socket.socket]:
        with self._lock:
            return list(self._ranks)

    def __enter__(self) -> Channel:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self._connected():
            with contextlib.suppress(OSError):
                rank.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _limit_sending(connection: socket.socket, seconds: float = 10.0) -> None:
    """Nobody is held up by an end that stands still; waiting for its word has no limit but that the host is there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), 0))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Sender:
    """A rank's end.

    Raises:
        ClusterError: the driver can't be reached.
    """

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout)
        except OSError as error:
            raise ClusterError(
                explain(
                    f"{socket.gethostname()} can't reach the driver at {address.host}:{address.port}.",
                    expected="a way from every executor to the driver, on any port",
                    received=f"{type(error).__name__}: {error}",
                    fix="Open the way, or set spark.driver.host to an address that the executors reach. A client of "
                    "Spark Connect must be reached at its address towards the server.",
                )
            ) from error
        self._socket.settimeout(None)
        _limit_sending(self._socket, timeout)
        self._lock = threading.Lock()
        self._lines = self._socket.makefile("rb")
        self._socket.sendall(address.token.encode() + b"\n")

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; nothing is raised where the driver has gone, since Spark then ends the task."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(line)
            except OSError:
                return

    def receive(self) -> dict[str, Any]:
        """Wait for the driver's next message.

        Raises:
            ClusterError: the driver is gone.
        """
        try:
            line = self._lines.readline(_LONGEST_LINE)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise ClusterError(f"The driver no longer speaks with {socket.gethostname()}.")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()
