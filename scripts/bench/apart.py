"""Timed calls in a process of their own, also in another environment; so it imports nothing that is not Python's."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["second", "seconds"]


def second(run: Callable[[], Any]) -> None:
    """Prints the seconds of the second call."""
    run()
    began = time.perf_counter()
    run()
    print("SECONDS", time.perf_counter() - began, flush=True)


def seconds(python: str, script: str, *words: str) -> float:
    """What `second` says in a process of this Python that runs the script with these words."""
    environment = {**os.environ, "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python}
    if python != sys.executable:
        environment["PATH"] = f"{Path(python).parent}:{os.environ['PATH']}"
    ran = subprocess.run([python, script, *words], capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("SECONDS")]
    if not lines:
        raise SystemExit(f"{words[0]} failed: {ran.stderr[-3000:]}")
    return float(lines[-1].split()[1])
