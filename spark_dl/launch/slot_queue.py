"""First-in, first-out queue in which the fits of one application request slots from Spark, one at a time.

Spark starts all tasks of a barrier stage at once, and skips a stage for which too few slots are free. Without a queue,
small fits could overtake a large one forever, and a fit that waits for another fit of its application would time out.
With it, a fit requests slots once all earlier fits have theirs, and its slotTimeout counts only while no other fit
holds slots.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from spark_dl.spark.session import application

__all__ = ["NOTICE_SECONDS", "Claim", "SlotQueue"]

# After this wait the user gets a message.
NOTICE_SECONDS = 5.0
# The attribute of the application object that holds the queue, so that both end together.
_ATTRIBUTE = "_spark_dl_slot_queue"


class Claim:
    """A fit's entry in the queue.

    Args:
        queue: The queue.
        size: The number of slots that the fit needs.
        on_wait: Called at most once, with a message for the user.
    """

    def __init__(self, queue: SlotQueue, size: int, on_wait: Callable[[str], None]) -> None:
        self._queue = queue
        self._size = size
        self._on_wait: Callable[[str], None] | None = on_wait
        self._asked_at = time.monotonic()

    def grant(self) -> None:
        """Record that Spark has provided the slots, so that the next fit in the queue may request its own."""
        self._queue.grant(self)

    def ask(self) -> None:
        """Start the timeout: it is this fit's turn."""
        self._asked_at = time.monotonic()

    def left(self, timeout: float) -> float:
        """Return the seconds that are left of a timeout, which counts only while no other fit holds slots.

        While one does, the user gets a message and the result is positive. Call again after these seconds; the timeout
        is over when the result is 0 or less.

        Args:
            timeout: The timeout in seconds.
        """
        free_since = self._queue.free_since()
        if free_since is None:
            self.notify()
            return max(timeout, NOTICE_SECONDS)
        return max(self._asked_at, free_since) + timeout - time.monotonic()

    def notify(self) -> None:
        """Show the user, once, that the fit is waiting for slots."""
        if self._on_wait is not None:
            on_wait, self._on_wait = self._on_wait, None
            on_wait(f"Waiting for {self._size} slots: other fits of this application come first.")


class SlotQueue:
    """Queue of the fits of one application that need slots, and a record of those that hold some."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asking: collections.deque[Claim] = collections.deque()
        self._granted: set[Claim] = set()
        self._working = 0
        self._free_since = time.monotonic()

    @staticmethod
    def of(spark: SparkSession) -> SlotQueue:
        """Return the queue of a session's application."""
        # setdefault is atomic, so that two threads get the same queue.
        queue: SlotQueue = vars(application(spark)).setdefault(_ATTRIBUTE, SlotQueue())
        return queue

    @contextmanager
    def claim(self, size: int, on_wait: Callable[[str], None]) -> Iterator[Claim]:
        """Wait until it is this fit's turn to request slots; its slots count as free when the `with` ends.

        Args:
            size: The number of slots.
            on_wait: Called at most once, with a message for the user about the wait.
        """
        claim = Claim(self, size, on_wait)
        try:
            with self._changed:
                self._asking.append(claim)
            self._wait(claim)
            claim.ask()
            yield claim
        finally:
            with self._changed:
                if claim in self._granted:
                    self._granted.remove(claim)
                    self._note_free()
                elif claim in self._asking:
                    self._asking.remove(claim)
                self._changed.notify_all()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Record that a fit holds slots by other jobs, such as its conversion, without entering the queue."""
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._note_free()

    def grant(self, claim: Claim) -> None:
        """Record that a claim in the queue has its slots."""
        with self._changed:
            self._asking.remove(claim)
            self._granted.add(claim)
            self._changed.notify_all()

    def free_since(self) -> float | None:
        """Return the time since which no fit holds slots, by the monotonic clock; None while one does."""
        with self._changed:
            return None if self._granted or self._working else self._free_since

    def _note_free(self) -> None:
        if not self._granted and not self._working:
            self._free_since = time.monotonic()

    def _wait(self, claim: Claim) -> None:
        def is_leader() -> bool:
            return self._asking[0] is claim

        with self._changed:
            if self._changed.wait_for(is_leader, NOTICE_SECONDS):
                return
        claim.notify()  # outside the lock, since it calls the user's tracker
        with self._changed:
            self._changed.wait_for(is_leader)
