"""The examples of the page about Spark Connect, from a client."""

from __future__ import annotations

from pathlib import Path

import docs_examples
import pytest
from pyspark.sql import SparkSession


def test_the_examples_for_spark_connect_run(
    server: str, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_REMOTE", server)
    docs_examples.run_page("guides/spark_connect.md", spark)
