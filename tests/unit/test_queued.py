"""Writing beside the training: order, patience, and what is kept of what fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pytest

from spark_dl.errors import TrackingError
from spark_dl.track import queued
from spark_dl.track.queued import QueuedTracker
from spark_dl.track.record import Record
from spark_dl.track.tracker import LoggedData, LoggedModel

MODEL = LoggedModel(b"", "", "", None, None, ())


class Notes:
    """A tracker that notes what it is told; `before` is called first, and may raise or wait."""

    def __init__(self, before: Callable[[str], None] = lambda what: None) -> None:
        self.told: list[Any] = []
        self._before = before

    def _note(self, what: str, *values: Any) -> None:
        self._before(what)
        self.told.append((what, *values))

    def begin(self, params: Mapping[str, Any], tags: Mapping[str, str], resumed: str) -> str:
        self._note("begin")
        return "record"

    def log_dataset(self, data: LoggedData) -> None:
        self._note("data", data)

    def log_metrics(self, epoch: int, metrics: Mapping[str, float], at: float) -> None:
        self._note("epoch", epoch, metrics, at)

    def history(self, history: Mapping[str, list[float]], first_epoch: int) -> None:
        self._note("history", history, first_epoch)

    def event(self, text: str) -> None:
        self._note("event", text)

    def log_artifact(self, path: str, content: Callable[[], bytes]) -> None:
        self._note("file", path, content())

    def log_model(self, model: LoggedModel) -> None:
        self._note("model")

    def finish(self, failure: BaseException | None) -> None:
        self._note("end", failure)

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    @property
    def unlogged(self) -> list[dict[str, Any]]:
        return []


def tell(tracker: QueuedTracker) -> None:
    tracker.begin({}, {}, "")
    for epoch in range(3):
        tracker.log_metrics(epoch, {"loss": 1.0 / (epoch + 1)}, 10.0 + epoch)
    tracker.event("restarted")
    tracker.log_artifact("a.txt", lambda: b"a")


def test_all_is_written_in_order() -> None:
    notes = Notes()
    tracker = QueuedTracker(notes)
    tell(tracker)
    tracker.log_model(MODEL)
    tracker.finish(None)
    assert [what for what, *_ in notes.told] == ["begin", *["epoch"] * 3, "event", "file", "model", "end"]
    assert notes.told[2] == ("epoch", 1, {"loss": 0.5}, 11.0)
    assert tracker.unlogged == []


def test_nobody_waits_for_a_server_that_stands_still() -> None:
    goes_on = threading.Event()
    notes = Notes(lambda what: None if what == "begin" else goes_on.wait(60) and None)
    tracker = QueuedTracker(notes)
    tell(tracker)  # returns though nothing is written
    assert notes.told == [("begin",)]
    assert [entry.get("epoch") for entry in tracker.unlogged] == [0, 1, 2, None, None]
    goes_on.set()
    tracker.finish(None)
    assert len(notes.told) == 7
    assert tracker.unlogged == []


def test_what_fails_is_tried_again_and_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_FIRST_PAUSE_SECONDS", 0.01)
    fails = iter([True, True, False])

    def before(what: str) -> None:
        if what == "epoch" and next(fails, False):
            raise ConnectionError("no answer")

    notes = Notes(before)
    tracker = QueuedTracker(notes)
    tell(tracker)
    tracker.finish(None)
    assert [what for what, *_ in notes.told] == ["begin", *["epoch"] * 3, "event", "file", "end"]


@pytest.mark.parametrize("error", [OSError("no room"), ConnectionError("no answer")])
def test_what_can_not_be_written_is_given_up_and_kept(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(queued, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(queued, "_FILE_TRY_SECONDS", 0.05)
    tried = []

    def before(what: str) -> None:
        if what == "file":
            tried.append(what)
            raise error

    notes = Notes(before)
    tracker = QueuedTracker(notes)
    tell(tracker)
    tracker.log_model(MODEL)
    tracker.finish(None)
    assert [what for what, *_ in notes.told] == ["begin", *["epoch"] * 3, "event", "model", "end"]
    (kept,) = tracker.unlogged
    assert (kept["file"], kept["reason"]) == ("a.txt", f"{type(error).__name__}: {error}")
    assert (len(tried) > 1) == isinstance(error, ConnectionError)


def test_what_can_not_be_made_is_kept_with_the_reason() -> None:
    def content() -> bytes:
        raise ZeroDivisionError("no picture")

    notes = Notes()
    tracker = QueuedTracker(notes)
    tracker.begin({}, {}, "")
    tracker.log_artifact("a.png", content)
    tracker.event("after")
    tracker.finish(None)
    assert [what for what, *_ in notes.told] == ["begin", "event", "end"]
    assert [(kept["file"], kept["reason"]) for kept in tracker.unlogged] == [("a.png", "ZeroDivisionError: no picture")]


def test_what_can_be_made_later_is_written_later() -> None:
    tries = iter([True, False])

    def content() -> bytes:
        if next(tries):
            raise AttributeError("partially initialized module")
        return b"a"

    notes = Notes()
    tracker = QueuedTracker(notes)
    tracker.begin({}, {}, "")
    tracker.log_artifact("a.png", content)
    tracker.event("after")
    tracker.finish(None)
    assert [what for what, *_ in notes.told] == ["begin", "event", "file", "end"]
    assert tracker.unlogged == []


def test_a_part_that_fails_costs_no_other_part() -> None:
    notes = Notes()
    with Record(QueuedTracker(notes), {}, {}) as record:
        record.open()
        record.attempt("the dataset of the rows", lambda: 1 / 0)
        record.attempt("a.txt", lambda: record.add({"a.txt": lambda: b"of ftp://me:S3CRET@host"}))
    assert [what for what, *_ in notes.told] == ["begin", "file", "end"]
    assert notes.told[1] == ("file", "a.txt", b"of ftp://***@host")
    assert notes.told[2] == ("end", None)
    (kept,) = record.tracker.unlogged
    assert (kept["file"], kept["reason"]) == ("the dataset of the rows", "ZeroDivisionError: division by zero")


def test_nothing_that_is_told_has_a_credential() -> None:
    def before(what: str) -> None:
        if what in ("event", "epoch"):
            raise PermissionError("not at https://me:S3CRET@host")

    tracker = QueuedTracker(Notes(before))
    tracker.begin({}, {}, "")
    tracker.event("going on in ftp://me:S3CRET@host")
    tracker.log_metrics(0, {"loss": 1.0}, 0.0)
    tracker.finish(None)
    assert len(tracker.unlogged) == 2
    assert "S3CRET" not in str(tracker.unlogged)


def test_a_fit_ends_without_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_CLOSING_SECONDS", 0.05)
    monkeypatch.setattr(queued, "_FIRST_PAUSE_SECONDS", 0.01)

    def before(what: str) -> None:
        if what != "begin":
            raise ConnectionError("gone")

    notes = Notes(before)
    tracker = QueuedTracker(notes)
    tell(tracker)
    with pytest.raises(TimeoutError, match="the model is not logged"):
        tracker.log_model(MODEL)
    with pytest.raises(TimeoutError, match="stays open"):
        tracker.finish(None)
    tracker._thread.join(30)
    assert not tracker._thread.is_alive()
    kept = tracker.unlogged
    assert {entry["epoch"] for entry in kept if "epoch" in entry} == {0, 1, 2}
    assert [entry for entry in kept if "model" in entry or "end" in entry] == [
        {"model": "not logged", "reason": mock.ANY, "at": mock.ANY},
        {"end": "not logged", "reason": mock.ANY, "at": mock.ANY},
    ]
    assert notes.told == [("begin",)]


def test_a_model_that_is_refused_is_kept_and_the_record_ends() -> None:
    def before(what: str) -> None:
        if what == "model":
            raise PermissionError("no models here")

    notes = Notes(before)
    tracker = QueuedTracker(notes)
    tell(tracker)
    with pytest.raises(PermissionError):
        tracker.log_model(MODEL)
    tracker.finish(None)
    assert [what for what, *_ in notes.told][-1] == "end"
    (kept,) = tracker.unlogged
    assert (kept["model"], kept["reason"]) == ("not logged", "PermissionError: no models here")


def test_a_record_that_can_not_be_opened_is_told_at_once() -> None:
    def before(what: str) -> None:
        raise TrackingError("no server")

    tracker = QueuedTracker(Notes(before))
    with pytest.raises(TrackingError):
        tracker.begin({}, {}, "")


def test_one_that_is_optional_is_done_without_and_that_is_told() -> None:
    def before(what: str) -> None:
        raise TrackingError("no server")

    notes = Notes(before)
    tracker = QueuedTracker(notes, required=False)
    with pytest.warns(RuntimeWarning, match=r"not tracked \(tracking='optional'\).*no server"):
        assert tracker.begin({}, {}, "") == ""
    tracker.log_metrics(0, {"loss": 1.0}, 0.0)
    tracker.log_model(MODEL)
    tracker.finish(None)
    assert (notes.told, tracker.unlogged) == ([], [])
