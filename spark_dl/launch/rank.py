"""Main code of a rank's process: reads its `RankTask`, starts Horovod, calls the function, sends the result.

A process of a pool does so for one task after the other.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import os
import pickle
import queue
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NoReturn

import cloudpickle

from spark_dl.errors import ClusterError, explain
from spark_dl.launch.failure import of_exception
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import (
    Done,
    Failed,
    Heartbeat,
    Idle,
    NoMoreReplies,
    RankRequest,
    RankTask,
    Reply,
    Report,
    Started,
)
from spark_dl.launch.rank_request import WAITS, Descriptors, receive_request, take_offers
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
        self._stopped = threading.Event()

    def heartbeat(self, where: str) -> None:
        """Count one heartbeat.

        Args:
            where: What the rank's function is doing, in a few words.
        """
        self._count += 1
        self._where = where

    def run(self) -> None:
        """Send heartbeats until `stop`; the first one after `heartbeat` was called."""
        last_count = 0
        while not self._stopped.wait(_HEARTBEAT_SECONDS):
            if not self._count:
                continue
            count, where = self._count, self._where
            stack = self._stack() if count == last_count else ""
            last_count = count
            self._answer(Heartbeat(self._rank, count, where, stack))

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)[-_STACK_FRAMES:]) if frame else ""


class _Replies(threading.Thread):
    """Thread that queues the driver's replies, and ends this process with its task.

    Args:
        incoming: The stream of the task's messages, which is closed at its end.

    Attributes:
        queue: The replies.
    """

    def __init__(self, incoming: BinaryIO) -> None:
        super().__init__(daemon=True)
        self.queue: queue.SimpleQueue[Reply | NoMoreReplies] = queue.SimpleQueue()
        self._incoming = incoming
        self._ended = threading.Event()

    def end(self) -> None:
        """Expect the end of the task from now on."""
        self._ended.set()

    def run(self) -> None:
        """Queue the replies until the end of the task."""
        with self._incoming:
            while isinstance(message := read_frame(self._incoming), (Reply, NoMoreReplies)):
                self.queue.put(message)
        if not self._ended.is_set():
            os._exit(1)


def serve(control: socket.socket) -> NoReturn:
    """Run the one `RankTask` of each request, then exit; in a pool, wait for the next request.

    Args:
        control: The connection to the fork server, which sends the requests.
    """
    _compute_undisturbed()
    kept: dict[str, Any] = {}
    while True:
        request, descriptors = receive_request(control)
        if request is None or descriptors is None:
            _exit(0)
        _enter(request, descriptors)
        if not _serve_task(descriptors, kept if request.pool else None) or request.pool is None:
            _exit(0)
        _leave()
        control.sendall(WAITS)
        gc.collect()
        take_offers(control)


def _enter(request: RankRequest, descriptors: Descriptors) -> None:
    """Make a request's environment and output those of this process."""
    import numpy as np

    for standard in (1, 2):
        os.dup2(descriptors.output, standard)
    os.close(descriptors.output)
    if descriptors.pool >= 0:
        os.close(descriptors.pool)  # the fork server watches it
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    sys.path[:] = request.path
    importlib.invalidate_caches()  # files may have been added since the imports
    tempfile.tempdir = None  # TMPDIR of the new environment applies
    np.random.seed()  # else all ranks of a fork server would draw the same numbers


def _leave() -> None:
    """Let go of the output of the task that has ended, whose Spark task waits for the output's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _exit(code: int) -> NoReturn:
    # Skip finalizers: threads of TensorFlow and Horovod may still run, and a crash in them would hide the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve_task(descriptors: Descriptors, kept: dict[str, Any] | None) -> bool:
    """Run the `RankTask` that arrives; return whether its function has returned.

    Args:
        descriptors: The descriptors of the task's pipes.
        kept: What the functions of earlier tasks have kept in this process; None without a pool.
    """
    incoming = os.fdopen(descriptors.task, "rb")
    with os.fdopen(descriptors.answers, "wb") as stream:
        lock = threading.Lock()

        def answer(message: object) -> None:
            with lock:
                write_frame(stream, message)

        answer(Idle())
        task = read_frame(incoming)
        if task is None:
            return False
        replies = _Replies(incoming)
        replies.start()
        return _run(task, answer, replies, kept)


def _compute_undisturbed() -> None:
    """Put this process and its later threads under SCHED_BATCH, so that waking threads don't preempt others.

    Horovod's and Gloo's threads wake a thousand times a second. If each rank has one core, they would take it from
    the computing thread in the middle of a step.
    """
    with contextlib.suppress(OSError):  # containers may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _run(task: RankTask, answer: Answer, replies: _Replies, kept: dict[str, Any] | None) -> bool:
    from spark_dl.collectives import HorovodCollectives

    os.environ.update(task.environment)
    world = task.world
    _log_to_output(world.rank, task.log_level)
    collectives = HorovodCollectives(world)
    heartbeats = _Heartbeats(world.rank, answer, threading.get_ident())
    try:
        collectives.start()
        answer(Started(world.rank))
        _log.info("Horovod runs on rank %d of %d, on host %s.", world.rank, world.size, world.host)
        function = pickle.loads(task.payload)
        heartbeats.start()

        rank = Rank(
            world,
            lambda content: answer(Report(content)),
            heartbeats.heartbeat,
            functools.partial(_wait_for_reply, replies.queue, heartbeats),
            kept,
        )
        value = cloudpickle.dumps(function(rank))
        heartbeats.stop()
        replies.end()
        answer(Done(value))
        return True
    except BaseException as error:
        sys.stdout.flush()
        answer(Failed(of_exception(error, world.rank, world.host)))
        return False
    finally:
        collectives.stop()


def _log_to_output(rank: int, level: int) -> None:
    """Write this package's log records to the process's output, which its task forwards to the executor's log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {rank} %(name)s: %(message)s"))
    logger = logging.getLogger("spark_dl")
    logger.handlers[:] = [handler]
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
