"""CPU and memory usage of a rank's process."""

from __future__ import annotations

import time

import psutil
import tensorflow as tf

__all__ = ["Usage"]


class Usage:
    """Resource usage of this process, all its threads together."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        self._since, self._busy = time.monotonic(), self._seconds()

    def take(self) -> tuple[float, float, float]:
        """Return the busy cores since the last call, and the current bytes of resident memory and of GPU memory."""
        since, busy = self._since, self._busy
        self._since, self._busy = time.monotonic(), self._seconds()
        gpu = tf.config.experimental.get_memory_info("GPU:0")["current"] if self._gpu else 0
        cores = (self._busy - busy) / max(self._since - since, 1e-9)
        return cores, float(self._process.memory_info().rss), float(gpu)

    def _seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
