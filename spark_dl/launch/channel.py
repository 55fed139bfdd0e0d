"""Channel between the driver and the running ranks: messages as JSON lines over one TCP connection per rank.

It is guarded by a token and limits each line to 1 MiB. Results are rows of the Spark job, so that none is lost; the
channel carries what is needed at once: the rendezvous address, progress, and failures.
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
from typing import TYPE_CHECKING, TypeVar

from spark_dl.errors import ClusterError, explain
from spark_dl.launch.messages import FROM_TASKS, Address, DriverMessage, JobEnded, TaskMessage
from spark_dl.spark.session import driver_address
from spark_dl.wire import decode, encode

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Channel", "MessageQueue", "Sender"]

M = TypeVar("M", bound=DriverMessage)
MessageQueue = queue.Queue[TaskMessage | JobEnded]

_LONGEST_LINE = 1 << 20
# A connection that sends no token in this time is closed.
_TOKEN_SECONDS = 30.0


class Channel:
    """The driver's end of the channel, open while the `with` lasts.

    Args:
        host: The driver's address as the executors know it.
        bind: The address to listen on, which may differ.
        messages: The queue that receives each message.

    Attributes:
        address: The address for the ranks, with the token that they send first.

    Raises:
        ClusterError: This host can't listen on the address.
    """

    def __init__(self, host: str, bind: str, messages: MessageQueue) -> None:
        token = secrets.token_hex(16)
        self._ranks: list[socket.socket] = []
        self._connections = 0
        self._closed = False
        self._changed = threading.Condition()
        channel, ranks, changed = self, self._ranks, self._changed

        class Handler(socketserver.StreamRequestHandler):
            timeout = _TOKEN_SECONDS

            def handle(self) -> None:
                if not secrets.compare_digest(self._line(), token.encode()):
                    return
                self.connection.settimeout(None)
                _limit_sending(self.connection)
                with changed:
                    if channel._closed:  # it was connected while the channel was closed
                        return
                    ranks.append(self.connection)
                    channel._connections += 1
                try:
                    while line := self._line():
                        with contextlib.suppress(ValueError):  # a line that is too long, or no message, is skipped
                            messages.put(decode(json.loads(line), FROM_TASKS))
                finally:
                    with changed:
                        ranks.remove(self.connection)
                        changed.notify_all()

            def _line(self) -> bytes:
                try:
                    return self.rfile.readline(_LONGEST_LINE).strip()
                except OSError:  # the rank's task is gone: Spark reports it to the driver
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
    def of(cls, spark: SparkSession, messages: MessageQueue) -> Channel:
        """Make a channel on the address at which the session's executors know the driver."""
        return cls(*driver_address(spark), messages)

    def broadcast(self, message: DriverMessage) -> None:
        """Send a message to all connected ranks."""
        line = _line_of(message)
        for rank in self._connected():
            try:
                rank.sendall(line)
            except OSError:  # the rank's task is gone, or has half a line
                with contextlib.suppress(OSError):
                    rank.shutdown(socket.SHUT_RDWR)

    def _connected(self) -> list[socket.socket]:
        with self._changed:
            return list(self._ranks)

    def wait_for_end(self, connections: int, seconds: float) -> bool:
        """Wait until so many tasks have connected and all have closed: then all of their messages are in the queue.

        Args:
            connections: The number of tasks.
            seconds: The timeout in seconds.

        Returns:
            Whether they have; False for a task that never connected, or whose host is gone.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._connections >= connections and not self._ranks, seconds)

    def __enter__(self) -> Channel:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
        for rank in self._connected():
            with contextlib.suppress(OSError):
                rank.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _line_of(message: TaskMessage | DriverMessage) -> bytes:
    return json.dumps(encode(message)).encode() + b"\n"


def _limit_sending(connection: socket.socket, seconds: float = 10.0) -> None:
    """Limit how long sending may block; receiving blocks as long as TCP keepalive finds the other host alive."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), 0))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Sender:
    """The end of the channel in a rank's task.

    Args:
        address: The address of the driver's end.
        timeout: The seconds to wait for the connection, and for each message to be sent.

    Raises:
        ClusterError: The driver can't be reached.
    """

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        try:
            self._socket = socket.create_connection((address.host, address.port), timeout)
        except OSError as error:
            raise ClusterError(
                explain(
                    f"{socket.gethostname()} can't reach the driver at {address.host}:{address.port}.",
                    expected="connections from every executor to the driver, on any port",
                    received=f"{type(error).__name__}: {error}",
                    fix="Open the ports, or set spark.driver.host to an address that the executors reach. A client of "
                    "Spark Connect must be reached at its address towards the server.",
                )
            ) from error
        self._socket.settimeout(None)
        _limit_sending(self._socket, timeout)
        self._lock = threading.Lock()
        self._lines = self._socket.makefile("rb")
        self._socket.sendall(address.token.encode() + b"\n")

    def send(self, message: TaskMessage) -> None:
        """Send one message. If the driver is gone, nothing is raised, since Spark ends the task."""
        line = _line_of(message)
        with self._lock:
            try:
                self._socket.sendall(line)
            except OSError:
                return

    def receive(self, kind: type[M]) -> M:
        """Wait for the driver's next message.

        Args:
            kind: The class of the message.

        Raises:
            ClusterError: The connection has ended.
        """
        try:
            line = self._lines.readline(_LONGEST_LINE)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise ClusterError(
                explain(
                    f"The driver has closed the connection to {socket.gethostname()}.",
                    expected="the driver's answer",
                    received="the end of the connection",
                    fix="See the driver's log: it ended, gave up, or its host can't be reached.",
                )
            )
        return decode(json.loads(line), (kind,))

    def detach(self) -> int:
        """Return the descriptor of the connection, which the caller closes; it ends when the driver closes its end."""
        self._lines.close()
        return self._socket.detach()

    def close(self) -> None:
        """Close the connection; a thread that waits in `receive` gets its end."""
        with contextlib.suppress(OSError):  # the driver has closed it
            self._socket.shutdown(socket.SHUT_RD)
        self._lines.close()
        self._socket.close()
