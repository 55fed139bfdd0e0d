"""The order in which fits of one application ask for slots."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from spark_dl.diagnosis import checks
from spark_dl.errors import ClusterError, SlotsError
from spark_dl.launch import slot_queue
from spark_dl.launch.channel import MessageQueue
from spark_dl.launch.messages import Arrived
from spark_dl.launch.monitor import RankEvents, RankMonitor
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slot_queue import SlotQueue

EVENTS = RankEvents(lambda content: None, lambda text: None, lambda peers: None)


class Fit(threading.Thread):
    """A fit: it takes its turn, is granted its slots and ends when it is told to."""

    def __init__(self, slots: SlotQueue, name: str, order: list[str]) -> None:
        super().__init__(name=name, daemon=True)
        self.slots, self.order = slots, order
        self.asks, self.may_have, self.has, self.may_end = (threading.Event() for _ in range(4))
        self.waits = threading.Event()
        self.error: Exception | None = None
        self.said: list[str] = []

    def run(self) -> None:
        def say(text: str) -> None:
            self.said.append(text)
            self.waits.set()

        with self.slots.claim(1, say) as claim:
            self.order.append(self.name)
            self.asks.set()
            self.may_have.wait()
            if self.error:
                raise SystemExit  # as any error that ends a fit
            claim.grant()
            self.has.set()
            self.may_end.wait()


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Fit]:
    monkeypatch.setattr(slot_queue, "NOTICE_SECONDS", 0.01)
    slots, order = SlotQueue(), list[str]()

    def start(name: str) -> Fit:
        fit = Fit(slots, name, order)
        fit.start()
        return fit

    return start


def test_fits_ask_one_after_the_other_in_the_order_in_which_they_came(begin: Callable[[str], Fit]) -> None:
    first = begin("first")
    first.asks.wait()
    later = []
    for number in range(4):
        later.append(begin(str(number)))
        later[-1].waits.wait()  # it stands in the queue
    assert first.order == ["first"]
    assert later[0].said == ["Waiting for 1 slots: other fits of this application come first."]
    first.may_have.set()
    for fit in later:  # each asks once the one before it has its slots, which all go on holding
        fit.asks.wait()
        fit.may_have.set()
        fit.has.wait()
    assert first.order == ["first", "0", "1", "2", "3"]
    assert first.slots.free_since() is None
    for fit in (first, *later):
        fit.may_end.set()
        fit.join()
    assert first.slots.free_since() is not None


def test_a_fit_that_fails_while_it_asks_lets_the_next_one_ask(begin: Callable[[str], Fit]) -> None:
    first, second = begin("first"), begin("second")
    first.asks.wait()
    second.waits.wait()
    first.error = ValueError()
    first.may_have.set()
    second.asks.wait()
    second.may_have.set()
    second.has.wait()
    second.may_end.set()
    second.join()
    first.join()
    assert second.slots.free_since() is not None


@pytest.mark.parametrize("granted", [True, False])
def test_an_interrupt_gives_the_place_back(granted: bool) -> None:
    slots = SlotQueue()

    def interrupted() -> None:
        with slots.claim(2, lambda text: None) as claim:
            if granted:
                claim.grant()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with slots.claim(2, lambda text: None) as claim:
        assert claim.left(0.0) <= 0


def test_an_interrupt_in_the_queue_leaves_it(begin: Callable[[str], Fit]) -> None:
    first = begin("first")
    first.asks.wait()

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), first.slots.claim(1, interrupt):
        pass
    second = begin("second")
    second.waits.wait()
    first.may_have.set()
    second.asks.wait()
    for fit in (first, second):
        fit.may_have.set()
        fit.may_end.set()
        fit.join()
    assert first.order == ["first", "second"]


def test_a_timeout_counts_only_while_no_other_fit_holds_slots(begin: Callable[[str], Fit]) -> None:
    other = begin("other")
    other.asks.wait()
    other.may_have.set()
    other.has.wait()
    said: list[str] = []
    with other.slots.claim(3, said.append) as claim:
        assert claim.left(0.0) > 0
        assert claim.left(0.0) > 0
        assert said == ["Waiting for 3 slots: other fits of this application come first."]
        other.may_end.set()
        other.join()
        assert claim.left(0.0) <= 0
        assert claim.left(600.0) > 0
        with other.slots.working():  # a conversion takes slots, too
            assert claim.left(0.0) > 0
        assert claim.left(0.0) <= 0


def test_a_watch_waits_as_long_as_other_fits_hold_slots_and_then_gives_up(begin: Callable[[str], Fit]) -> None:
    other = begin("other")
    other.may_have.set()
    other.has.wait()
    with other.slots.claim(2, lambda text: None) as claim:
        watch = RankMonitor(2, LaunchSettings(slot_timeout=0.0), EVENTS, claim)
        watch.take(queue.Queue())
        watch.take(queue.Queue())
        other.may_end.set()
        other.join()
        watch._deadline = 0.0  # as if the time had passed that was set while the other fit held its slots
        with pytest.raises(SlotsError, match="did not give 2 slots"):
            watch.take(queue.Queue())


class Job:
    """What the wait asks of a job: whether it has ended, and whether its tasks have started."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.started = False

    def wait(self, seconds: float) -> bool:
        return self.ended.wait(seconds)

    def has_started(self, tasks: int) -> bool:
        return self.started


def test_preflight_waits_for_tasks_that_have_their_slots_and_start_slowly() -> None:
    job = Job()
    messages: MessageQueue = queue.Queue()
    late = threading.Timer(0.05, job.ended.set)
    limits = LaunchSettings(slot_timeout=0.0)
    with SlotQueue().claim(2, lambda text: None) as claim:
        with pytest.raises(SlotsError, match=r"did not give 2 slots[\s\S]*Spark has started no task"):
            checks._wait(job, messages, claim, 2, limits)  # type: ignore[arg-type]
        job.started = True
        with pytest.raises(ClusterError, match=r"within 0 s[\s\S]*of which none has answered[\s\S]*startTimeout"):
            checks._wait(job, messages, claim, 2, replace(limits, start_timeout=0.0))  # type: ignore[arg-type]
        messages.put(Arrived(1, "b"))
        with pytest.raises(ClusterError, match=r"checks did not end within 0 s[\s\S]*1 tasks that .* on b"):
            checks._wait(job, messages, claim, 2, replace(limits, start_timeout=0.0))  # type: ignore[arg-type]
        late.start()
        checks._wait(job, messages, claim, 2, limits)  # type: ignore[arg-type]
    assert job.ended.is_set()


def test_a_watch_gives_the_turn_to_the_next_when_all_ranks_are_there() -> None:
    slots = SlotQueue()
    messages: MessageQueue = queue.Queue()
    with slots.claim(2, lambda text: None) as claim:
        watch = RankMonitor(2, LaunchSettings(), EVENTS, claim)
        for rank in range(2):
            assert slots.free_since() is not None
            messages.put(Arrived(rank, "here"))
            watch.take(messages)
        assert slots.free_since() is None
        with slots.claim(1, lambda text: None) as second:
            second.grant()
    assert slots.free_since() is not None
