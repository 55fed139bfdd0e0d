"""How a request for a rank's process travels: over a Unix socket, with the file descriptors of its pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import NamedTuple

from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import RankRequest

__all__ = ["OFFER", "TAKES", "WAITS", "Descriptors", "receive_request", "send_request", "take_offers"]

# The fork server asks a process that waits whether it takes a request; the process says that it does, or that it waits.
OFFER, TAKES, WAITS = b"?", b"!", b"w"


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
        OSError: The connection is broken, its timeout has passed, or there are too many open files.
    """
    _, opened, flags, _ = socket.recv_fds(connection, 1, len(Descriptors._fields))
    if not opened and not flags & socket.MSG_CTRUNC:
        return None, None
    descriptors = Descriptors(*opened, *[-1] * (len(Descriptors._fields) - len(opened)))
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with connection.makefile("rb") as stream:
            request = read_frame(stream)
    except BaseException:
        descriptors.close()
        raise
    return request, descriptors


def take_offers(connection: socket.socket) -> None:
    """Answer the fork server's offers, until a request or the end of the connection can be read."""
    while connection.recv(1, socket.MSG_PEEK) == OFFER:
        connection.recv(1)
        connection.sendall(TAKES)
