"""The errors that users see, and the one way in which their messages are put together.

Every error is a `SparkDLError` and also the builtin that a caller would expect, so that `except ValueError`
keeps working. A message answers four questions: what happened, what was expected, what was received, how to
fix it. Credentials in URLs are left out of all of them (`redaction`).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

from spark_dl.redaction import redact, redact_error

__all__ = [
    "ClusterError",
    "DataError",
    "ModelError",
    "OptionError",
    "RankError",
    "SavedModelError",
    "SlotsError",
    "SparkDLError",
    "StoreError",
    "TrackingError",
    "explain",
    "hint",
]


class SparkDLError(Exception):
    """Base of all errors that this package raises on purpose. Neither they nor their causes say credentials."""

    def __init__(self, *args: object) -> None:
        redact_error(sys.exc_info()[1])  # what is being handled is the cause or the context of this one
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in args))


class OptionError(SparkDLError, ValueError):
    """An option of an estimator or a launcher has a value that it can't have."""


class DataError(SparkDLError, ValueError):
    """A DataFrame can't be fed to the model: columns, types, nulls, widths, labels, rows."""


class ModelError(SparkDLError, ValueError):
    """A Keras model can't be trained or scored as asked."""


class ClusterError(SparkDLError, RuntimeError):
    """Spark, or what is installed on its machines, can't run the job."""


class SlotsError(ClusterError):
    """Spark did not give the slots in time."""


class StoreError(SparkDLError, OSError):
    """A directory can't be read, written, or isn't seen by every machine."""


class TrackingError(SparkDLError, ConnectionError):
    """The tracking server can't be used."""


class SavedModelError(SparkDLError, ValueError):
    """A saved model or estimator can't be loaded: damaged, foreign, or unsafe."""


class RankError(SparkDLError, RuntimeError):
    """A rank failed. The rank's own exception is the `__cause__`.

    Attributes:
        rank: the rank that failed first, or -1 where it isn't known.
        host: its host.
        rank_traceback: the traceback as text, as it was printed on that host.
        lost: whether it was lost with its process, executor, host or network, and another attempt may do better;
            False where its own code failed.
        rank_log: the last lines that its process printed.
    """

    def __init__(
        self,
        text: str,
        rank: int = -1,
        host: str = "",
        rank_traceback: str = "",
        lost: bool = False,
        rank_log: str = "",
    ) -> None:
        super().__init__(text)
        self.rank = rank
        self.host = host
        self.rank_traceback = redact(rank_traceback)
        self.lost = lost
        self.rank_log = redact(rank_log)


def explain(what: str, *, expected: object = None, received: object = None, fix: str = "") -> str:
    """Put a message together: what happened, what was expected, what was received, how to fix it.

    >>> explain("batchSize can't be used.", expected="an integer >= 1", received=0, fix="Set batchSize=32.")
    "batchSize can't be used. Expected: an integer >= 1. Received: 0. Set batchSize=32."
    """
    parts = [what]
    if expected is not None:
        parts.append(f"Expected: {expected}.")
    if received is not None:
        parts.append(f"Received: {received}.")
    if fix:
        parts.append(fix)
    return redact(" ".join(parts))


def hint(name: str, known: Iterable[str]) -> str:
    """Name the nearest of the known names, or all of them where none is near.

    >>> hint("lable", ["label", "features"])
    "Did you mean 'label'?"
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(repr(lowered[match]) for match in near) + "?"
    return f"Known: {', '.join(names)}." if names else ""
