"""CPU and memory usage of a rank's process."""

from __future__ import annotations

import time
from typing import NamedTuple

import psutil
import tensorflow as tf

__all__ = ["Usage", "UsageMeter"]


class Usage(NamedTuple):
    """Resource usage of a process, all its threads together.

    Attributes:
        busy_cores: The number of busy cores, since the last measurement.
        memory_bytes: The resident memory.
        gpu_memory_bytes: The memory that TensorFlow uses on the GPU; 0 without a GPU.
    """

    busy_cores: float
    memory_bytes: float
    gpu_memory_bytes: float


class UsageMeter:
    """Measurement of this process's resource usage."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        self._since, self._busy = time.monotonic(), self._seconds()

    def take(self) -> Usage:
        """Measure the usage; the busy cores are those since the last call."""
        since, busy = self._since, self._busy
        self._since, self._busy = time.monotonic(), self._seconds()
        gpu = tf.config.experimental.get_memory_info("GPU:0")["current"] if self._gpu else 0
        cores = (self._busy - busy) / max(self._since - since, 1e-9)
        return Usage(cores, float(self._process.memory_info().rss), float(gpu))

    def _seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
