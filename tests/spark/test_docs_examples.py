"""The examples of the documentation run as they are printed, each page in an empty directory."""

from __future__ import annotations

from pathlib import Path

import docs_examples
import pytest
from mlflow_stores import sqlite_store
from pyspark.sql import SparkSession


@pytest.mark.parametrize("page", docs_examples.pages())
def test_the_examples_of_a_page_run(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite_store(tmp_path, "examples"):
        docs_examples.run_page(page, spark)
