"""Main code of a rank's process: reads its `RankTask`, starts Horovod, calls the function, sends the result."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import cloudpickle

from spark_dl.launch.failure import of_exception
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.world import Rank, World

__all__ = ["RankTask", "serve", "without_rank"]

_MARK_SECONDS = 1.0
_FRAMES = 12


@dataclass(frozen=True)
class RankTask:
    """The task of a rank's process, sent by its Spark task.

    Attributes:
        world: The rank's World.
        environment: Horovod's environment variables.
        payload: The cloudpickled function, which is called with a `Rank`.
    """

    world: World
    environment: dict[str, str]
    payload: bytes


def without_rank(function: Callable[..., Any], arguments: Sequence[Any], rank: Rank) -> Any:
    """Call a function that takes no `Rank`. It is defined in this module because every rank has imported it already."""
    return function(*arguments)


class _Heartbeats(threading.Thread):
    """Thread that sends a heartbeat to the driver each second, with the stack if the count hasn't changed.

    Args:
        answer: Called with each message.
        main: The id of the thread whose stack is sent.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], None], main: int) -> None:
        super().__init__(daemon=True)
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
        told, still = 0, 0
        while True:
            time.sleep(_MARK_SECONDS)
            if not self._count:
                continue
            count, where = self._count, self._where
            still = still + 1 if count == told else 0
            told = count
            stack = "" if not still else self._stack()
            self._answer({"event": "heartbeat", "count": count, "where": where, "stack": stack})

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame else ""


def serve(answers: int) -> NoReturn:
    """Run the one `RankTask` that arrives on standard input, then exit.

    Args:
        answers: The file descriptor for the rank's messages.
    """
    _compute_undisturbed()
    with os.fdopen(answers, "wb") as stream:
        lock = threading.Lock()

        def answer(message: dict[str, Any]) -> None:
            with lock:
                write_frame(stream, message)

        answer({"event": "ready"})
        order = read_frame(sys.stdin.buffer)
        if order is None:
            os._exit(0)
        threading.Thread(target=_end_with_input, daemon=True).start()
        _carry_out(order, answer)
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


def _carry_out(order: RankTask, answer: Callable[[dict[str, Any]], None]) -> None:
    from spark_dl.collectives import HorovodCollectives

    os.environ.update(order.environment)
    collectives = HorovodCollectives(order.world)
    try:
        collectives.start()
        answer({"event": "started"})
        function = pickle.loads(order.payload)
        marks = _Heartbeats(answer, threading.get_ident())
        marks.start()
        rank = Rank(order.world, lambda content: answer({"event": "report", "content": content}), marks.heartbeat)
        answer({"event": "done", "value": cloudpickle.dumps(function(rank))})
    except BaseException as error:
        sys.stdout.flush()
        answer({"event": "failed", "failure": of_exception(error, order.world.rank, order.world.host)})
    finally:
        collectives.stop()


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)
