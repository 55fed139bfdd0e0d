"""The program of a rank's process: import TensorFlow, learn the place, meet the others, run the function.

Run as `python -m spark_dl.launch.rank_main FD PARENT`: orders come by standard input, answers leave by the file
descriptor FD. The process ends with the task that started it, even when it is frozen.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle

from spark_dl.launch.failure import of_exception
from spark_dl.launch.rank_process import read_frame, write_frame
from spark_dl.world import World

__all__ = ["Order", "Rank"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What a task tells its rank's process.

    Attributes:
        world: the rank's place.
        environment: Horovod's variables.
        payload: the cloudpickled function, which is called with a `Rank`.
    """

    world: World
    environment: dict[str, str]
    payload: bytes


@dataclass(frozen=True)
class Rank:
    """What a rank's function is given.

    Attributes:
        world: the rank's place.
        report: sends a small dict, fit for JSON, to the driver at once.
    """

    world: World
    report: Callable[[dict[str, Any]], None]


def main(answers: int, parent: int) -> None:
    """Carry out one order."""
    _end_with_parent(parent)
    with os.fdopen(answers, "wb") as stream:
        lock = threading.Lock()

        def answer(message: dict[str, Any]) -> None:
            with lock:
                write_frame(stream, message)

        # Imported while the task waits for the other ranks.
        import horovod.tensorflow  # noqa: F401

        order = read_frame(sys.stdin.buffer)
        if order is None:
            return
        threading.Thread(target=_end_with_input, daemon=True).start()
        _carry_out(order, answer)
    # No finalisers: threads of TensorFlow and Horovod may still run, and a fault in them would hide the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _carry_out(order: Order, answer: Callable[[dict[str, Any]], None]) -> None:
    from spark_dl.collectives import HorovodCollectives

    os.environ.update(order.environment)
    collectives = HorovodCollectives(order.world)
    try:
        collectives.start()
        answer({"event": "started"})
        function = pickle.loads(order.payload)
        rank = Rank(order.world, lambda content: answer({"event": "report", "content": content}))
        answer({"event": "done", "value": cloudpickle.dumps(function(rank))})
    except BaseException as error:
        answer({"event": "failed", "failure": of_exception(error, order.world.rank, order.world.host)})
    finally:
        collectives.stop()


def _end_with_parent(parent: int) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):  # Linux: also when this process is frozen or deep in native code
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before this could be asked for
        os._exit(1)


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
