"""Where a fit is written down. A tracker is one file here and its line in the table; the driver alone uses it."""

from __future__ import annotations

import importlib
from typing import Any

from spark_dl.errors import OptionError, explain, hint
from spark_dl.track.queued import QueuedTracker
from spark_dl.track.tracker import LoggedData, LoggedModel, NoTracker, Tracker

__all__ = ["TRACKERS", "LoggedData", "LoggedModel", "Tracker", "tracker"]

TRACKERS = {"mlflow": "spark_dl.track.mlflow"}


def tracker(name: str | None, **settings: Any) -> Tracker:
    """The tracker of that name; its library is imported now, and only now. None tracks nowhere.

    Raises:
        OptionError: there is none of that name.
        TrackingError: its server doesn't answer.
    """
    if name is None:
        return NoTracker()
    if name not in TRACKERS:
        raise OptionError(
            explain("tracking can't have this value.", received=f"tracking={name!r}", fix=hint(name, TRACKERS))
        )
    return QueuedTracker(importlib.import_module(TRACKERS[name]).open_tracker(**settings))
