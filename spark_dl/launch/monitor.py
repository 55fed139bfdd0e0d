"""The driver's view of running ranks: their messages, their heartbeats and the deadlines for both."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dl.errors import ClusterError, RankError, explain
from spark_dl.launch import slots
from spark_dl.launch.failure import Failure, first_cause
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slot_queue import TELL_SECONDS, Claim

__all__ = ["RankMonitor"]

# After a failure, the other ranks get this long to report theirs before the stage is cancelled.
_FAILURE_GRACE_SECONDS = 5.0
_LATE_SECONDS = 0.1


@dataclass(frozen=True)
class _Mark:
    """A rank's last heartbeat.

    Attributes:
        count: The number of heartbeats so far.
        where: What the rank's function was doing.
        stack: The stack of its main thread, if the count hasn't changed since the message before; else "".
        at: When the count last changed, by the monotonic clock.
    """

    count: int
    where: str
    stack: str
    at: float


class RankMonitor:
    """Monitor of the ranks of one job, which raises when a deadline passes or a rank is stuck.

    Args:
        size: The number of ranks.
        settings: The launch settings, which hold the timeouts.
        on_report: Called with each report of a rank, and with warnings of this monitor.
        on_ready: Called once, when all ranks are ready to start Horovod, with the facts of each, in rank order.
        claim: The job's claim in the application's slot queue; None without a queue.

    Attributes:
        ended: Whether the Spark job has ended.
        failures: The failures reported so far, by rank.
    """

    def __init__(
        self,
        size: int,
        settings: LaunchSettings,
        on_report: Callable[[dict[str, Any]], None],
        on_ready: Callable[[list[dict[str, Any]]], None],
        claim: Claim | None = None,
    ) -> None:
        self.ended = False
        self.failures: dict[int, Failure] = {}
        self._size = size
        self._settings = settings
        self._on_report = on_report
        self._on_ready = on_ready
        self._arrived: dict[int, str] = {}
        self._ready: dict[int, dict[str, Any]] = {}
        self._started: set[int] = set()
        self._marks: dict[int, _Mark] = {}
        self._warned_at = 0.0
        self._claim = claim
        first = settings.slot_timeout if claim is None else min(settings.slot_timeout, TELL_SECONDS)
        self._deadline: float | None = time.monotonic() + first

    def take(self, messages: queue.Queue[dict[str, Any]]) -> None:
        """Wait for the next message until the deadline, and handle it.

        Raises:
            RankError: A rank is stuck, a reported failure has passed its grace period, or all ranks are silent.
            ClusterError: The ranks don't get their slots in time, or don't meet in time.
        """
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        message = None
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=left)
        if message is None:
            if self._waits_for_slots():
                return
            raise self._overdue()
        self._on(message)
        # Handling a report may take long, so heartbeats are judged only once no message is waiting.
        if message["event"] == "heartbeat" and messages.empty():
            self._check_marks()

    def take_late(self, messages: queue.Queue[dict[str, Any]]) -> None:
        """Handle the messages that arrive after the job's end, which takes another path than they do."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._on(messages.get(timeout=_LATE_SECONDS))

    def _on(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ended":
            self.ended = True
        elif event == "report":
            self._on_report(message["content"])
        elif event == "heartbeat":
            self._on_mark(message)
        elif event == "failed":
            self.failures[message["rank"]] = Failure(**message["failure"])
            self._deadline = time.monotonic() + _FAILURE_GRACE_SECONDS
        elif event == "arrived":
            self._arrived[message["rank"]] = message["host"]
            if len(self._arrived) == self._size and not self.failures:
                self._deadline = time.monotonic() + self._settings.start_timeout
                if self._claim:
                    self._claim.grant()
        elif event == "ready":
            self._ready[message["rank"]] = message["facts"]
            if len(self._ready) == self._size:
                self._on_ready([self._ready[rank] for rank in range(self._size)])
        elif event == "started":
            self._started.add(message["rank"])
            if len(self._started) == self._size and not self.failures:
                self._deadline = None

    def _on_mark(self, message: dict[str, Any]) -> None:
        before = self._marks.get(message["rank"])
        moved = before is None or before.count != message["count"]
        at = time.monotonic() if before is None or moved else before.at
        self._marks[message["rank"]] = _Mark(message["count"], message["where"], message["stack"], at)
        if not self.failures and len(self._started) == self._size:
            # Living ranks send heartbeats each second, even while they wait: this deadline is for all being silent.
            self._deadline = time.monotonic() + self._settings.stall_timeout + 2 * self._settings.collective_timeout

    def _check_marks(self) -> None:
        """Warn about a stuck rank, and later raise.

        Ranks wait for each other in each step, so the one with the fewest heartbeats is the one that is stuck.

        Raises:
            RankError: No rank has had a new heartbeat for stallTimeout.
        """
        if not self._marks or self.failures:
            return
        still = time.monotonic() - max(heartbeat.at for heartbeat in self._marks.values())
        if still < self._settings.stall_timeout / 2:
            return
        nowhere = _Mark(0, "the beginning", "", 0.0)
        all_ranks = {rank: self._marks.get(rank, nowhere) for rank in sorted(self._arrived)}
        rank, heartbeat = min(all_ranks.items(), key=lambda item: item[1].count)
        host = self._arrived.get(rank, "an unknown host")
        text = f"Rank {rank} on host {host} has stood at {heartbeat.where} for {still:.0f} s"
        if still >= self._settings.stall_timeout:
            raise RankError(
                explain(
                    f"{text}, and the others wait for it.",
                    expected=f"a step at least every {self._settings.stall_timeout:g} s (stallTimeout)",
                    received=f"nothing; it stands here:\n{heartbeat.stack}",
                    fix="Look at what the code does there, or raise stallTimeout if a step may take so long.",
                ),
                rank=rank,
                host=host,
                rank_traceback=heartbeat.stack,
            )
        if time.monotonic() - self._warned_at > self._settings.stall_timeout:
            self._warned_at = time.monotonic()
            self._on_report({"kind": "warning", "text": f"{text}:\n{heartbeat.stack}"})

    def _waits_for_slots(self) -> bool:
        """Extend the deadline by the time in which other fits of this application hold slots; False if it is over."""
        if self._claim is None or self._arrived or self.failures:
            return False
        left = self._claim.left(self._settings.slot_timeout)
        self._deadline = time.monotonic() + left
        return left > 0

    def _overdue(self) -> Exception:
        if self.failures:
            return self.failed()
        if not self._arrived:
            return slots.no_slots(self._size, self._settings.slot_timeout)
        all_ranks = set(range(self._size))
        missing = sorted(all_ranks - self._ready.keys() or all_ranks - self._started)
        named = ", ".join(f"rank {rank} on {self._arrived.get(rank, 'an unknown host')}" for rank in missing)
        if len(self._started) == self._size:
            return RankError(
                "No rank has said anything for too long: their hosts, or the way to them, are gone.", lost=True
            )
        return ClusterError(
            explain(
                f"The ranks did not meet within {self._settings.start_timeout:g} s.",
                expected=f"{self._size} ranks that import TensorFlow and reach each other",
                received=f"still missing: {named}",
                fix="Look at these executors' logs; check that the hosts reach each other on any port.",
            )
        )

    def failed(self) -> RankError:
        """Build the error of the first cause.

        If all failures are failed collectives, the cause is the first rank that has reported no failure.
        """
        error = first_cause(self.failures.values()).error()
        silent = sorted(self._arrived.keys() - self.failures.keys())
        if not error.lost or not all(failure.secondary for failure in self.failures.values()) or not silent:
            return error
        rank, host = silent[0], self._arrived[silent[0]]
        lost = RankError(f"Rank {rank} on host {host} was lost: the others no longer reach it.", rank, host, lost=True)
        lost.__cause__ = error
        return lost
