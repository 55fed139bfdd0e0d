"""PySpark internals: the kind of a session, its Python, and Arrow types. Checked with PySpark 4.0.

Each docstring names the symbol behind the function. `tests/unit/test_compat.py` has a test for each, and
`tests/spark/test_compat.py` for what needs a JVM. Spark ML is in `_compat/spark_ml.py`, which loads more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import SparkSession, functions
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_type
from pyspark.sql.types import DataType, StructType

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "arrow_type",
    "arrow_udf",
    "is_connect",
    "read_broadcast",
    "run_python_daemon",
    "server_host",
    "set_worker_python",
    "spark_schema",
]


def is_connect(spark: SparkSession) -> bool:
    """Return whether a session is a client of Spark Connect, whose driver is another process.

    Behind it is the name of the package `pyspark.sql.connect`: importing the class to compare would need gRPC, which
    only such a client has.
    """
    return type(spark).__module__.startswith("pyspark.sql.connect")


def server_host(spark: SparkSession) -> str:
    """Return the host of a Spark Connect session's server (`SparkConnectClient.host`)."""
    return str(cast(Any, spark).client.host)


def set_worker_python(spark: SparkSession, executable: str) -> None:
    """Set the Python that a classic session's functions run with from now on (`SparkContext.pythonExec`).

    The setting `spark.pyspark.python` and the variable PYSPARK_PYTHON are read only when the session starts.
    """
    spark.sparkContext.pythonExec = executable


def arrow_type(kind: DataType) -> pa.DataType:
    """Return the Arrow type of a Spark type (`pyspark.sql.pandas.types.to_arrow_type`)."""
    return to_arrow_type(kind)


def arrow_udf() -> Callable[..., Any] | None:
    """Return `pyspark.sql.functions.arrow_udf`, which makes a UDF of Arrow arrays; None before Spark 4.1."""
    found: Callable[..., Any] | None = getattr(functions, "arrow_udf", None)
    return found


def spark_schema(schema: pa.Schema) -> StructType:
    """Return the Spark schema of an Arrow schema (`pyspark.sql.pandas.types.from_arrow_schema`)."""
    return from_arrow_schema(schema)


def read_broadcast(broadcast: Any) -> Any:
    """Return a broadcast's value, in a task without keeping it: `Broadcast.value` stays in memory with the worker.

    Behind it is `Broadcast._path`, the executor's file. With `spark.io.encryption.enabled`, Spark has read the value
    before the task begins, and keeps it for as long as the worker has it.
    """
    path = getattr(broadcast, "_path", None)
    driver = getattr(broadcast, "_sc", None) is not None
    return broadcast.value if path is None or driver else broadcast.load_from_path(path)


def run_python_daemon() -> None:
    """Fork Spark's Python workers of this process as the executor requests them (`pyspark.daemon.manager`)."""
    from pyspark.daemon import manager  # late import: reads the command line

    manager()  # type: ignore[no-untyped-call]
