"""What is installed is told from files: a Horovod that can't train with TensorFlow among it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tensorflow as tf

from spark_dl.diagnosis import machine
from spark_dl.installed import version_of
from spark_dl.launch.horovod_build import horovod_fault

EXTENSION = f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}"


def fault_of(root: Path) -> str:
    """What a process finds that sees this directory's packages first."""
    program = "from spark_dl.launch.horovod_build import horovod_fault; print(horovod_fault())"
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_horovod_that_set_up_built_has_no_fault() -> None:
    assert horovod_fault() == ""


@pytest.mark.parametrize(
    ("extension", "metadata", "expected"),
    [
        ("", {"dummy": "none"}, "Horovod was built without TensorFlow"),
        ("mpi_lib.cpython-27.so", {"tensorflow": tf.__version__}, "Horovod was built without TensorFlow"),
        (EXTENSION, {"tensorflow": "1.15.0"}, f"Horovod was built with TensorFlow 1.15.0, and {tf.__version__} is"),
        (EXTENSION, {"tensorflow": tf.__version__}, ""),
        (EXTENSION, None, ""),
    ],
)
def test_a_horovod_is_told_by_its_files(tmp_path: Path, extension: str, metadata: object, expected: str) -> None:
    package = tmp_path / "horovod"
    (package / "tensorflow").mkdir(parents=True)
    (package / "__init__.py").touch()
    if extension:
        (package / "tensorflow" / extension).touch()
    if metadata is not None:
        (package / "metadata.json").write_text(json.dumps(metadata))
    found = fault_of(tmp_path)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


def test_executors_are_compared_by_python_and_each_package_that_training_and_scoring_take() -> None:
    here = machine.versions()
    for name in ("python", "spark_dl", "pyspark", "tensorflow-cpu", "keras", "numpy", "pyarrow", "horovod"):
        found = machine.same_packages("host:1", here, {**here, name: "9.9"})
        assert found.found == f"{name} 9.9 (driver: {here[name]})"
        assert "Install the same packages" in found.fix


@pytest.mark.parametrize("missing", ["petastorm", "horovod"])
def test_a_missing_package_is_a_fault_but_for_petastorm_which_pyarrow_replaces(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    version_of.cache_clear()  # as in a new process
    (finding,) = (finding for finding in machine.packages("driver") if finding.what == missing)
    assert finding.found.startswith("missing")
    assert ("reads with pyarrow" in finding.found, bool(finding.fix)) == (
        (True, False) if missing == "petastorm" else (False, True)
    )
