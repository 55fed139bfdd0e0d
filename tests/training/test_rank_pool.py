"""Processes of a pool: real ones, which serve one task after the other and end with their pool."""

from __future__ import annotations

import logging
import os
import queue
import socket
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
            while not process.pid:  # another thread takes the fork server's word
                time.sleep(0.01)
            found.append(process.pid)
            raise ZeroDivisionError

    _, pid, _ = run(counts, pool)
    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        task()
    assert found == [pid]
    assert gone(pid)
    assert run(counts, pool)[0] == 1


def server_of(pid: int) -> psutil.Process:
    server = psutil.Process(pid).parent()
    assert server
    return server


def test_a_task_that_leaves_before_its_rank_has_begun_costs_nobody_else_a_rank(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    server = server_of(pid)
    server.suspend()  # so that it reads the request and its end at once
    left = RankProcess(SETTINGS, (), "rank 0", Membership(pool.driver, 1.0))
    left.kill()
    server.resume()
    assert left.exit().code == -9
    assert run(counts, pool)[:2] == (2, pid)


@pytest.mark.parametrize("end", ["killed", "frozen"])
def test_a_process_that_does_not_answer_gets_no_task(pool: Membership, end: str) -> None:
    _, pid, _ = run(counts, pool)
    psutil.Process(pid).suspend()
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(run, counts, pool)
        if end == "killed":
            time.sleep(0.5)  # it has been offered the task
            psutil.Process(pid).kill()
        value, another, _ = found.result()
    assert (value, another != pid) == (1, True)
    assert gone(pid)


def test_a_task_may_leave_while_a_process_is_asked(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    psutil.Process(pid).suspend()
    left = RankProcess(SETTINGS, (), "rank 0", pool)
    left.kill()
    assert left.exit().code == 1
    psutil.Process(pid).resume()
    assert run(counts, pool)[:2] == (2, pid)


def open_files(rank: Rank) -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_process_holds_no_file_of_a_task_that_another_is_asked_to_take(pool: Membership) -> None:
    (expected, _, _), (_, pid, _) = run(open_files, None), run(counts, pool)
    psutil.Process(pid).suspend()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(run, counts, pool)
        time.sleep(0.5)
        found, _, _ = run(open_files, None)
        psutil.Process(pid).resume()
        assert asked.result()[1] == pid
    assert found <= expected


def test_a_frozen_process_ends_with_its_pool() -> None:
    with Channel(HOST, HOST, queue.Queue()) as channel:
        _, pid, _ = run(counts, Membership(channel.address, 600.0))
        psutil.Process(pid).suspend()
    assert gone(pid)


def test_a_task_of_a_closed_pool_has_a_process_that_ends_with_it() -> None:
    with Channel(HOST, HOST, queue.Queue()) as channel:
        pool = Membership(channel.address, 600.0)
    value, pid, _ = run(counts, pool)
    assert value == 1
    assert gone(pid)


def test_who_connects_while_a_pool_is_closed_has_the_end_of_the_connection(pool: Membership) -> None:
    with (
        Channel(HOST, HOST, queue.Queue()) as channel,
        socket.create_connection((HOST, channel.address.port)) as late,
    ):
        time.sleep(0.2)  # it is accepted
        channel.__exit__(None, None, None)
        late.settimeout(10)
        late.sendall(channel.address.token.encode() + b"\n")
        assert late.recv(1) == b""


def test_a_server_without_files_for_a_task_serves_the_next(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    server = server_of(pid)
    limits, used = server.rlimit(psutil.RLIMIT_NOFILE), server.num_fds()
    # All numbers below the limit are taken: but for one, the connection, there is none for the descriptors.
    server.rlimit(psutil.RLIMIT_NOFILE, (used + 1, limits[1]))
    try:
        with RankProcess(SETTINGS, (), "rank 0", pool) as process:
            assert not process.ready()
            assert "Too many open files" in process.exit().log
    finally:
        server.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert server.num_fds() <= used
    assert run(counts, pool)[:2] == (2, pid)


def test_a_process_between_two_tasks_holds_no_file_of_either(pool: Membership) -> None:
    _, pid, _ = run(counts, pool)
    process = psutil.Process(pid)
    open_files = process.num_fds()
    for _ in range(3):
        run(counts, pool)
    assert process.num_fds() <= open_files
