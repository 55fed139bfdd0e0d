"""Options of JVMs that live for a minute or two: those of the demo, the notebooks and the tests."""

from __future__ import annotations

import sys
from pathlib import Path

# Made by scripts/setup.sh.
_ARCHIVE = Path(sys.prefix) / "spark-classes.jsa"


def short_lived() -> str:
    """Such a JVM gains nothing from its second compiler and a concurrent collector, and much from archived classes."""
    archived = f" -XX:SharedArchiveFile={_ARCHIVE} -Xlog:cds*=off" if _ARCHIVE.exists() else ""
    return "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" + archived
