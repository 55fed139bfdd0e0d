"""Spark action in a background thread, with a timed wait and cancellation."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

from pyspark import InheritableThread
from pyspark.sql import DataFrame, Row, SparkSession

from spark_dl.spark.session import cancel, started_stages, tag_jobs

__all__ = ["SparkJob"]

_CANCEL_SECONDS = 10.0


class SparkJob:
    """Collection of a DataFrame in a thread; leaving the `with` before its end cancels the job.

    The caller waits in Python, where Ctrl-C reaches it; a call into the JVM would swallow it.

    Args:
        frame: The DataFrame to collect.
        on_end: Called in the thread when the action has ended, with or without an error.
    """

    def __init__(self, frame: DataFrame, on_end: Callable[[], None] = lambda: None) -> None:
        self._spark: SparkSession = frame.sparkSession
        self._frame = frame
        self._on_end = on_end
        self._tag = f"spark-dl-{uuid.uuid4().hex}"
        self._rows: list[Row] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._earlier: set[int] = set()
        self._thread = InheritableThread(target=self._collect, session=self._spark, daemon=True)

    def __enter__(self) -> SparkJob:
        self._earlier = set(started_stages(self._spark) or ())
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._ended.is_set():
            cancel(self._spark, self._tag)
        self._thread.join(_CANCEL_SECONDS)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the action has ended.

        Args:
            seconds: The timeout in seconds; None for no timeout.

        Returns:
            Whether the action has ended.
        """
        return self._ended.wait(seconds)

    def has_started(self, tasks: int) -> bool | None:
        """Return whether Spark has started the tasks of the job's only stage; None if it can't be asked.

        Args:
            tasks: The number of tasks, by which the stage is known among those that have begun since the job.
        """
        stages = started_stages(self._spark)
        if stages is None:
            return None
        return any(size == tasks for number, size in stages.items() if number not in self._earlier)

    def rows(self) -> list[Row]:
        """Wait until the action has ended, and return its rows.

        Raises:
            Exception: The action raised it.
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
