"""A Spark action that runs beside the caller, can be waited for with a limit, and cancelled."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from pyspark import InheritableThread
from pyspark.sql import DataFrame, Row, SparkSession

from spark_dl.spark.session import cancel, tag_jobs

__all__ = ["SparkJob"]

_CANCEL_SECONDS = 10.0


class SparkJob:
    """The rows of a DataFrame, collected in a thread. Whoever leaves the `with` early cancels the job.

    So Ctrl-C reaches the caller, who waits in Python, and not in a call of the JVM that would swallow it.

    Args:
        frame: what to collect.
        on_end: called in the thread when the action has ended, well or not.
    """

    def __init__(self, frame: DataFrame, on_end: Callable[[], None] = lambda: None) -> None:
        self._spark: SparkSession = frame.sparkSession
        self._frame = frame
        self._on_end = on_end
        self._tag = f"spark-dl-{uuid.uuid4().hex}"
        self._rows: list[Row] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = InheritableThread(target=self._collect, session=self._spark, daemon=True)

    def __enter__(self) -> SparkJob:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._ended.is_set():
            cancel(self._spark, self._tag)
        self._thread.join(_CANCEL_SECONDS)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the action has ended, at most so long; whether it has."""
        return self._ended.wait(seconds)

    def rows(self) -> list[Row]:
        """The result, once the action has ended.

        Raises:
            Exception: what the action raised.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._rows

    def _collect(self) -> None:
        try:
            tag_jobs(self._spark, self._tag)
            self._rows = self._frame.collect()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
            self._on_end()
