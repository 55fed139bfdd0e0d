"""Experiment tracking, on the driver only. A tracker is one file here and its line in `TRACKERS`."""

from __future__ import annotations

import importlib
from typing import Any

from spark_dl.errors import OptionError, TrackingError, explain, hint
from spark_dl.redaction import warn
from spark_dl.track.queued import QueuedTracker, not_tracked
from spark_dl.track.record import Record, try_to_log
from spark_dl.track.tracker import LoggedData, LoggedModel, LoggedStage, NoTracker, Tracker

__all__ = [
    "TRACKERS",
    "LoggedData",
    "LoggedModel",
    "LoggedStage",
    "Record",
    "Tracker",
    "active_record",
    "tracker",
    "try_to_log",
]

# Value of the option `tracking` -> module.
TRACKERS = {"mlflow": "spark_dl.track.mlflow", "optional": "spark_dl.track.mlflow"}


def tracker(name: str | None, **settings: Any) -> Tracker:
    """Open a tracker. Its library is imported here and not before.

    Args:
        name: The value of the option `tracking`; None for a tracker that logs nothing.
        **settings: The arguments of the module's `open_tracker`.

    Raises:
        OptionError: The name is unknown.
        TrackingError: The server can't be used, and the tracker isn't optional.
    """
    if name is None:
        return NoTracker()
    module = _module(name)
    try:
        return QueuedTracker(module.open_tracker(**settings), required=name != "optional")
    except TrackingError as error:
        if name != "optional":
            raise
        warn(not_tracked(error), 2)
        return NoTracker()


def active_record(name: str | None) -> str:
    """Return the id of this thread's active record, which may become the parent of others; "" if there is none.

    Args:
        name: The value of the option `tracking`; None has no records.

    Raises:
        OptionError: The name is unknown.
    """
    return "" if name is None else str(_module(name).active_run_id())


def _module(name: str) -> Any:
    if name not in TRACKERS:
        raise OptionError(
            explain(
                "tracking can't have this value.",
                expected=f"None or one of {', '.join(map(repr, TRACKERS))}",
                received=f"tracking={name!r}",
                fix=hint(name, TRACKERS),
            )
        )
    return importlib.import_module(TRACKERS[name])
