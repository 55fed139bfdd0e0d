"""Experiment tracking with MLflow, on the driver only."""

from __future__ import annotations

from typing import Any

from spark_dl.errors import OptionError, TrackingError, explain, hint
from spark_dl.redaction import warn
from spark_dl.track.queued import QueuedTracker, not_tracked
from spark_dl.track.record import Record, try_to_log
from spark_dl.track.tracker import LoggedData, LoggedModel, LoggedStage, NoTracker, Tracker

__all__ = [
    "LoggedData",
    "LoggedModel",
    "LoggedStage",
    "Record",
    "Tracker",
    "active_record",
    "tracker",
    "try_to_log",
]

# The values of the option `tracking`, besides None.
_OPTIONAL = "optional"
_TRACKING = ("mlflow", _OPTIONAL)


def tracker(name: str | None, **settings: Any) -> Tracker:
    """Open a tracker. MLflow is imported here and not before.

    Args:
        name: The value of the option `tracking`; None for a tracker that logs nothing.
        **settings: The arguments of `track.mlflow.open_tracker`.

    Raises:
        OptionError: The name is unknown.
        TrackingError: The server can't be used, and the tracker isn't optional.
    """
    if name is None:
        return NoTracker()
    _check(name)
    from spark_dl.track.mlflow import open_tracker

    try:
        return QueuedTracker(open_tracker(**settings), required=name != _OPTIONAL)
    except TrackingError as error:
        if name != _OPTIONAL:
            raise
        warn(not_tracked(error))
        return NoTracker()


def active_record(name: str | None) -> str:
    """Return the id of this thread's active record, which may become the parent of others; "" if there is none.

    Args:
        name: The value of the option `tracking`; None has no records.

    Raises:
        OptionError: The name is unknown.
    """
    if name is None:
        return ""
    _check(name)
    from spark_dl.track.mlflow import active_run_id

    return active_run_id()


def _check(name: str) -> None:
    if name not in _TRACKING:
        raise OptionError(
            explain(
                "tracking can't have this value.",
                expected=f"None or one of {', '.join(map(repr, _TRACKING))}",
                received=f"tracking={name!r}",
                fix=hint(name, _TRACKING),
            )
        )
