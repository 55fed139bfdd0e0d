"""Files of an installed Horovod, since importing it takes seconds. Checked with Horovod 0.28.1."""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HorovodBuild", "installed_build"]


@dataclass(frozen=True)
class HorovodBuild:
    """Build of the installed Horovod.

    Attributes:
        has_tensorflow: Whether it has its TensorFlow library (`horovod/tensorflow/mpi_lib*.so`).
        tensorflow: The version of TensorFlow that it was built with (`horovod/metadata.json`); "" if it is unknown.
    """

    has_tensorflow: bool
    tensorflow: str


def installed_build() -> HorovodBuild | None:
    """Return the build of the Horovod that this Python would import; None if there is none."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    library = root / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}"
    try:
        built_with = str(json.loads((root / "metadata.json").read_text(encoding="utf-8"))["tensorflow"])
    except (OSError, ValueError, KeyError, TypeError):
        built_with = ""
    return HorovodBuild(library.exists(), built_with)
