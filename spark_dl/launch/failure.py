"""What became of a rank that failed, as a record that travels, and which of several failures is the cause."""

from __future__ import annotations

import builtins
import contextlib
import pickle
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import cloudpickle

from spark_dl.errors import RankError
from spark_dl.redaction import redact, redact_error

__all__ = ["Failure", "crash", "first_cause", "of_exception"]

_LONGEST_TRACEBACK = 1 << 16
_DIED = "ProcessDied"


@dataclass(frozen=True)
class Failure:
    """One rank's end.

    Attributes:
        rank: the rank.
        host: its host.
        kind: name of the exception's class.
        message: the exception's text.
        trace: the traceback as text.
        at: seconds since the epoch, by the host's clock.
        secondary: whether it is a collective that failed because another rank was gone.
        exception: the pickled exception, or None where it can't be pickled.
        log: the last lines that the rank's process printed.
    """

    rank: int
    host: str
    kind: str
    message: str
    trace: str
    at: float
    secondary: bool
    exception: bytes | None = None
    log: str = ""

    @property
    def lost(self) -> bool:
        """Whether the rank did not fail by itself: its process died, or it could no longer reach another."""
        return self.secondary or self.kind == _DIED

    def summary(self) -> dict[str, Any]:
        """All but the exception, fit for JSON."""
        fields = asdict(self)
        del fields["exception"]
        return fields

    def error(self) -> RankError:
        """The error to raise on the driver, with the rank's own exception as its cause."""
        end, log = (
            (f"raised {self.kind}: ", "Its traceback") if self.kind != _DIED else ("was lost: ", "Its last words")
        )
        error = RankError(
            f"Rank {self.rank} on host {self.host} {end}{self.message}\n\n{log} on {self.host}:\n{self.trace}",
            rank=self.rank,
            host=self.host,
            rank_traceback=self.trace,
            lost=self.lost,
            rank_log=self.log,
        )
        error.__cause__ = self._original()
        return error

    def _original(self) -> BaseException | None:
        if self.exception is None:  # the stage was cancelled, and the rows with the exceptions are lost
            builtin = getattr(builtins, self.kind, None)
            with contextlib.suppress(TypeError):  # some builtins want more than a message
                if isinstance(builtin, type) and issubclass(builtin, Exception):
                    return builtin(self.message)
            return None
        try:
            original = pickle.loads(self.exception)  # our own executor's bytes, as every Spark result
        except Exception:
            return None  # its class can't be imported here: the text says what it was
        return original if isinstance(original, BaseException) else None


def of_exception(error: BaseException, rank: int, host: str) -> Failure:
    """The record of an exception that a rank's function raised, without credentials."""
    redact_error(error)
    try:
        pickled = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:
        pickled = None
    return Failure(
        rank=rank,
        host=host,
        kind=type(error).__name__,
        message=str(error)[:_LONGEST_TRACEBACK],
        trace=redact("".join(traceback.format_exception(error)))[-_LONGEST_TRACEBACK:],
        at=time.time(),
        secondary=_of_a_collective(error),
        exception=pickled,
    )


def crash(rank: int, host: str, exit_code: int, log: str) -> Failure:
    """The record of a rank whose process ended without a word.

    Args:
        rank: the rank.
        host: its host.
        exit_code: the process's; -n where signal n killed it.
        log: the last lines that it printed.
    """
    if exit_code == -9:
        message = (
            "was killed (SIGKILL), probably because the host or its container ran out of memory: "
            "raise spark.executor.memoryOverhead, or lower batchSize"
        )
    elif exit_code < 0:
        message = f"was ended by signal {-exit_code}"
    else:
        message = f"left with exit code {exit_code} before it was done"
    # A rank that native code aborted because a peer was gone says so; one that was killed is a cause, whatever it said.
    secondary = exit_code != -9 and "horovod" in log.lower()
    return Failure(rank, host, _DIED, f"its process {message}", log, time.time(), secondary)


def first_cause(failures: Iterable[Failure]) -> Failure:
    """The failure that explains the others: the earliest that isn't a collective's."""
    return min(failures, key=lambda failure: (failure.secondary, failure.at))


def _of_a_collective(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "HorovodInternalError" in names:
        return True
    # By operation ("HorovodAllreduce", "horovod_allreduce") or by what it ran on; paths of files may hold any word.
    lines = [line for line in str(error).splitlines() if not line.lstrip().startswith('File "')]
    return "OpError" in names and any(word in line.lower() for word in ("horovod", "gloo") for line in lines)
