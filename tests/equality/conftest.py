"""One cluster of two executor processes with two slots each for the folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession
from sessions import session


@pytest.fixture(scope="package")
def spark() -> Iterator[SparkSession]:
    with session("local-cluster[2,2,1024]") as made:
        yield made
