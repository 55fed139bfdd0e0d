"""`spark-dl ui`: open the MLflow page on the store that is set."""

from __future__ import annotations

import argparse
import subprocess
import time
import urllib.request
import webbrowser

from spark_dl.cli.command import Command
from spark_dl.cli.output import write_result

__all__ = ["COMMAND", "answers"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=5000, help="of a page that is served here (5000)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _run(given: argparse.Namespace) -> int:
    from spark_dl.track.runs import page

    address, command = page(given.port)
    write_result("ui", address, {"address": address}, as_json=given.log_json)
    process = subprocess.Popen(command) if command else None
    try:
        if not given.no_browser and answers(address, process):
            webbrowser.open(address)
        return process.wait() if process else 0
    except KeyboardInterrupt:  # Ctrl-C also ends the server
        return process.wait() if process else 0


def answers(address: str, process: subprocess.Popen[bytes] | None) -> bool:
    """Wait until a page answers; return False if the process that serves it ends first.

    Args:
        address: The URL of the page.
        process: The process that serves it; None for a server elsewhere, which isn't asked.
    """
    while process is not None and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return True
        except OSError:
            time.sleep(0.2)
    return process is None


COMMAND = Command(
    "ui",
    "open the MLflow page on the tracking store",
    _add_arguments,
    _run,
    more="The store is that of MLFLOW_TRACKING_URI. A page is served here unless the store is a server with its own.",
)
