"""The life of a rank, in a process of its own: learn the place, meet the others, run the function."""

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
    """What a task tells its rank's process.

    Attributes:
        world: the rank's place.
        environment: Horovod's variables.
        payload: the cloudpickled function, which is called with a `Rank`.
    """

    world: World
    environment: dict[str, str]
    payload: bytes


def without_rank(function: Callable[..., Any], arguments: Sequence[Any], rank: Rank) -> Any:
    """Call a function that knows nothing of its `Rank`. It is here, where a rank has imported everything already."""
    return function(*arguments)


class _Heartbeats(threading.Thread):
    """Tells the driver, about once a second, how many marks there were, and from where a rank does not move.

    Args:
        answer: sends a message.
        main: the thread whose stack is shown.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], None], main: int) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._main = main
        self._count = 0
        self._where = ""

    def heartbeat(self, where: str) -> None:
        """One more mark."""
        self._count += 1
        self._where = where

    def run(self) -> None:
        """Until the process ends."""
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
    """Carry out one order, which comes by standard input.

    Args:
        answers: the file descriptor for what the rank says.
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
    # No finalisers: threads of TensorFlow and Horovod may still run, and a fault in them would hide the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _compute_undisturbed() -> None:
    """Make this a batch process, with all threads that it will have: one that wakes waits until another pauses.

    Horovod's and Gloo's threads wake a thousand times a second. Where ranks have a core each, they would take it from
    the thread that computes, in the middle of a step.
    """
    with contextlib.suppress(OSError):  # a container may forbid it
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
