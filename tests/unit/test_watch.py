"""The driver's watch over the ranks: what it waits for, until when, and which error it raises."""

from __future__ import annotations

import dataclasses
import queue
import threading
from typing import Any

import cloudpickle
import pytest

from spark_dl.errors import ClusterError, RankError, SlotsError
from spark_dl.launch.channel import MessageQueue
from spark_dl.launch.failure import Failure, of_exception
from spark_dl.launch.launcher import _values
from spark_dl.launch.messages import (
    Address,
    Arrived,
    Failed,
    Heartbeat,
    JobEnded,
    Peers,
    Ready,
    Report,
    Started,
    TaskMessage,
)
from spark_dl.launch.monitor import RankEvents, RankMonitor
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launcher import HorovodLauncher


def watch_of(
    *messages: TaskMessage | JobEnded, size: int = 2, reports: list[Any] | None = None, **limits: float
) -> RankMonitor:
    """A monitor that has taken these messages."""
    waiting: MessageQueue = queue.Queue()
    settings = LaunchSettings(**{"slot_timeout": 600.0, "start_timeout": 600.0, **limits})  # type: ignore[arg-type]
    events = reports if reports is not None else []
    watch = RankMonitor(size, settings, RankEvents(events.append, events.append, events.append))
    for message in messages:
        waiting.put(message)
        watch.take(waiting)
    return watch


def arrived(rank: int) -> Arrived:
    return Arrived(rank, f"node{rank}")


STORE = Address("node0", 1, "token")


def ready(rank: int) -> Ready:
    return Ready(rank, (f"GPU {rank}",), STORE if rank == 0 else None)


def started(rank: int) -> Started:
    return Started(rank)


def failed(rank: int, at: float, secondary: bool = False) -> Failed:
    return Failed(Failure(rank, f"node{rank}", "ValueError", f"of rank {rank}", "trace", at, secondary))


def test_once_a_rank_has_its_slot_the_others_have_the_time_of_a_start() -> None:
    watch = watch_of(arrived(0), slot_timeout=0.0)
    waiting: MessageQueue = queue.Queue()
    late = threading.Timer(0.2, waiting.put, [arrived(1)])
    late.start()
    watch.take(waiting)
    late.join()


def test_reports_are_handed_on_in_order_until_the_end() -> None:
    reports: list[Any] = []
    content = [Report({"step": step}) for step in range(3)]
    watch = watch_of(arrived(0), arrived(1), started(1), started(0), *content, reports=reports)
    assert reports == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert not watch.ended
    assert watch_of(JobEnded()).ended


def test_no_slots_in_time_is_told_with_the_number() -> None:
    with pytest.raises(ClusterError, match=r"did not give 2 slots at the same time within 0 s.*Lower numWorkers"):
        watch_of(slot_timeout=0.0).take(queue.Queue())


def test_tasks_that_spark_has_started_are_waited_for_as_long_as_a_start_takes() -> None:
    limits = LaunchSettings(slot_timeout=0.0, start_timeout=0.0)
    watch = RankMonitor(2, limits, RankEvents(print, print, print), has_started=lambda: True)  # type: ignore[arg-type]
    watch.take(queue.Queue())
    with pytest.raises(ClusterError, match=r"not connect within 0 s[\s\S]*unknown host[\s\S]*startTimeout") as caught:
        watch.take(queue.Queue())
    assert not isinstance(caught.value, SlotsError)
    with pytest.raises(SlotsError, match=r"no answer of any task: fewer slots are free, or Python starts slowly"):
        watch_of(slot_timeout=0.0).take(queue.Queue())


def test_when_all_are_ready_each_is_told_of_all_in_rank_order() -> None:
    told: list[Any] = []
    watch_of(arrived(2), ready(2), arrived(0), ready(0), arrived(1), size=3, reports=told)
    assert told == []
    watch_of(arrived(2), ready(2), arrived(0), ready(0), arrived(1), ready(1), size=3, reports=told)
    assert told == [Peers(STORE, (("GPU 0",), ("GPU 1",), ("GPU 2",)))]


def test_ranks_that_are_not_ready_in_time_are_named_with_their_hosts() -> None:
    watch = watch_of(arrived(0), ready(0), arrived(1), arrived(2), size=3, start_timeout=0.0)
    with pytest.raises(ClusterError, match=r"did not connect within 0 s.*missing: rank 1 on node1, rank 2 on node2\."):
        watch.take(queue.Queue())


def test_ranks_that_do_not_meet_in_time_are_named_with_their_hosts() -> None:
    ranks = (arrived(0), arrived(2), arrived(1), ready(1), ready(0), ready(2))
    watch = watch_of(*ranks, started(1), size=3, start_timeout=0.0)
    with pytest.raises(ClusterError, match=r"did not connect within 0 s.*missing: rank 0 on node0, rank 2 on node2\."):
        watch.take(queue.Queue())


def test_a_rank_that_never_arrived_is_named_too() -> None:
    watch = watch_of(arrived(1), start_timeout=0.0)
    with pytest.raises(ClusterError, match="rank 0 on an unknown host, rank 1 on node1"):
        watch.take(queue.Queue())


def test_once_all_have_started_there_is_no_limit() -> None:
    watch = watch_of(arrived(0), arrived(1), started(0), started(1))
    assert watch._deadline is None


def test_after_a_failure_the_first_real_cause_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_dl.launch.monitor._FAILURE_GRACE_SECONDS", 0.0)
    watch = watch_of(arrived(0), arrived(1), failed(0, at=1.0, secondary=True), failed(1, at=2.0))
    with pytest.raises(RankError, match="Rank 1 on host node1 raised ValueError: of rank 1") as caught:
        watch.take(queue.Queue())
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("later", [arrived(1), started(1)])
def test_what_others_still_say_does_not_put_off_a_failure(later: TaskMessage) -> None:
    watch = watch_of(arrived(0), started(0), failed(0, at=1.0))
    deadline = watch._deadline
    waiting: MessageQueue = queue.Queue()
    waiting.put(later)
    watch.take(waiting)
    assert watch._deadline == deadline


def row(rank: int, outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"rank": rank, "ok": False, "content": cloudpickle.dumps(outcome)}
    return {"rank": rank, "ok": True, "content": cloudpickle.dumps(outcome)}


def values(*rows: dict[str, Any]) -> list[Any]:
    return _values(lambda: list(rows), watch_of())  # type: ignore[arg-type]


def test_values_come_in_rank_order() -> None:
    assert values(row(2, "c"), row(0, "a"), row(1, None)) == ["a", None, "c"]


def test_one_failed_rank_fails_the_launch_with_its_own_exception() -> None:
    failure = of_exception(KeyError("x"), 1, "node1")
    with pytest.raises(RankError, match="Rank 1 on host node1 raised KeyError: 'x'") as caught:
        values(row(0, "a"), row(1, failure))
    assert isinstance(caught.value.__cause__, KeyError)


def test_where_the_rows_are_lost_what_was_heard_is_raised() -> None:
    def lost() -> list[Any]:
        raise RuntimeError("stage cancelled")

    heard = watch_of(arrived(0), arrived(1), failed(0, at=1.0))
    with pytest.raises(RankError, match="raised ValueError: of rank 0"):
        _values(lost, heard)
    with pytest.raises(RankError, match="The Spark job that ran the ranks failed: stage cancelled"):
        _values(lost, watch_of())


def test_a_launcher_checks_its_arguments_before_spark_is_asked() -> None:
    launcher = HorovodLauncher(3, threadsPerWorker=2, slotTimeout=5)
    assert (launcher.numWorkers, launcher.settings.threads_per_worker, launcher.settings.slot_timeout) == (3, 2, 5.0)
    for arguments in (
        {"numWorkers": 0},
        {"numWorkers": 1, "slotTimeout": -1},
        {"numWorkers": 1, "threadsPerWorker": -1},
    ):
        with pytest.raises(ValueError, match="can't have this value"):
            HorovodLauncher(**arguments)  # type: ignore[arg-type]


def heartbeat(rank: int, count: int, stack: str = "") -> Heartbeat:
    return Heartbeat(rank, count, f"epoch 1, step {count}", stack)


RUNNING = (arrived(0), arrived(1), started(0), started(1))


def put_back(watch: RankMonitor, seconds: float) -> None:
    """As if the heartbeats had come so much earlier."""
    for rank, last in watch._progress.items():
        watch._progress[rank] = dataclasses.replace(last, at=last.at - seconds)


def test_the_rank_that_holds_the_others_up_is_named_with_its_stack() -> None:
    watch = watch_of(*RUNNING, heartbeat(0, 5), heartbeat(1, 4), stall_timeout=60.0)
    put_back(watch, 61)
    waiting: MessageQueue = queue.Queue()
    waiting.put(heartbeat(1, 4, "in the user's code"))
    with pytest.raises(RankError, match="Rank 1 on host node1 has stood at epoch 1, step 4") as caught:
        watch.take(waiting)
    assert "in the user's code" in str(caught.value)
    assert (caught.value.rank, caught.value.host, caught.value.lost) == (1, "node1", False)


def test_half_the_time_without_a_step_is_a_warning() -> None:
    reports: list[Any] = []
    watch = watch_of(*RUNNING, heartbeat(0, 5), heartbeat(1, 4), reports=reports, stall_timeout=60.0)
    assert reports == []
    put_back(watch, 31)
    waiting: MessageQueue = queue.Queue()
    for _ in range(2):
        waiting.put(heartbeat(1, 4, "in the user's code"))
        watch.take(waiting)
    (warning,) = reports
    assert "Rank 1 on host node1 has stood at epoch 1, step 4" in warning


def test_ranks_that_are_all_silent_are_lost() -> None:
    watch = watch_of(*RUNNING, heartbeat(0, 1), heartbeat(1, 1), collective_timeout=0, stall_timeout=0.05)
    with pytest.raises(RankError, match="No rank has sent a message") as caught:
        watch.take(queue.Queue())
    assert caught.value.lost


def test_where_the_others_only_miss_a_rank_it_is_the_one_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_dl.launch.monitor._FAILURE_GRACE_SECONDS", 0.0)
    watch = watch_of(*RUNNING, failed(0, at=1.0, secondary=True))
    with pytest.raises(RankError, match="Rank 1 on host node1 was lost: the others no longer reach it") as caught:
        watch.take(queue.Queue())
    assert (caught.value.rank, caught.value.lost) == (1, True)
    assert isinstance(caught.value.__cause__, RankError)


@pytest.mark.parametrize(
    "told",
    ["Job 3 cancelled as part of cancellation of all jobs", "[OPERATION_CANCELED] Operation has been canceled."],
    ids=["classic", "Connect"],
)
def test_a_job_that_was_cancelled_is_not_lost(told: str) -> None:
    def cancelled() -> list[Any]:
        raise RuntimeError(told)

    with pytest.raises(RankError) as caught:
        _values(cancelled, watch_of())
    assert not caught.value.lost
