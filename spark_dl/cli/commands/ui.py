"""`spark-dl ui`: open the MLflow page on the store that is set."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result

__all__ = ["COMMAND", "answers", "served"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=5000, help="of a page that is served here (5000)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _run(given: argparse.Namespace) -> int:
    from spark_dl.track.runs import page

    address, command = page(given.port)
    write_result("ui", address, {"address": address}, as_json=given.log_json)
    if not command:
        if not given.no_browser:
            webbrowser.open(address)
        return 0
    with served(command) as process, suppress(KeyboardInterrupt):  # Ctrl-C is how users end it
        if not given.no_browser and answers(address, process):
            webbrowser.open(address)
        return process.wait()
    return 0


@contextmanager
def served(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and end it with the processes that it has started, also after SIGTERM.

    Args:
        command: The server's command.
    """
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command, process_group=0)
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, previous)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a page answers; return False if the process that serves it ends first.

    Args:
        address: The URL of the page.
        process: The process that serves it.
    """
    while process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


COMMAND = Command(
    "ui",
    "open the MLflow page on the tracking store",
    _add_arguments,
    _run,
    more="The store is that of MLFLOW_TRACKING_URI. A page is served here unless the store is a server with its own.",
)
