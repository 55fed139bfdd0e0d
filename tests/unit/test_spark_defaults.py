"""The settings of Spark in conf: each with its reason, those for GPUs an extension of those for CPUs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

CONF = Path(__file__).parents[2] / "conf"


def settings(name: str) -> dict[str, tuple[str, str]]:
    """The value of each setting, and the line before it."""
    lines = (CONF / f"spark-defaults-{name}.conf").read_text().splitlines()
    pairs = [(line.split(), before) for before, line in zip(["", *lines], lines, strict=False)]
    return {words[0]: (" ".join(words[1:]), before) for words, before in pairs if words and words[0] != "#"}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_each_setting_has_its_reason(name: str) -> None:
    found = settings(name)
    assert len(found) >= 3
    assert [key for key, (value, reason) in found.items() if not value or not reason.startswith("# ")] == []


def test_gpus_need_all_that_cpus_do() -> None:
    cpu, gpu = settings("cpu"), settings("gpu")
    assert cpu.keys() < gpu.keys()
    differs = {key for key, (value, _) in cpu.items() if gpu[key][0] != value}
    assert differs == {"spark.executor.memoryOverhead"}


@pytest.mark.parametrize(("listed", "addresses"), [("0\n1\n", ["0", "1"]), ("", [])])
def test_the_discovery_script_prints_what_spark_reads(tmp_path: Path, listed: str, addresses: list[str]) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run([CONF / "get_gpus.sh"], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(ran.stdout) == {"name": "gpu", "addresses": addresses}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert subprocess.run([CONF / "get_gpus.sh"], capture_output=True, check=False, env=environment).returncode == 9
