"""Check of the installed Horovod for TensorFlow support, by its files, since importing it takes seconds."""

from __future__ import annotations

import importlib.metadata

from spark_dl._compat.horovod import installed_build
from spark_dl.errors import ClusterError, explain
from spark_dl.installed import version_of

__all__ = ["HOROVOD_FIX", "horovod_fault", "unfit_horovod"]

HOROVOD_FIX = (
    "Build Horovod where TensorFlow is installed already: scripts/setup.sh does; or HOROVOD_WITH_TENSORFLOW=1 "
    "HOROVOD_WITH_GLOO=1 pip install --force-reinstall --no-cache-dir --no-deps --no-build-isolation horovod==0.28.1."
)


def horovod_fault() -> str:
    """Find out why Horovod can't train with TensorFlow in this Python; "" if it can."""
    build, installed = installed_build(), _tensorflow()
    if build is None:
        return "Horovod isn't installed"
    # Without an importable TensorFlow, Horovod's setup silently skips its TensorFlow library.
    if not build.has_tensorflow:
        return "Horovod was built without TensorFlow"
    # An unknown version is no fault.
    if installed and build.tensorflow and build.tensorflow.split(".")[:2] != installed.split(".")[:2]:
        return f"Horovod was built with TensorFlow {build.tensorflow}, and {installed} is installed"
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
            return version_of(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
