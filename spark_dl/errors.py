"""Errors that users see, and the format of their messages.

Every error is a `SparkDLError` and also the builtin that a caller would expect, so that `except ValueError`
works. A message answers four questions: what happened, what was expected, what was received, how to
fix it. Credentials are left out of all messages (`redaction`).
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
    "shape_text",
]


class SparkDLError(Exception):
    """Base class of all errors that this package raises on purpose. Their messages and causes hold no credentials."""

    def __init__(self, *args: object) -> None:
        redact_error(sys.exc_info()[1])  # the exception being handled becomes this one's cause or context
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in args))


class OptionError(SparkDLError, ValueError):
    """Invalid value of an option of an estimator or a launcher."""


class DataError(SparkDLError, ValueError):
    """DataFrame that can't be fed to the model, due to its columns, types, nulls, widths, labels or rows."""


class ModelError(SparkDLError, ValueError):
    """Keras model that can't be trained or scored as requested."""


class ClusterError(SparkDLError, RuntimeError):
    """Spark cluster, or installation on its hosts, that can't run the job."""


class SlotsError(ClusterError):
    """Slots that Spark did not provide in time."""


class StoreError(SparkDLError, OSError):
    """Directory that can't be read or written, or isn't shared by all hosts."""


class TrackingError(SparkDLError, ConnectionError):
    """Tracking server, experiment or run that can't be used."""


class SavedModelError(SparkDLError, ValueError):
    """Model or estimator that can't be saved or loaded, such as a damaged, foreign or unsafe one."""


class RankError(SparkDLError, RuntimeError):
    """Failure of a rank. The rank's own exception is the `__cause__`, if it raised one that can be rebuilt here.

    Attributes:
        rank: The rank that failed first; -1 if it isn't known.
        host: The rank's host.
        rank_traceback: The traceback on that host, as text.
        lost: Whether the rank was lost with its process, executor, host or network, so that another attempt may
            succeed; False if its own code failed.
        rank_log: The last lines that the rank's process printed.
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


def explain(what: str, *, expected: object, received: object, fix: str) -> str:
    """Build a message: what happened, what was expected, what was received, how to fix it. Credentials are left out.

    >>> explain("batchSize can't be used.", expected="an integer >= 1", received=0, fix="Set batchSize=32.")
    "batchSize can't be used. Expected: an integer >= 1. Received: 0. Set batchSize=32."
    """
    ended = str(received).removesuffix(".")  # as texts of other errors
    return redact(f"{what} Expected: {expected}. Received: {ended}. {fix}".rstrip())


def hint(name: object, known: Iterable[str]) -> str:
    """Suggest the known names that are similar to a name, or list all of them if none is, or if it is no string.

    >>> hint("lable", ["label", "features"])
    "Did you mean 'label'?"
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(repr(lowered[match]) for match in near) + "?"
    return f"Known: {', '.join(names)}." if names else ""


def shape_text(shape: tuple[int, ...]) -> str:
    """Return the shape of a batch as text.

    >>> shape_text((28, 28))
    '(batch, 28, 28)'
    """
    return "(" + ", ".join(["batch", *map(str, shape)]) + ")"
