"""Whether the Horovod that is installed can train with TensorFlow: told by its files, since an import takes seconds."""

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
    """Say why Horovod can't train with TensorFlow in this Python, or ""."""
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return "Horovod isn't installed"
    root = Path(spec.submodule_search_locations[0])
    # Horovod's own set-up leaves out, without an error, what TensorFlow needs where it can't import TensorFlow.
    if not (root / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
        return "Horovod was built without TensorFlow"
    try:
        built_with = str(json.loads((root / "metadata.json").read_text(encoding="utf-8"))["tensorflow"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # only what is known to be wrong is a fault
    installed = _tensorflow()
    if installed and built_with.split(".")[:2] != installed.split(".")[:2]:
        return f"Horovod was built with TensorFlow {built_with}, and {installed} is installed"
    return ""


def unfit_horovod(where: str, fault: str) -> ClusterError:
    """The error for a Horovod with a fault.

    Args:
        where: "driver", or an executor.
        fault: what `horovod_fault` says there.
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
