"""A rank's real process: ordered, listened to, and never left behind."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from spark_dl.errors import ClusterError
from spark_dl.launch import fork_client, fork_server
from spark_dl.launch.failure import Failure
from spark_dl.launch.frames import read_frame, write_frame
from spark_dl.launch.messages import Done, Failed, Idle, RankTask, Reply, Report, Started
from spark_dl.launch.rank_process import Exit, RankProcess
from spark_dl.launch.rendezvous import Rendezvous
from spark_dl.launch.resources import horovod_environment, task_environment
from spark_dl.world import Rank, solo

HOST = "127.0.0.1"
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def ended(process: RankProcess) -> bool:
    """Whether a process is gone, and was waited for."""
    return not psutil.pid_exists(process.pid)


def forked(process: RankProcess) -> None:
    """Wait until there is a process."""
    while not process.pid:
        assert not process._ended.wait(0.01)


def task_of(function: Callable[[Rank], Any], store: Rendezvous, log_level: int = logging.WARNING) -> RankTask:
    """The task of a rank that is alone in its World."""
    variables = horovod_environment(solo(HOST), store.address, "lo", 30)
    return RankTask(solo(HOST), variables, cloudpickle.dumps(function), log_level)


def carry_out(function: Callable[[Rank], Any], log_level: int = logging.WARNING) -> tuple[list[Any], Exit, RankProcess]:
    """What a rank alone in its World says, and how its process ends."""
    with Rendezvous(HOST) as store, RankProcess(task_environment(1, [], 0)) as process:
        assert process.ready()
        process.send(task_of(function, store, log_level))
        messages = list(process.messages())
        return messages, process.exit(), process


def works(rank: Rank) -> dict[str, Any]:
    import horovod.tensorflow as hvd
    import tensorflow as tf

    print("a line of the user's")
    print("another, of trouble", file=sys.stderr)
    rank.report({"kind": "step", "step": 1})
    total = hvd.allreduce(tf.constant([2.0]), op=hvd.Sum, name="test").numpy().tolist()
    told = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "HOROVOD_HOSTNAME")]
    return {"world": rank.world, "hvd": (hvd.rank(), hvd.size()), "total": total, "told": told}


def test_a_rank_waits_for_the_reply_to_its_report() -> None:
    def asks(rank: Rank) -> list[Any]:
        rank.report({"question": 1})
        return [rank.reply(), rank.reply()]

    with Rendezvous(HOST) as store, RankProcess(task_environment(1, [], 0)) as process:
        assert process.ready()
        process.send(task_of(asks, store))
        messages = []
        for message in process.messages():
            messages.append(message)
            if isinstance(message, Report):
                process.send(Reply({"answer": 1}))
                process.send(Reply({"answer": 2}))
    done = messages[-1]
    assert isinstance(done, Done)
    assert pickle.loads(done.value) == [{"answer": 1}, {"answer": 2}]


def schedulers(rank: Rank) -> set[int]:
    import tensorflow as tf

    tf.reduce_sum(tf.ones(3))
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}


def test_all_threads_of_a_rank_wait_for_each_other_to_pause() -> None:
    messages, _, _ = carry_out(schedulers)
    assert cloudpickle.loads(messages[-1].value) == {os.SCHED_BATCH}


def test_lines_in_the_executors_log_name_their_rank(capsys: pytest.CaptureFixture[str]) -> None:
    with Rendezvous(HOST) as store, RankProcess(task_environment(1, [], 0), name="rank 3") as process:
        assert process.ready()
        process.send(task_of(prints, store))
        list(process.messages())
        assert process.exit() == Exit(0, "one line\nanother\n")
    assert capsys.readouterr().err == "[rank 3] one line\n[rank 3] another\n"


def prints(rank: Rank) -> None:
    print("one line")
    print("another")


def test_a_rank_answers_reports_and_prints(capfd: pytest.CaptureFixture[str]) -> None:
    messages, (code, log), process = carry_out(works)
    assert messages[:2] == [Started(0), Report({"kind": "step", "step": 1})]
    (done,) = messages[2:]
    value = cloudpickle.loads(done.value)
    assert value == {"world": solo(HOST), "hvd": (0, 1), "total": [2.0], "told": ["-1", HOST]}
    assert code == 0
    printed = capfd.readouterr().err
    for line in ("a line of the user's\n", "another, of trouble\n"):
        assert line in log
        assert line in printed
    assert ended(process)


def logs(rank: Rank) -> None:
    for logger, text in (("spark_dl.some.module", "of the package"), ("user", "of the user's")):
        logging.getLogger(logger).info("a line %s", text)
        logging.getLogger(logger).warning("trouble %s, at ftp://me:S3CRET@host", text)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_the_packages_log_records_reach_the_output_at_the_drivers_level(level: int) -> None:
    _, (code, log), _ = carry_out(logs, level)
    assert code == 0
    assert "WARNING rank 0 spark_dl.some.module: trouble of the package, at ftp://***@host\n" in log
    assert ("INFO rank 0 spark_dl.some.module: a line of the package\n" in log) is (level == logging.INFO)
    assert ("INFO rank 0 spark_dl.launch.rank: Horovod runs on rank 0 of 1" in log) is (level == logging.INFO)
    assert "a line of the user's" not in log  # Python's own default
    assert "S3CRET" not in log


def raises(rank: Rank) -> None:
    raise KeyError("no such layer")


def test_a_rank_that_raises_says_what_and_where() -> None:
    messages, _, process = carry_out(raises)
    assert [type(message) for message in messages] == [Started, Failed]
    failure: Failure = messages[1].failure
    assert (failure.rank, failure.host, failure.kind, failure.secondary) == (0, HOST, "KeyError", False)
    assert isinstance(failure.error().__cause__, KeyError)
    assert "in raises" in failure.trace
    assert ended(process)


def is_killed(rank: Rank) -> None:
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_rank_that_is_killed_ends_the_messages_and_leaves_its_last_lines() -> None:
    messages, (code, log), process = carry_out(is_killed)
    assert messages == [Started(0)]
    assert code == -signal.SIGKILL
    assert "last words\n" in log
    assert ended(process)


def leaves_a_file(rank: Rank) -> str:
    import tempfile

    return tempfile.mkstemp()[1]


def test_temporary_files_of_a_rank_go_with_it() -> None:
    messages, _, _ = carry_out(leaves_a_file)
    path = cloudpickle.loads(messages[-1].value)
    assert "spark-dl-rank-" in path
    assert not os.path.exists(os.path.dirname(path))


def test_a_rank_is_gone_after_a_with_that_fails() -> None:
    process = RankProcess({})

    def task() -> None:
        with process:
            forked(process)
            assert not ended(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        task()
    assert ended(process)


def test_a_rank_that_waits_for_its_order_is_gone_after_the_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_dl.launch.rank_process._LEAVE_SECONDS", 0.0)
    with RankProcess({}) as process:
        forked(process)
    assert ended(process)


def hangs(rank: Rank) -> None:
    rank.report({"pid": os.getpid()})
    threading.Event().wait()


TASK = """
import sys
from spark_dl.launch.frames import read_frame
from spark_dl.launch.messages import Report
from spark_dl.launch.rank_process import RankProcess

with RankProcess({}) as process:
    assert process.ready()
    process.send(read_frame(sys.stdin.buffer))
    for message in process.messages():
        if isinstance(message, Report):
            print(message.content["pid"], flush=True)
"""


def test_even_a_frozen_rank_ends_with_the_task_that_is_killed() -> None:
    with (
        Rendezvous(HOST) as store,
        subprocess.Popen([sys.executable, "-c", TASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as task,
    ):
        assert task.stdin
        assert task.stdout
        write_frame(task.stdin, task_of(hangs, store))  # type: ignore[arg-type]
        rank = psutil.Process(int(task.stdout.readline()))
        rank.suspend()
        task.kill()
    rank.wait(60)
    assert not rank.is_running()


def test_an_order_to_a_dead_process_ends_the_messages_at_once() -> None:
    with RankProcess({}) as process:
        process.kill()
        process._ended.wait()
        process.ready()  # it may have come so far
        process.send(RankTask(solo(HOST), {}, b"", logging.WARNING))
        assert list(process.messages()) == []
        assert process.exit()[0] == -signal.SIGKILL


# --- the process that ranks are forked from --------------------------------------------------------------------------


def tells(rank: Rank) -> dict[str, Any]:
    import random
    import tempfile

    import numpy as np

    draws = (np.random.random(), random.random())
    return {
        "host": os.getppid(),
        "cwd": os.getcwd(),
        "own": os.environ.get("OWN"),
        "tmp": tempfile.gettempdir(),
        "draws": draws,
    }


def told(environment: dict[str, str]) -> dict[str, Any]:
    """What a rank with these variables tells of itself."""
    with Rendezvous(HOST) as store, RankProcess({**task_environment(1, [], 0), **environment}) as process:
        assert process.ready()
        process.send(task_of(tells, store))
        value: dict[str, Any] = cloudpickle.loads(list(process.messages())[-1].value)
        return value


def test_ranks_of_one_host_have_an_environment_and_random_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = told({"OWN": "one"})
    monkeypatch.chdir(tmp_path)
    second, third = told({"OWN": "two"}), told({})
    assert first["host"] == second["host"] == third["host"]
    assert [one["own"] for one in (first, second, third)] == ["one", "two", None]
    assert (first["cwd"] != second["cwd"], second["cwd"]) == (True, str(tmp_path))
    for kind in ("tmp", "draws"):
        assert len({one[kind] for one in (first, second, third)}) == 3, kind


def test_what_a_library_reads_as_it_is_imported_makes_another_host() -> None:
    assert told({"OMP_NUM_THREADS": "3"})["host"] != told({})["host"]


def test_tasks_that_begin_at_once_share_a_host() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(told, [{"TF_CPP_MAX_VLOG_LEVEL": "0"}] * 4))
    assert len({one["host"] for one in found}) == 1
    assert len({one["draws"] for one in found}) == 4


def test_an_import_that_fails_is_told_each_time() -> None:
    for _ in range(2):
        with RankProcess({}, ["no_such_module"]) as process:
            assert not process.ready()
            code, log = process.exit()
        assert code == 1
        assert "No module named 'no_such_module'" in log


def test_ranks_end_with_a_host_that_is_killed_and_the_next_one_has_another() -> None:
    with RankProcess(task_environment(1, [], 0)) as process:
        forked(process)
        host = psutil.Process(process.pid).parent()
        assert host
        host.kill()
        # It may have said before that it could begin.
        assert [message for message in process.messages() if message != Idle()] == []
        assert process.exit()[0] == -signal.SIGKILL
    assert told({})["host"] != host.pid


def test_a_host_without_work_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_server, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(fork_server, "_TICK_SECONDS", 0.1)
    place = tmp_path / "host"
    place.mkdir(mode=0o700)
    host = fork_server._ForkServer(place, os.getpid())
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        host.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, handler)
    assert not place.exists()


def forks_a_child(rank: Rank) -> int:
    import multiprocessing
    import time

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    return child.pid or 0


def test_a_child_that_outlives_its_rank_holds_nobody_up() -> None:
    with Rendezvous(HOST) as store, RankProcess(task_environment(1, [], 0)) as process:
        assert process.ready()
        process.send(task_of(forks_a_child, store))
        done = next(message for message in process.messages() if isinstance(message, Done))
    assert ended(process)
    child = psutil.Process(cloudpickle.loads(done.value))
    assert child.is_running()
    child.kill()


def test_who_asks_for_nothing_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, _ = fork_client.connect(task_environment(1, [], 0), ())
    talking, _ = fork_client.connect(task_environment(1, [], 0), ())
    talking.sendall(b"r" * 100)
    with silent, talking:
        assert told({})["own"] is None


def test_leaving_does_not_wait_for_an_import() -> None:
    process = RankProcess({"KERAS_HOME": os.devnull})

    def task() -> None:
        with process:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        task()
    assert not process.pid


def test_a_directory_that_others_can_use_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fork_client, "_directory_for", lambda variables, modules: tmp_path / "host")
    (tmp_path / "host").mkdir(mode=0o755)
    with pytest.raises(ClusterError, match=r"isn't this user's alone.*drwxr-xr-x"):
        RankProcess({})


def test_a_directory_of_sparks_may_be_far_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    far = tmp_path / ("executor-" + "0" * 60) / ("blockmgr-" + "0" * 60)
    far.mkdir(parents=True)
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(far))
    assert told({})["host"] == told({})["host"]
    assert [name for name in os.listdir(far) if name.startswith("ranks-")]


EXECUTOR = """
import psutil, time
from spark_dl.launch.rank_process import RankProcess

with RankProcess({}) as process:
    while not process.pid:
        time.sleep(0.01)
    print(psutil.Process(process.pid).ppid())
"""


def test_a_host_ends_with_its_executor() -> None:
    ran = subprocess.run([sys.executable, "-c", EXECUTOR], capture_output=True, text=True, check=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(ran.stdout)).wait(30)


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [None, Done(b"\x00" * 100_000), [1, 2]])
def test_frames_come_out_as_they_went_in(message: Any) -> None:
    stream = io.BytesIO()
    write_frame(stream, message)
    write_frame(stream, "next")
    stream.seek(0)
    assert [read_frame(stream), read_frame(stream), read_frame(stream)] == [message, "next", None]


@pytest.mark.parametrize("left", [0, 3, 8, 12])
def test_a_torn_frame_is_the_end(left: int) -> None:
    stream = io.BytesIO()
    write_frame(stream, "some message")
    assert read_frame(io.BytesIO(stream.getvalue()[:left])) is None
