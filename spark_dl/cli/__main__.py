"""The command line interface as a file, for `python -m spark_dl.cli` and `spark-submit $(spark-dl path)`."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["run"]


def run() -> int:
    """Run the command of the process's arguments; return the exit code."""
    folder = Path(__file__).resolve().parent
    # A program that is run as a file has its folder first on the path, where these modules would hide the user's.
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    if (root := str(folder.parents[1])) not in sys.path:
        sys.path.append(root)
    from spark_dl.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
