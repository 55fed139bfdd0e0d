"""Main code of a rank's process: reads its `RankTask`, starts Horovod, calls the function, sends the result."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cloudpickle

from spark_dl.errors import ClusterError, explain
from spark_dl.launch.failure import of_exception
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import Done, Failed, Heartbeat, Idle, NoMoreReplies, RankTask, Reply, Report, Started
from spark_dl.world import Rank

__all__ = ["serve", "without_rank"]

_log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 1.0
_STACK_FRAMES = 12

Answer = Callable[[Idle | Started | Heartbeat | Report | Failed | Done], None]


def without_rank(function: Callable[..., Any], arguments: Sequence[Any], rank: Rank) -> Any:
    """Call a function that takes no `Rank`. It is defined in this module because every rank has imported it already."""
    return function(*arguments)


class _Heartbeats(threading.Thread):
    """Thread that sends a heartbeat to the driver each second, with the stack if the count hasn't changed.

    Args:
        rank: The rank.
        answer: Called with each message.
        main: The id of the thread whose stack is sent.
    """

    def __init__(self, rank: int, answer: Answer, main: int) -> None:
        super().__init__(daemon=True)
        self._rank = rank
        self._answer = answer
        self._main = main
        self._count = 0
        self._where = ""

    def heartbeat(self, where: str) -> None:
        """Count one heartbeat.

        Args:
            where: What the rank's function is doing, in a few words.
        """
        self._count += 1
        self._where = where

    def run(self) -> None:
        """Send heartbeats until the process ends; the first one after `heartbeat` was called."""
        last_count = 0
        while True:
            time.sleep(_HEARTBEAT_SECONDS)
            if not self._count:
                continue
            count, where = self._count, self._where
            stack = self._stack() if count == last_count else ""
            last_count = count
            self._answer(Heartbeat(self._rank, count, where, stack))

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)[-_STACK_FRAMES:]) if frame else ""


def serve(answers: int) -> NoReturn:
    """Run the one `RankTask` that arrives on standard input, then exit.

    Args:
        answers: The file descriptor for the rank's messages.
    """
    _compute_undisturbed()
    with os.fdopen(answers, "wb") as stream:
        lock = threading.Lock()

        def answer(message: object) -> None:
            with lock:
                write_frame(stream, message)

        answer(Idle())
        task = read_frame(sys.stdin.buffer)
        if task is None:
            os._exit(0)
        replies: queue.SimpleQueue[Reply | NoMoreReplies] = queue.SimpleQueue()
        threading.Thread(target=_take_replies, args=(replies,), daemon=True).start()
        _run(task, answer, replies)
    # Skip finalizers: threads of TensorFlow and Horovod may still run, and a crash in them would hide the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _compute_undisturbed() -> None:
    """Put this process and its later threads under SCHED_BATCH, so that waking threads don't preempt others.

    Horovod's and Gloo's threads wake a thousand times a second. If each rank has one core, they would take it from
    the computing thread in the middle of a step.
    """
    with contextlib.suppress(OSError):  # containers may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _run(task: RankTask, answer: Answer, replies: queue.SimpleQueue[Reply | NoMoreReplies]) -> None:
    from spark_dl.collectives import HorovodCollectives

    os.environ.update(task.environment)
    world = task.world
    _log_to_output(world.rank, task.log_level)
    collectives = HorovodCollectives(world)
    try:
        collectives.start()
        answer(Started(world.rank))
        _log.info("Horovod runs on rank %d of %d, on host %s.", world.rank, world.size, world.host)
        function = pickle.loads(task.payload)
        heartbeats = _Heartbeats(world.rank, answer, threading.get_ident())
        heartbeats.start()

        rank = Rank(
            world,
            lambda content: answer(Report(content)),
            heartbeats.heartbeat,
            functools.partial(_wait_for_reply, replies, heartbeats),
        )
        answer(Done(cloudpickle.dumps(function(rank))))
    except BaseException as error:
        sys.stdout.flush()
        answer(Failed(of_exception(error, world.rank, world.host)))
    finally:
        collectives.stop()


def _log_to_output(rank: int, level: int) -> None:
    """Write this package's log records to the process's output, which its task forwards to the executor's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s"))
    logger = logging.getLogger("spark_dl")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # the user's function may configure the root logger


def _wait_for_reply(replies: queue.SimpleQueue[Reply | NoMoreReplies], heartbeats: _Heartbeats) -> dict[str, Any]:
    """Wait for the driver's next reply, as long as it may arrive.

    Raises:
        ClusterError: The driver is gone.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            message = replies.get(timeout=_HEARTBEAT_SECONDS)
            if isinstance(message, Reply):
                return message.content
            raise ClusterError(
                explain(
                    "The driver no longer answers this rank.",
                    expected="a reply to the report",
                    received="the end of the connection",
                    fix="See the driver's log: it ended, or the network to it was interrupted.",
                )
            )
        heartbeats.heartbeat("waiting for the driver")


def _take_replies(replies: queue.SimpleQueue[Reply | NoMoreReplies]) -> None:
    """Queue the driver's replies; end this process with its task."""
    while isinstance(message := read_frame(sys.stdin.buffer), (Reply, NoMoreReplies)):
        replies.put(message)
    os._exit(1)
