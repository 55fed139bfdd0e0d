"""The bench for machines with GPUs, on two CPU ranks."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest
from pyspark.sql import SparkSession

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCH))


def test_two_ranks_train_its_network_on_its_rows(gpu: ModuleType, spark: SparkSession) -> None:
    cloudpickle.register_pickle_by_value(gpu)
    try:
        known = argparse.Namespace(cpu=True, filters=2, batch=32, epochs=2)
        speed, joined = gpu.ours(gpu.images(spark, 128), known, 2, "float32", "fp16")
    finally:
        cloudpickle.unregister_pickle_by_value(gpu)
    assert speed > 0
    assert joined.endswith(" %")


def test_mixed_precision_computes_in_float16_and_ends_in_float32(gpu: ModuleType) -> None:
    model = gpu.network(2, "mixed_float16")
    assert {layer.compute_dtype for layer in model.layers if "conv2d" in layer.name} == {"float16"}
    assert model.output.dtype == "float32"


def test_without_a_gpu_the_script_says_so(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "readlink", "uname"):
        found = next(Path(folder, name) for folder in os.environ["PATH"].split(":") if Path(folder, name).exists())
        (tmp_path / name).symlink_to(found)
    ran = subprocess.run(
        [BENCH / "gpu.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert ran.returncode == 2
    assert "nvidia-smi does not run" in ran.stderr
