"""The doctor on a real session: a table with a fix for each fault; and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import spark_dl
import spark_dl.diagnosis
from spark_dl.io.workspace import Workspace

TESTS = Path(__file__).parent.parent
# What is looked at on each executor.
EXECUTORS = {"packages", "connection to the driver", "other executors", "Horovod", "GPUs", "cache directory"}


@pytest.fixture(scope="module")
def report(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> spark_dl.diagnosis.Report:
    return spark_dl.doctor(spark, cacheDir=str(tmp_path_factory.mktemp("cache")))


def test_a_healthy_machine_has_no_faults(report: spark_dl.diagnosis.Report) -> None:
    assert report.faults == []
    found = {finding.what: finding.found for finding in report.findings if finding.where in ("driver", "cluster")}
    assert found["pyspark"].startswith("4.0")
    assert found["slots"] == "2 on local[2]"
    assert "Gloo yes" in found["Horovod"]
    assert found["Java"].split(".")[0] in ("17", "21")
    assert {f.what for f in report.findings if f.where not in ("driver", "cluster")} == EXECUTORS


def test_the_table_shows_every_finding(report: spark_dl.diagnosis.Report) -> None:
    lines = str(report).splitlines()
    assert lines[0].split() == ["where", "what", "found"]
    assert lines[-1] == "0 faults found."
    assert len(lines) == len(report.findings) + 3


def test_a_directory_that_cant_be_used_is_a_fault_with_its_fix(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    report = spark_dl.doctor(spark, cacheDir=str(tmp_path / "file"))
    (fault,) = report.faults
    assert fault.what == "cache directory"
    assert "another directory" in fault.fix
    assert f"FAULT on driver, cache directory: {tmp_path}/file" in str(report)


def test_a_directory_that_executors_dont_share_is_a_fault(spark: SparkSession) -> None:
    report = spark_dl.doctor(spark, cacheDir="memory://elsewhere")
    assert {(fault.what, fault.found) for fault in report.faults} == {("cache directory", "not shared")}


# What another Python lacks: (what it runs as it starts, what its error says).
LACKS = {
    "spark_dl": ("import sys; sys.modules['spark_dl'] = None", ["An executor can't run spark_dl.", "PYSPARK_PYTHON="]),
    "Horovod for TensorFlow": (
        "import sys; sys.path.insert(0, {folder!r} + '/bare')",
        ["Horovod on the executor", "built without TensorFlow", "HOROVOD_WITH_TENSORFLOW=1"],
    ),
}


@pytest.mark.parametrize("what", LACKS)
def test_what_executors_lack_is_named_before_any_data_is_written(what: str, tmp_path: Path) -> None:
    # A Python that finds the packages, but not this: started in isolation from where it was installed.
    program, texts = LACKS[what]
    python = tmp_path / "python"
    (tmp_path / "bare" / "horovod" / "tensorflow").mkdir(parents=True)
    (tmp_path / "bare" / "horovod" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text(program.format(folder=str(tmp_path)))
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{tmp_path}:$PYTHONPATH"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    rows = "SELECT array(float(id), 1f, 1f, 1f) AS features, double(id) AS label FROM range(8)"
    command = ["train", "--estimator", "regressor", "--model", "models:regressor", "--sql", rows]
    command += ["--master", "local[1]", "--spark-conf", f"{{spark.pyspark.python: {python}}}", "--set", "tracking=null"]
    ran = subprocess.run(
        [sys.executable, "-m", "spark_dl.cli", *command],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYSPARK_PYTHON": str(python)},
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, ""), ran.stderr[-3000:]
    error = ran.stderr.rstrip().splitlines()[-1]  # Spark's own log comes before it
    assert error.startswith("spark-dl: ")
    assert [text for text in texts if text not in error] == []


WITH_THE_DRIVERS_PYTHON = """
import models
from pyspark.sql import SparkSession
from spark_dl import KerasRegressor
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
# Without a row from Python, for which Spark has chosen its Python already.
data = spark.range(8).selectExpr("array(float(id), 1f, 1f, 1f) AS features", "double(id) AS label")
fitted = KerasRegressor(model=models.regressor(), tracking=None, verbose=0).fit(data)
print("SCORED", fitted.transform(data).where("prediction is not null").count())
spark.stop()
"""


def test_a_local_session_runs_the_drivers_python_and_not_the_first_on_path(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    # Spark's own scripts ask it for Spark's home, which it knows.
    refuses = 'case "$*" in *pyspark.daemon*|*pyspark.worker*) exit 1;; esac'
    python.write_text(f'#!/bin/sh\n{refuses}\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_")}
    ran = subprocess.run(
        [sys.executable, "-c", WITH_THE_DRIVERS_PYTHON],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={**environment, "PATH": f"{tmp_path}:{environment['PATH']}"},
        check=False,
    )
    assert "SCORED 8" in ran.stdout, ran.stderr[-3000:]


def test_the_command_prints_the_table() -> None:
    command = [sys.executable, "-m", "spark_dl.cli", "doctor", "--master", "local[1]"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == "0 faults found."


def test_clean_removes_what_a_killed_driver_left_and_nothing_else(tmp_path: Path) -> None:
    def leave() -> str:
        program = (
            "import os, sys; from spark_dl.io.workspace import Workspace\n"
            "store = Workspace(sys.argv[1], 'local').__enter__(); print(store.path, flush=True); os._exit(1)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
        )
        return ran.stdout.strip()

    left = leave()
    (tmp_path / "mine").mkdir()
    with Workspace(str(tmp_path), "local[1]") as living:
        command = [sys.executable, "-m", "spark_dl.cli", "clean", str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.stdout == f"removed file://{left}\n1 removed.\n"
        assert Path(living.path).exists()
        assert json.loads(living.read("owner.json"))["pid"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
