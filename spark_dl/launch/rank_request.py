"""How a request for a rank's process travels: over a Unix socket, with the file descriptors of its pipes."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NamedTuple

from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import RankRequest

__all__ = ["Descriptors", "receive_request", "send_request"]


class Descriptors(NamedTuple):
    """The file descriptors of a rank's process.

    Attributes:
        task: The process reads its task from it.
        output: The process writes its standard output and error to it.
        answers: The process writes its messages to it.
        pool: The connection to the driver that ends when the rank's pool closes; -1 for a rank without a pool.
    """

    task: int
    output: int
    answers: int
    pool: int = -1

    def opened(self) -> list[int]:
        """Return those that are open."""
        return [descriptor for descriptor in self if descriptor >= 0]

    def close(self) -> None:
        """Close all of them; those that are closed already don't matter."""
        for descriptor in self.opened():
            with contextlib.suppress(OSError):
                os.close(descriptor)


def send_request(connection: socket.socket, request: RankRequest, descriptors: Descriptors) -> None:
    """Send a request with its descriptors, which stay open here.

    Raises:
        OSError: The other process is gone.
    """
    socket.send_fds(connection, [b"r"], descriptors.opened())
    with connection.makefile("wb") as stream:
        write_frame(stream, request)


def receive_request(connection: socket.socket) -> tuple[RankRequest | None, Descriptors | None]:
    """Wait for a request; None at the end of the connection.

    Raises:
        OSError: The connection is broken, or its timeout has passed.
    """
    _, opened, _, _ = socket.recv_fds(connection, 1, len(Descriptors._fields))
    if not opened:
        return None, None
    descriptors = Descriptors(*opened)
    try:
        with connection.makefile("rb") as stream:
            request = read_frame(stream)
    except BaseException:
        descriptors.close()
        raise
    return request, descriptors
