"""A rank's failure as a picklable record, and the choice of the cause among several failures."""

from __future__ import annotations

import builtins
import contextlib
import pickle
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cloudpickle

from spark_dl.errors import RankError
from spark_dl.redaction import redact, redact_error

__all__ = ["Failure", "crash", "first_cause", "of_exception"]

_LONGEST_TRACEBACK = 1 << 16
_DIED = "ProcessDied"


@dataclass(frozen=True)
class Failure:
    """Failure of one rank.

    Attributes:
        rank: The rank.
        host: The rank's host.
        kind: The name of the exception's class; "ProcessDied" if the process ended without one.
        message: The exception's text.
        trace: The traceback as text; after "ProcessDied" the last lines that the process printed.
        at: The time in seconds since the epoch, by the host's clock.
        secondary: Whether a collective failed because another rank was gone.
        exception: The pickled exception, or None if it can't be pickled.
        log: The last lines that the rank's process printed, if its function raised.
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
        """Whether the rank's own code did not fail: its process died, or it could no longer reach another rank."""
        return self.secondary or self.kind == _DIED

    def without_exception(self) -> Failure:
        """Return the failure without the pickled exception, which isn't sent as JSON."""
        return replace(self, exception=None)

    def error(self) -> RankError:
        """Build the error to raise on the driver, with the rank's own exception as its cause."""
        end, log = (
            (f"raised {self.kind}: ", "Its traceback") if self.kind != _DIED else ("was lost: ", "Its last output")
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
        if self.exception is None:  # after a cancelled stage, only what was sent as JSON is left
            builtin = getattr(builtins, self.kind, None)
            with contextlib.suppress(TypeError):  # some builtins need more than a message
                if isinstance(builtin, type) and issubclass(builtin, Exception):
                    return builtin(self.message)
            return None
        try:
            original = pickle.loads(self.exception)  # bytes of this application's executor, like any Spark result
        except Exception:
            return None  # its class can't be imported here; kind and message remain
        return original if isinstance(original, BaseException) else None


def of_exception(error: BaseException, rank: int, host: str) -> Failure:
    """Make the record of an exception, without credentials.

    Args:
        error: The exception; credentials in it are replaced in place.
        rank: The rank.
        host: The rank's host.
    """
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
    """Make the record of a rank whose process ended without a result or an exception.

    Args:
        rank: The rank.
        host: The rank's host.
        exit_code: The exit code of the process; -n if signal n killed it.
        log: The last lines that the process printed.
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
    # Native code that aborts because a peer is gone logs so; a killed rank is a cause, whatever it logged.
    secondary = exit_code != -9 and "horovod" in log.lower()
    return Failure(rank, host, _DIED, f"its process {message}", log, time.time(), secondary)


def first_cause(failures: Iterable[Failure]) -> Failure:
    """Choose the failure that explains the others: the earliest that isn't a failed collective, if there is one."""
    return min(failures, key=lambda failure: (failure.secondary, failure.at))


def _of_a_collective(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "HorovodInternalError" in names:
        return True
    # The text names the operation ("HorovodAllreduce", "horovod_allreduce") or Gloo; file paths may contain any word.
    lines = [line for line in str(error).splitlines() if not line.lstrip().startswith('File "')]
    return "OpError" in names and any(word in line.lower() for word in ("horovod", "gloo") for line in lines)
