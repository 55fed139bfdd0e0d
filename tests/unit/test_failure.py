"""What became of a failed rank: the record, the error that the user sees, and which failure is the cause."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
from dataclasses import replace
from typing import Any

import pytest

from spark_dl.errors import RankError
from spark_dl.launch.failure import Failure, crash, first_cause, of_exception
from spark_dl.launch.messages import FROM_TASKS, Failed
from spark_dl.wire import decode, encode


def a_failure(rank: int, at: float, secondary: bool = False) -> Failure:
    return Failure(rank, "host", "ValueError", "text", "trace", at, secondary)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_the_users_exception_comes_back_as_the_cause() -> None:
    failure = of_exception(raised(KeyError("label")), 3, "node7")
    error = pickle.loads(pickle.dumps(failure)).error()
    assert isinstance(error, RankError)
    assert (error.rank, error.host) == (3, "node7")
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == ("label",)
    assert "Rank 3 on host node7 raised KeyError: 'label'" in str(error)
    assert "raise error" in error.rank_traceback
    assert error.rank_traceback in str(error)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NeedsTwoError(ValueError):
    """Is pickled, but never unpickled: it gives its base another number of arguments."""

    def __init__(self, name: str, value: int) -> None:
        super().__init__(f"{name} is {value}")


@pytest.mark.parametrize(
    ("error", "text"), [(UnpicklableError(), "holds a lock"), (NeedsTwoError("rate", 3), "rate is 3")]
)
def test_an_exception_that_can_not_travel_still_tells_its_story(error: Exception, text: str) -> None:
    failure = of_exception(raised(error), 0, "a")
    assert failure.exception is None
    assert failure.message == text
    told = pickle.loads(pickle.dumps(failure)).error()
    assert told.__cause__ is None
    assert f"raised {type(error).__name__}: {text}" in str(told)
    assert type(error).__name__ in told.rank_traceback


def test_a_class_of_the_users_own_script_travels() -> None:
    class OwnError(Exception):
        pass

    cause = of_exception(raised(OwnError("mine")), 0, "a").error().__cause__
    assert type(cause).__name__ == "OwnError"
    assert str(cause) == "mine"


def test_the_causes_of_causes_are_in_the_traceback() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as outer:
        trace = of_exception(outer, 0, "a").trace
    assert "inner" in trace
    assert "outer" in trace


def test_endless_tracebacks_are_cut_at_the_front() -> None:
    failure = of_exception(raised(ValueError("x" * 200_000 + " the end")), 0, "a")
    assert len(failure.trace) <= 1 << 16
    assert failure.trace.rstrip().endswith("the end")


def test_a_failure_travels_as_json_and_gives_builtins_back() -> None:
    failure = of_exception(raised(ValueError("bad rate")), 1, "b")
    message = encode(Failed(failure.without_exception()))
    received = decode(json.loads(json.dumps(message)), FROM_TASKS)
    assert isinstance(received, Failed)
    assert received.failure == replace(failure, exception=None)
    cause = received.failure.error().__cause__
    assert type(cause) is ValueError
    assert cause.args == ("bad rate",)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "print", "Own", "__import__"])
def test_without_its_exception_a_failure_makes_nothing_but_builtin_exceptions(kind: str) -> None:
    assert Failure(0, "a", kind, "text", "", 0.0, False).error().__cause__ is None


def test_bytes_that_can_not_be_unpickled_here_are_no_second_failure() -> None:
    failure = Failure(0, "a", "Own", "text", "trace", 0.0, False, exception=b"cnowhere\nOwn\n.")
    assert failure.error().__cause__ is None
    assert Failure(0, "a", "Own", "text", "", 0.0, False, exception=pickle.dumps(3)).error().__cause__ is None


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (-9, "SIGKILL.*out of memory"),
        (-11, "ended by signal 11"),
        (-6, "ended by signal 6"),
        (3, "exit code 3"),
        (0, "exit code 0 before it was done"),
    ],
)
def test_a_crash_tells_how_the_process_ended_and_what_it_printed(code: int, told: str) -> None:
    failure = crash(2, "node1", code, "last words\n")
    with pytest.raises(RankError, match=f"Rank 2 on host node1 was lost: its process .*{told}") as caught:
        raise failure.error()
    assert "last words" in str(caught.value)
    assert caught.value.__cause__ is None
    assert not failure.secondary


def test_the_earliest_failure_that_is_no_collectives_is_the_cause() -> None:
    cause = a_failure(2, at=20.0)
    others = [a_failure(0, 10.0, secondary=True), a_failure(1, 30.0), a_failure(3, 5.0, secondary=True)]
    for order in itertools.permutations([cause, *others]):
        assert first_cause(order) is cause


def test_where_all_are_collectives_the_earliest_is_the_cause() -> None:
    assert first_cause([a_failure(0, 2.0, True), a_failure(1, 1.0, True)]).rank == 1


def make(name: str, text: str, bases: tuple[type, ...] = (Exception,)) -> Any:
    return type(name, bases, {})(text)


@pytest.mark.parametrize(
    ("error", "secondary"),
    [
        (make("HorovodInternalError", "Connection closed by peer", (RuntimeError,)), True),
        (make("UnknownError", "at node x\nhorovod_allreduce: gloo/pair.cc", (make("OpError", "").__class__,)), True),
        (make("UnknownError", 'at node x\n  File "/envs/horovod/x.py"', (make("OpError", "").__class__,)), False),
        (make("UnknownError", "Horovod has been shut down", (make("OpError", "").__class__,)), True),
        (make("UnknownError", "the disk is full", (make("OpError", "").__class__,)), False),
        (ValueError("Horovod is great"), False),
        (RuntimeError("no rows"), False),
    ],
)
def test_errors_of_collectives_are_known(error: Exception, secondary: bool) -> None:
    assert of_exception(error, 0, "a").secondary is secondary


def test_a_crash_in_a_collective_is_secondary() -> None:
    assert crash(0, "a", -6, "[1] terminate called: Horovod background loop").secondary


def test_a_rank_that_was_killed_is_a_cause_whatever_it_printed() -> None:
    assert not crash(0, "a", -9, "[W] horovod/common/stall_inspector.cc: one or more tensors").secondary
