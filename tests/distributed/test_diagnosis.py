"""The doctor on several executors of one host, and what `fit` checks of them before it writes data."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
from pyspark.sql import SparkSession

import spark_dl
from spark_dl.diagnosis import machine
from spark_dl.errors import ClusterError


@pytest.fixture(scope="module")
def report(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> spark_dl.diagnosis.Report:
    return spark_dl.doctor(spark, cacheDir=str(tmp_path_factory.mktemp("cache")))


@pytest.mark.stack
def test_each_executor_has_its_own_lines(report: spark_dl.diagnosis.Report) -> None:
    assert report.faults == []
    executors = {finding.where for finding in report.findings} - {"driver", "cluster"}
    assert len(executors) == 2
    for executor in executors:
        found = {finding.what: finding.found for finding in report.findings if finding.where == executor}
        assert found["other executors"] == "1 of 1 reached"
        assert found["connection to the driver"] == "open"
        assert "Gloo yes" in found["Horovod"]
        assert found["cache directory"].endswith("GB free")


def test_nothing_is_left_in_the_cache_directory(spark: SparkSession, tmp_path: Path) -> None:
    spark_dl.doctor(spark, cacheDir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.stack
@pytest.mark.parametrize(
    ("name", "words"), [("keras", r"Received: keras [\d.]+ \(driver: 9.9\). Install the same"), ("python", "MISMATCH")]
)
def test_an_executor_with_another_version_is_refused_before_data_is_written(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    here = machine.versions()
    if name == "python":
        monkeypatch.setattr(spark.sparkContext, "pythonVer", "3.9")
    else:
        monkeypatch.setattr(machine, "versions", lambda: {**here, name: "9.9"})
    estimator = spark_dl.KerasRegressor(model=models.regressor(), loss="mse", cacheDir=str(tmp_path), tracking=None)
    with pytest.raises(ClusterError, match=f"(?s)Expected: .*{words}"):
        estimator.fit(models.frame(spark, rows=40))
    assert list(tmp_path.iterdir()) == []


def test_an_archive_for_another_platform_is_refused_with_what_its_python_said(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, cache = tmp_path / "python", tmp_path / "cache"
    python.write_bytes(b"\x7fELF of another processor")  # which Java hands to a shell, as the system can't run it
    python.chmod(0o755)
    monkeypatch.setattr(spark.sparkContext, "pythonExec", str(python))
    estimator = spark_dl.KerasRegressor(model=models.regressor(), loss="mse", cacheDir=str(cache), tracking=None)
    with pytest.raises(ClusterError, match=r"Received: .*ELF.*not found\. .*for the platform that it was packed on"):
        estimator.fit(models.frame(spark, rows=40))
    assert list(cache.iterdir()) == []
