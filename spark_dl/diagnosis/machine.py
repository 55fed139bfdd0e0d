"""Checks of the local host without Spark: packages, Horovod, GPUs, disk space."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping

from packaging.requirements import Requirement

from spark_dl.diagnosis.report import Finding
from spark_dl.installed import version_of
from spark_dl.io.store import Store
from spark_dl.io.workspace import free_bytes
from spark_dl.launch.horovod_build import HOROVOD_FIX, horovod_fault

__all__ = [
    "absent",
    "horovod_and_gpus",
    "packages",
    "same_packages",
    "space",
    "versions",
]

_LEAST_FREE_BYTES = 1 << 30


def versions() -> dict[str, str]:
    """Return the versions of Python, of spark_dl and of its requirements; "missing" for packages not installed."""
    names = ["spark_dl", *(requirement.name for requirement in _requirements())]
    return {"python": ".".join(map(str, sys.version_info[:2])), **{name: _version(name) for name in names}}


def packages(where: str) -> list[Finding]:
    """Check the version of each requirement of spark_dl. Without Petastorm, a fit reads with pyarrow: no fault.

    Args:
        where: "driver" or an executor's address.
    """
    findings = []
    for requirement in _requirements():
        version = _version(requirement.name)
        if (requirement.name, version) == ("petastorm", "missing"):
            findings.append(Finding(where, "petastorm", "missing: reader='auto' reads with pyarrow"))
            continue
        fits = version != "missing" and requirement.specifier.contains(version, prereleases=True)
        fix = "" if fits else f"pip install '{requirement.name}{requirement.specifier}'"
        findings.append(Finding(where, requirement.name, version, fix))
    return findings


def same_packages(where: str, driver: Mapping[str, str], other: Mapping[str, str]) -> Finding:
    """Check that an executor has the driver's versions.

    Args:
        where: The executor's address.
        driver: The driver's versions, from `versions`.
        other: The executor's versions.
    """
    apart = {name: version for name, version in other.items() if driver.get(name) != version}
    text = ", ".join(f"{name} {version} (driver: {driver.get(name)})" for name, version in sorted(apart.items()))
    fix = "Install the same packages on every executor as on the driver." if apart else ""
    return Finding(where, "packages", text or "as on the driver", fix)


def horovod_and_gpus(where: str) -> list[Finding]:
    """Check in a subprocess what Horovod was built with and which GPUs TensorFlow sees.

    Args:
        where: "driver" or an executor's address.
    """
    if fault := horovod_fault():
        return [Finding(where, "Horovod", fault, HOROVOD_FIX)]
    program = (
        "import json, horovod.tensorflow as hvd, tensorflow as tf;"
        "print(json.dumps([hvd.gloo_built(), hvd.nccl_built(), len(tf.config.list_physical_devices('GPU'))]))"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ran.returncode != 0:
        last = ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else f"exit code {ran.returncode}"
        return [Finding(where, "Horovod", last, "Install the wheel that scripts/setup.sh builds.")]
    gloo, nccl, seen = json.loads(ran.stdout.strip().splitlines()[-1])
    there = _gpus_of_the_machine()
    flags = f"Gloo {'yes' if gloo else 'no'}, NCCL {'yes' if nccl else 'no'}"
    no_gloo = "" if gloo else "Build Horovod with HOROVOD_WITH_GLOO=1 (scripts/setup.sh does)."
    unused = "Run scripts/setup.sh --gpu." if there and not (seen and nccl) else ""
    return [
        Finding(where, "Horovod", flags, no_gloo),
        Finding(where, "GPUs", f"{seen} for TensorFlow, {there} in the machine", unused),
    ]


def absent(modules: Iterable[str]) -> list[str]:
    """Return those of some top-level modules that can't be found here; none is imported."""
    return [name for name in modules if name not in sys.modules and importlib.util.find_spec(name) is None]


def space(where: str, store: Store) -> Finding:
    """Check the free space of the cache directory; only local file systems tell it.

    Args:
        where: "driver" or an executor's address.
        store: The cache directory.
    """
    free = free_bytes(store)
    if free is None:
        return Finding(where, "cache directory", store.shown)
    fix = "" if free >= _LEAST_FREE_BYTES else "Free some space, or set cacheDir elsewhere."
    return Finding(where, "cache directory", f"{store.shown}, {free / 1e9:.1f} GB free", fix)


def _requirements() -> list[Requirement]:
    """List the package's requirements: those without an extra, and those of the extra "cpu"."""
    texts = importlib.metadata.requires("spark_dl") or []
    return [r for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate({"extra": "cpu"})]


def _version(name: str) -> str:
    # TensorFlow's distribution is tensorflow (with GPU support) or tensorflow-cpu.
    for candidate in (name, name.removesuffix("-cpu")):
        try:
            return version_of(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "missing"


def _gpus_of_the_machine() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0
