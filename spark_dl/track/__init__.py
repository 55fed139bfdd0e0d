"""Where a fit is written down. A tracker is one file here and its line in the table; the driver alone uses it."""

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

# By the values of the option `tracking`.
TRACKERS = {"mlflow": "spark_dl.track.mlflow", "optional": "spark_dl.track.mlflow"}


def tracker(name: str | None, **settings: Any) -> Tracker:
    """The tracker of that name; its library is imported now, and only now. None tracks nowhere.

    Raises:
        OptionError: there is none of that name.
        TrackingError: its server can't be used, and it isn't optional.
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
    """The id of the record that is active in this thread, below which others may be opened; empty where there is none.

    Raises:
        OptionError: there is no tracker of that name.
    """
    return "" if name is None else str(_module(name).active_run_id())


def _module(name: str) -> Any:
    if name not in TRACKERS:
        raise OptionError(
            explain("tracking can't have this value.", received=f"tracking={name!r}", fix=hint(name, TRACKERS))
        )
    return importlib.import_module(TRACKERS[name])
