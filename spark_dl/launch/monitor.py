"""The driver's view of running ranks: their messages, their heartbeats and the deadlines for both."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spark_dl.errors import ClusterError, RankError, explain
from spark_dl.launch import slots
from spark_dl.launch.channel import MessageQueue
from spark_dl.launch.failure import Failure, first_cause
from spark_dl.launch.messages import (
    Arrived,
    DriverMessage,
    Failed,
    Heartbeat,
    JobEnded,
    Peers,
    Ready,
    Reply,
    Report,
    Started,
    TaskMessage,
)
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slot_queue import NOTICE_SECONDS, Claim

__all__ = ["RankEvents", "RankMonitor"]

_log = logging.getLogger(__name__)

# After a failure, the other ranks get this long to report theirs before the stage is cancelled.
_FAILURE_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class RankEvents:
    """What the owner of a `RankMonitor` does when something happens.

    Attributes:
        on_report: Called with each report of a rank; returns the reply to all ranks, or None.
        on_warning: Called with each warning of the monitor.
        send: Sends a message to all ranks.
    """

    on_report: Callable[[dict[str, Any]], dict[str, Any] | None]
    on_warning: Callable[[str], None]
    send: Callable[[DriverMessage], None]


@dataclass(frozen=True)
class _Progress:
    """A rank's last heartbeat.

    Attributes:
        heartbeat: The message.
        at: When the count last changed, by the monotonic clock.
    """

    heartbeat: Heartbeat
    at: float


class RankMonitor:
    """Monitor of the ranks of one job, which raises when a deadline passes or a rank is stuck.

    Args:
        size: The number of ranks.
        settings: The launch settings, which hold the timeouts.
        events: What is called when something happens.
        claim: The job's claim in the application's slot queue; None without a queue.
        has_started: Tells whether Spark has started the tasks; None if that isn't known.

    Attributes:
        ended: Whether the Spark job has ended.
        failures: The failures reported so far, by rank.
    """

    def __init__(
        self,
        size: int,
        settings: LaunchSettings,
        events: RankEvents,
        claim: Claim | None = None,
        has_started: Callable[[], bool | None] = lambda: None,
    ) -> None:
        self.ended = False
        self.failures: dict[int, Failure] = {}
        self._size = size
        self._settings = settings
        self._events = events
        self._arrived: dict[int, str] = {}
        self._ready: dict[int, Ready] = {}
        self._started: set[int] = set()
        self._progress: dict[int, _Progress] = {}
        self._warned_at = 0.0
        self._claim = claim
        self._has_started = has_started
        self._slow = False
        first = settings.slot_timeout if claim is None else min(settings.slot_timeout, NOTICE_SECONDS)
        self._deadline: float | None = time.monotonic() + first

    def take(self, messages: MessageQueue) -> None:
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
            if self._waits_for_slots() or self._waits_for_python():
                return
            raise self._overdue()
        self._on(message)
        # Handling a report may take long, so heartbeats are judged only once no message is waiting.
        if isinstance(message, Heartbeat) and messages.empty():
            self._check_progress()

    def take_rest(self, messages: MessageQueue) -> None:
        """Handle the messages that are still queued at the job's end, which takes another path than they do."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._on(messages.get_nowait())

    def _on(self, message: TaskMessage | JobEnded) -> None:
        match message:
            case Report(content):
                reply = self._events.on_report(content)
                if reply is not None:
                    self._events.send(Reply(reply))
            case Heartbeat():
                self._on_heartbeat(message)
            case Arrived():
                self._on_arrived(message)
            case Ready():
                self._on_ready(message)
            case Started(rank):
                self._started.add(rank)
                if len(self._started) == self._size and not self.failures:
                    _log.info("All ranks have started Horovod.")
                    self._deadline = None
            case Failed(failure):
                self.failures[failure.rank] = failure
                self._deadline = time.monotonic() + _FAILURE_GRACE_SECONDS
            case JobEnded():
                self.ended = True

    def _on_arrived(self, message: Arrived) -> None:
        self._arrived[message.rank] = message.host
        if self.failures:
            return
        # Spark starts the tasks of a barrier stage together: once one has its slot, the others are starting.
        self._deadline = time.monotonic() + self._settings.start_timeout
        if len(self._arrived) == self._size:
            _log.info("All ranks have their slots, on the hosts %s.", ", ".join(sorted(set(self._arrived.values()))))
            if self._claim:
                self._claim.grant()

    def _on_ready(self, message: Ready) -> None:
        self._ready[message.rank] = message
        if len(self._ready) == self._size:
            ranks = [self._ready[rank] for rank in range(self._size)]
            address = next(rank.rendezvous for rank in ranks if rank.rendezvous)
            self._events.send(Peers(address, tuple(rank.gpus for rank in ranks)))

    def _on_heartbeat(self, message: Heartbeat) -> None:
        before = self._progress.get(message.rank)
        same = before is not None and before.heartbeat.count == message.count
        at = before.at if before is not None and same else time.monotonic()
        self._progress[message.rank] = _Progress(message, at)
        if not self.failures and len(self._started) == self._size:
            # Living ranks send heartbeats each second, even while they wait: this deadline is for all being silent.
            self._deadline = time.monotonic() + self._settings.stall_timeout + 2 * self._settings.collective_timeout

    def _check_progress(self) -> None:
        """Warn about a stuck rank, and later raise.

        Ranks wait for each other in each step, so the one with the fewest heartbeats is the one that is stuck.

        Raises:
            RankError: No rank has had a new heartbeat for stallTimeout.
        """
        if not self._progress or self.failures:
            return
        still = time.monotonic() - max(one.at for one in self._progress.values())
        if still < self._settings.stall_timeout / 2:
            return
        heartbeats = [
            self._progress[rank].heartbeat if rank in self._progress else Heartbeat(rank, 0, "the beginning", "")
            for rank in sorted(self._arrived)
        ]
        heartbeat = min(heartbeats, key=lambda one: one.count)
        rank = heartbeat.rank
        host = self._arrived[rank]
        text = f"Rank {rank} on host {host} has stood at {heartbeat.where} for {still:.0f} s"
        if still >= self._settings.stall_timeout:
            raise RankError(
                explain(
                    f"{text}, and the others wait for it.",
                    expected=f"a step at least every {self._settings.stall_timeout:g} s (stallTimeout)",
                    received=f"no step; its stack:\n{heartbeat.stack}",
                    fix="Look at what the code does there, or raise stallTimeout if a step may take so long.",
                ),
                rank=rank,
                host=host,
                rank_traceback=heartbeat.stack,
            )
        if time.monotonic() - self._warned_at > self._settings.stall_timeout:
            self._warned_at = time.monotonic()
            self._events.on_warning(f"{text}:\n{heartbeat.stack}")

    def _waits_for_slots(self) -> bool:
        """Extend the deadline by the time in which other fits of this application hold slots; False if it is over."""
        if self._claim is None or self._arrived or self.failures:
            return False
        left = self._claim.left(self._settings.slot_timeout)
        self._deadline = time.monotonic() + left
        return left > 0

    def _waits_for_python(self) -> bool:
        """Extend the deadline, once, by the time of a start if the tasks have their slots and only don't answer."""
        if self._arrived or self.failures or self._slow or not self._has_started():
            return False
        self._slow = True
        self._deadline = time.monotonic() + self._settings.start_timeout
        return True

    def _overdue(self) -> Exception:
        if self.failures:
            return self.failed()
        if not self._arrived and not self._slow:
            return slots.no_slots(self._size, self._settings.slot_timeout, self._has_started())
        all_ranks = set(range(self._size))
        missing = sorted(all_ranks - self._ready.keys() or all_ranks - self._started)
        named = ", ".join(f"rank {rank} on {self._arrived.get(rank, 'an unknown host')}" for rank in missing)
        if len(self._started) == self._size:
            return RankError(
                "No rank has sent a message for too long: their hosts, or the network to them, are gone.", lost=True
            )
        return ClusterError(
            explain(
                f"The ranks did not connect within {self._settings.start_timeout:g} s.",
                expected=f"{self._size} ranks that import TensorFlow and reach each other",
                received=f"still missing: {named}",
                fix="Look at these executors' logs; check that the hosts reach each other on any port; raise "
                "startTimeout if Python or TensorFlow starts slowly there.",
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
