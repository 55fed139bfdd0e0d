"""A host that doesn't belong to the cluster: it looks for open ports, writes to them, reads what comes, and stays.

Run as `python stranger.py ADDRESS...`; it ends with its standard input. The last line that it prints is JSON: how many
ports it has found, and the status lines and bodies of what spark_dl's own servers have answered.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from pathlib import Path

WORDS = [
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /global/0 HTTP/1.0\r\n\r\n",
    b"PUT /global/0 HTTP/1.0\r\nContent-Length: 5\r\n\r\nwrong",
    b"DELETE /global/0 HTTP/1.0\r\n\r\n",
    b'{"type": "Started", "rank": 0}\n' * 2,
    bytes(1 << 16),
    b"\xff" * 4096,
]


def answer(address: str, port: int, words: bytes) -> bytes:
    """What comes when these bytes are sent."""
    read = b""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1) as connection:
        connection.settimeout(0.3)
        connection.sendall(words)
        while part := connection.recv(1 << 16):
            read += part
    return read


def main(addresses: list[str]) -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    # Spark and spark_dl take ports that the system chooses.
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    known: set[tuple[str, int]] = set()
    answers: set[str] = set()
    staying = []
    while not ended.is_set():
        for address in addresses:
            for port in range(first, last + 1):
                with socket.socket() as probe:
                    probe.settimeout(1)
                    if ended.is_set() or probe.connect_ex((address, port)) or (address, port) in known:
                        continue
                known.add((address, port))
                for words in WORDS:
                    read = answer(address, port, words)
                    if b"Python" in read:  # http.server's header
                        head, _, body = read.decode(errors="replace").partition("\r\n\r\n")
                        answers.add(f"{head.splitlines()[0]} {body}")
                with contextlib.suppress(OSError):
                    staying.append(socket.create_connection((address, port), 1))
    print(json.dumps({"ports": len(known), "answers": sorted(answers)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
