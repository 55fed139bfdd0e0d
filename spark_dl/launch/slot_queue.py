"""The order in which the fits of one application ask Spark for slots: one at a time, first come, first served.

Spark gives the tasks of a barrier stage their slots all at once, and passes over a stage for which too few are free. So
small fits could overtake a large one for ever, and a fit that waits for another one of its own application would give
up though nothing is wrong. Here a fit asks when those before it have their slots, and its slotTimeout counts only while
no other fit holds any.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from spark_dl.spark.session import application

__all__ = ["TELL_SECONDS", "Claim", "SlotQueue"]

# From here on the user is told what is waited for.
TELL_SECONDS = 5.0
# Where the application's own object keeps its queue: it ends with the application.
_ATTRIBUTE = "_spark_dl_slot_queue"


class Claim:
    """A fit's place in the queue.

    Args:
        queue: The queue.
        size: How many slots it asks for.
        say: Is given the line for the user, once.
    """

    def __init__(self, queue: SlotQueue, size: int, say: Callable[[str], None]) -> None:
        self._queue = queue
        self._size = size
        self._say: Callable[[str], None] | None = say
        self._asked_at = time.monotonic()

    def grant(self) -> None:
        """Note that Spark has given the slots; the next in the queue may ask."""
        self._queue.grant(self)

    def ask(self) -> None:
        """Note that it is this fit's turn."""
        self._asked_at = time.monotonic()

    def left(self, timeout: float) -> float:
        """Give the seconds that are left of a timeout, which counts only while no other fit holds slots.

        The user is told where one does. It is to be asked again when those seconds are over; 0 or less is the end.
        """
        free_since = self._queue.free_since()
        if free_since is None:
            self.tell()
            return max(timeout, TELL_SECONDS)
        return max(self._asked_at, free_since) + timeout - time.monotonic()

    def tell(self) -> None:
        """Tell the user what is waited for, once."""
        if self._say is not None:
            say, self._say = self._say, None
            say(f"Waiting for {self._size} slots: other fits of this application come first.")


class SlotQueue:
    """The fits of one application that ask for slots, and how many hold some."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asking: collections.deque[Claim] = collections.deque()
        self._granted: set[Claim] = set()
        self._working = 0
        self._free_since = time.monotonic()

    @staticmethod
    def of(spark: SparkSession) -> SlotQueue:
        """Give the queue of a session's application."""
        # In one step: threads may come at the same time.
        queue: SlotQueue = vars(application(spark)).setdefault(_ATTRIBUTE, SlotQueue())
        return queue

    @contextmanager
    def claim(self, size: int, say: Callable[[str], None]) -> Iterator[Claim]:
        """Wait until it is this fit's turn to ask for slots; what it was given is free when the `with` ends.

        Args:
            size: How many slots.
            say: Is given one line for the user where there is a wait.
        """
        claim = Claim(self, size, say)
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
        """Hold slots by other jobs of a fit, such as its conversion, which nobody needs to wait for."""
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._note_free()

    def grant(self, claim: Claim) -> None:
        """Note that a claim, the first in the queue, has its slots."""
        with self._changed:
            self._asking.remove(claim)
            self._granted.add(claim)
            self._changed.notify_all()

    def free_since(self) -> float | None:
        """Since when no fit holds slots, by the monotonic clock; None while one does."""
        with self._changed:
            return None if self._granted or self._working else self._free_since

    def _note_free(self) -> None:
        if not self._granted and not self._working:
            self._free_since = time.monotonic()

    def _wait(self, claim: Claim) -> None:
        def is_leader() -> bool:
            return self._asking[0] is claim

        with self._changed:
            if self._changed.wait_for(is_leader, TELL_SECONDS):
                return
        claim.tell()  # without the lock: it calls the user's tracker
        with self._changed:
            self._changed.wait_for(is_leader)
