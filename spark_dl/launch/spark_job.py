"""A Spark action that runs beside the caller, can be waited for with a limit, and cancelled."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from pyspark import InheritableThread
from pyspark.sql import DataFrame, Row, SparkSession

__all__ = ["SparkJob"]

_CANCEL_SECONDS = 10.0


class SparkJob:
    """The rows of a DataFrame, collected in a thread. Ctrl-C reaches the caller, who leaves by the `with`.

    Args:
        frame: what to collect.
        on_end: called in the thread when the action has ended, well or not.
    """

    def __init__(self, frame: DataFrame, on_end: Callable[[], None]) -> None:
        self._spark: SparkSession = frame.sparkSession
        self._frame = frame
        self._on_end = on_end
        self._tag = f"spark-dl-{uuid.uuid4().hex}"
        self._rows: list[Row] = []
        self._error: BaseException | None = None
        self._thread = InheritableThread(target=self._collect, session=self._spark, daemon=True)

    def __enter__(self) -> SparkJob:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._thread.is_alive():
            self._spark.sparkContext.cancelJobsWithTag(self._tag)
        self._thread.join(_CANCEL_SECONDS)

    def rows(self) -> list[Row]:
        """The result of an action that has ended.

        Raises:
            Exception: what the action raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._rows

    def _collect(self) -> None:
        # The session's own tags (addTag, interruptTag) reach no job of a classic session in Spark 4.0.5.
        self._spark.sparkContext.addJobTag(self._tag)
        try:
            self._rows = self._frame.collect()
        except BaseException as error:
            self._error = error
        finally:
            self._on_end()
