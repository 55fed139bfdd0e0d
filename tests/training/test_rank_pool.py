"""Processes of a pool: real ones, which serve one task after the other and end with their pool."""

from __future__ import annotations

import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from spark_dl.launch.channel import Channel
from spark_dl.launch.messages import Done, Failed, Membership, RankTask
from spark_dl.launch.rank_process import RankProcess
from spark_dl.launch.rendezvous import Rendezvous
from spark_dl.launch.resources import horovod_environment, task_environment
from spark_dl.world import Rank, solo

HOST = "127.0.0.1"
SETTINGS = task_environment(1, [], 0)
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def pool() -> Iterator[Membership]:
    with Channel(HOST, HOST, queue.Queue()) as channel:
        yield Membership(channel.address, 60.0)


def run(
    function: Callable[[Rank], Any],
    pool: Membership | None,
    name: str = "rank 0",
    settings: dict[str, str] = SETTINGS,
    log_level: int = logging.WARNING,
) -> tuple[Any, int, str]:
    """What a function of a rank that is alone in its World returns, the process's id, and its output."""
    with Rendezvous(HOST) as store, RankProcess(settings, (), name, pool) as process:
        assert process.ready()
        variables = horovod_environment(solo(HOST), store.address, "lo", 30)
        process.send(RankTask(solo(HOST), variables, cloudpickle.dumps(function), log_level))
        for message in process.messages():
            if isinstance(message, Done):
                value: Any = cloudpickle.loads(message.value)
            if isinstance(message, Failed):
                value = message.failure.message
        code, log = process.exit()
        assert code == 0
        return value, process.pid, log


def counts(rank: Rank) -> int:
    """The number of calls in this process, if it has a pool."""
    import horovod.tensorflow as hvd
    import numpy as np

    kept = {} if rank.kept is None else rank.kept
    print(f"call {len(kept)}")
    assert hvd.allreduce(np.ones(3), op=hvd.Sum, name="ones").numpy().tolist() == [1, 1, 1]
    kept[str(len(kept))] = "something"
    rank.heartbeat("counting")
    return len(kept)


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def test_a_process_serves_task_after_task_with_what_was_kept(pool: Membership) -> None:
    found = [run(counts, pool) for _ in range(3)]
    assert [value for value, _, _ in found] == [1, 2, 3]
    assert len({pid for _, pid, _ in found}) == 1
    # Each task has the output of its own call.
    assert [log for _, _, log in found] == ["call 0\n", "call 1\n", "call 2\n"]


def test_without_a_pool_a_process_ends_with_its_task() -> None:
    (first, pid, _), (second, other, _) = run(counts, None), run(counts, None)
    assert (first, second) == (1, 1)
    assert pid != other
    assert gone(pid)


@pytest.mark.parametrize("other", ["settings", "pool"])
def test_a_process_serves_its_own_settings_and_pool_alone(pool: Membership, other: str) -> None:
    _, pid, _ = run(counts, pool)
    with Channel(HOST, HOST, queue.Queue()) as channel:
        changed: dict[str, Any] = {
            "settings": {"pool": pool, "settings": {**SETTINGS, "CUDA_VISIBLE_DEVICES": "1"}},
            "pool": {"pool": Membership(channel.address, 60.0)},
        }[other]
        value, another, _ = run(counts, **changed)
    assert (value, another != pid) == (1, True)
    assert run(counts, pool)[:2] == (2, pid)


def surroundings(rank: Rank) -> dict[str, Any]:
    import tempfile

    logging.getLogger("spark_dl.part").info("a record")
    with tempfile.NamedTemporaryFile() as file:
        directory = os.path.dirname(file.name)
    return {"TMPDIR": os.environ["TMPDIR"], "directory": directory, "own": os.environ.get("OWN"), "cwd": os.getcwd()}


def test_each_task_has_its_own_surroundings(pool: Membership, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OWN", "before")
    before, pid, quiet = run(surroundings, pool)
    monkeypatch.delenv("OWN")
    monkeypatch.chdir(tmp_path)
    after, same, log = run(surroundings, pool, log_level=logging.INFO)
    assert same == pid
    assert (before["own"], after["own"], after["cwd"]) == ("before", None, str(tmp_path))
    assert before["TMPDIR"] == before["directory"] != after["TMPDIR"] == after["directory"]
    assert "a record" not in quiet
    assert log.count("a record") == 1


def fails(rank: Rank) -> None:
    raise ZeroDivisionError("on purpose")


def test_a_process_whose_function_fails_is_not_kept(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    assert "on purpose" in str(run(fails, pool)[0])
    assert gone(pid)
    assert run(counts, pool)[0] == 1


def test_a_process_that_is_killed_while_it_waits_is_replaced(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    psutil.Process(pid).kill()
    assert gone(pid)
    value, another, _ = run(counts, pool)
    assert (value, another != pid) == (1, True)


def test_a_process_ends_when_its_time_is_up(pool: Membership) -> None:
    _, pid, _ = run(counts, Membership(pool.driver, 0.0))
    assert gone(pid)


def test_waiting_processes_end_with_their_pool() -> None:
    with Channel(HOST, HOST, queue.Queue()) as channel:
        pool = Membership(channel.address, 600.0)
        with ThreadPoolExecutor(2) as threads:
            pids = {pid for _, pid, _ in threads.map(lambda rank: run(counts, pool, f"rank {rank}"), range(2))}
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert all(gone(pid) for pid in pids)


def test_a_process_whose_task_is_gone_is_killed(pool: Membership) -> None:
    def task() -> None:
        with RankProcess(SETTINGS, (), "rank 0", pool) as process:
            assert process.ready()
            found.append(process.pid)
            raise ZeroDivisionError

    _, pid, _ = run(counts, pool)
    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        task()
    assert found == [pid]
    assert gone(pid)
    assert run(counts, pool)[0] == 1


def test_a_process_between_two_tasks_holds_no_file_of_either(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    process = psutil.Process(pid)
    open_files = process.num_fds()
    for _ in range(3):
        run(counts, pool)
    assert process.num_fds() <= open_files
