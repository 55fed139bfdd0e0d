"""Check of the installed Horovod for TensorFlow support, by its files, since importing it takes seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sysconfig
from pathlib import Path

from spark_dl.errors import ClusterError, explain

__all__ = ["HOROVOD_FIX", "horovod_fault", "unfit_horovod"]

HOROVOD_FIX = (
    "Build Horovod where TensorFlow is installed already: scripts/setup.sh does; or HOROVOD_WITH_TENSORFLOW=1 "
    "HOROVOD_WITH_GLOO=1 pip install --force-reinstall --no-cache-dir --no-deps --no-build-isolation horovod==0.28.1."
)


def horovod_fault() -> str:
    """Find out why Horovod can't train with TensorFlow in this Python; "" if it can."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return "Horovod isn't installed"
    root = Path(spec.submodule_search_locations[0])
    # Without an importable TensorFlow, Horovod's setup silently skips its TensorFlow library.
    if not (root / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
        return "Horovod was built without TensorFlow"
    try:
        built_with = str(json.loads((root / "metadata.json").read_text(encoding="utf-8"))["tensorflow"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # an unknown version is no fault
    installed = _tensorflow()
    if installed and built_with.split(".")[:2] != installed.split(".")[:2]:
        return f"Horovod was built with TensorFlow {built_with}, and {installed} is installed"
    return ""


def unfit_horovod(where: str, fault: str) -> ClusterError:
    """Build the error for a Horovod that can't train with TensorFlow.

    Args:
        where: "driver", or "executor" with its address.
        fault: The result of `horovod_fault` there.
    """
    return ClusterError(
        explain(
            f"Horovod on the {where} can't train with TensorFlow.",
            expected="horovod.tensorflow, built with the TensorFlow that is installed",
            received=fault,
            fix=HOROVOD_FIX,
        )
    )


def _tensorflow() -> str:
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
