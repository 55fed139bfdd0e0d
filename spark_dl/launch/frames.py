"""Messages between a task, its rank and the fork server: pickles, each after its length in 8 bytes."""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

__all__ = ["read_frame", "write_frame"]

_HEADER = struct.Struct("<Q")


def write_frame(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    content = pickle.dumps(message)
    stream.write(_HEADER.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: BinaryIO) -> Any:
    """Read one message; None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    content = stream.read(length)
    return pickle.loads(content) if len(content) == length else None
