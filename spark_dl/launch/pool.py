"""Pool of ranks: processes that wait on their executors for the next launch, instead of ending with theirs.

A waiting process holds memory (of the GPU, too, if its rank had one), but no slot of Spark: each launch is a barrier
stage of its own, whose tasks take the processes that wait on their executors, and fork those that are missing. So
ranks may be killed, executors may come and go, and other jobs run in between.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from spark_dl.launch.channel import Channel
from spark_dl.launch.messages import Membership

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["RankPool"]


class RankPool:
    """Ranks of the launches that get this pool; they end when it is closed, or with the driver.

    Args:
        idle_timeout: The seconds for which a process waits for its next task.
    """

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout
        self._open = contextlib.ExitStack()
        self._channel: Channel | None = None
        self._lock = threading.Lock()

    def membership(self, spark: SparkSession) -> Membership:
        """Return what a launch's ranks need to join the pool, which is opened by the first call.

        Raises:
            ClusterError: This host can't listen on the address at which executors reach it.
        """
        with self._lock:
            if self._channel is None:
                # Each process holds a connection to it, by whose end it knows that the pool is closed.
                self._channel = self._open.enter_context(Channel.of(spark, queue.Queue()))
            return Membership(self._channel.address, self._idle_timeout)

    def close(self) -> None:
        """End the processes that wait, and those that run once their task has ended. The pool can be used again."""
        with self._lock:
            self._open.close()
            self._channel = None
