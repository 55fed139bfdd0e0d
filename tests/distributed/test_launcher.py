"""Ranks for real: two fresh processes on two executors, and what becomes of them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import ranks
from pyspark.sql import SparkSession

from spark_dl import HorovodLauncher
from spark_dl.errors import ClusterError, OptionError, RankError, SlotsError
from spark_dl.launch import monitor as watch
from spark_dl.launch import slot_queue
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.spark.job import SparkJob
from spark_dl.spark.session import started_stages


@pytest.mark.stack
def test_each_rank_returns_its_own_value_in_rank_order(spark: SparkSession) -> None:
    def where(word: str) -> tuple[Any, ...]:
        import os

        import horovod.tensorflow as hvd
        import numpy as np

        hvd.init()
        total = np.asarray(hvd.allreduce(np.array([hvd.rank() + 1.0]), op=hvd.Sum, name="total"))
        threads = os.environ["TF_NUM_INTRAOP_THREADS"]
        return word, hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size(), total[0], threads, os.getpid()

    first = HorovodLauncher(2).run(where, "here")
    assert [row[:7] for row in first] == [("here", 0, 2, 0, 2, 3.0, "1"), ("here", 1, 2, 1, 2, 3.0, "1")]
    second = HorovodLauncher(2, threadsPerWorker=3).run(where, "again")
    assert [row[6] for row in second] == ["3", "3"]
    # Four processes, none used twice, none left.
    assert len({row[7] for row in first + second}) == 4
    assert ranks() == []


def test_a_rank_starts_without_what_an_earlier_task_left_in_spark_worker(spark: SparkSession) -> None:
    def spoil(batches: Any) -> Any:
        os.environ["HOROVOD_RANK"] = "77"
        os.environ["TF_NUM_INTRAOP_THREADS"] = "77"
        yield from batches

    spark.range(4).mapInArrow(spoil, "id long").collect()

    def look() -> tuple[str, str]:
        import os

        return os.environ["HOROVOD_RANK"], os.environ["TF_NUM_INTRAOP_THREADS"]

    assert HorovodLauncher(2).run(look) == [("0", "1"), ("1", "1")]


@pytest.mark.stack
def test_the_first_real_cause_is_raised_with_its_rank_and_traceback(spark: SparkSession) -> None:
    def fail() -> None:
        import horovod.tensorflow as hvd
        import numpy as np

        if hvd.rank() == 1:
            raise KeyError("the user's own")
        hvd.allreduce(np.zeros(1), name="never")

    with pytest.raises(RankError, match=r"Rank 1 on host \S+ raised KeyError: \"the user's own\"") as raised:
        HorovodLauncher(2).run(fail)
    assert isinstance(raised.value.__cause__, KeyError)
    assert (raised.value.rank, raised.value.host != "") == (1, True)
    assert 'raise KeyError("the user\'s own")' in raised.value.rank_traceback
    assert ranks() == []


def test_a_rank_that_is_killed_is_named(spark: SparkSession) -> None:
    def die() -> None:
        import os
        import signal

        import horovod.tensorflow as hvd
        import numpy as np

        if hvd.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        hvd.allreduce(np.zeros(1), name="never")

    with pytest.raises(RankError, match=r"Rank 1 .*killed \(SIGKILL\), probably .* out of memory"):
        HorovodLauncher(2).run(die)
    assert ranks() == []


def test_a_failure_ends_ranks_that_would_go_on(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FAILURE_GRACE_SECONDS", 0.5)

    def fail() -> None:
        import threading

        import horovod.tensorflow as hvd

        if hvd.rank() == 1:
            raise ValueError("no good")
        threading.Event().wait()

    with pytest.raises(RankError, match=r"Rank 1 .*ValueError: no good") as raised:
        HorovodLauncher(2).run(fail)
    assert isinstance(raised.value.__cause__, ValueError)
    _, alive = psutil.wait_procs(ranks(), timeout=10)
    assert alive == []


def test_reports_arrive_while_the_ranks_run(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[dict[str, Any]] = []
    marks = threading.Event()

    def tell(rank: Any) -> int:
        rank.report({"rank": rank.world.rank, "host": rank.world.host})
        return rank.world.rank

    def on_report(content: dict[str, Any]) -> None:
        heard.append(content)
        marks.set()

    with caplog.at_level(logging.INFO, "spark_dl"):
        assert run_ranks(spark, tell, 2, LaunchSettings(), on_report) == [0, 1]
    started = ["Starting 2 ranks.", "All ranks have their slots", "All ranks have started Horovod."]
    assert [text for text in started if text not in caplog.text] == []
    assert marks.is_set()
    assert sorted(content["rank"] for content in heard) == [0, 1]


@pytest.mark.stack
def test_a_cancelled_job_ends_the_ranks_and_is_not_tried_again(spark: SparkSession) -> None:
    def wait(rank: Any) -> None:
        import threading

        rank.report({"here": rank.world.rank})
        threading.Event().wait()

    running = []

    def cancel(content: dict[str, Any]) -> None:
        running.extend(ranks())
        spark.sparkContext.cancelAllJobs()

    with pytest.raises(RankError, match="cancelled") as caught:
        run_ranks(spark, wait, 2, LaunchSettings(), cancel)
    assert not caught.value.lost
    assert running
    _, alive = psutil.wait_procs(ranks(), timeout=10)
    assert alive == []


def test_ctrl_c_takes_everything_with_it(spark: SparkSession) -> None:
    def wait(rank: Any) -> None:
        import threading

        rank.report({"here": rank.world.rank})
        threading.Event().wait()

    def interrupt(content: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ranks(spark, wait, 2, LaunchSettings(), interrupt)
    _, alive = psutil.wait_procs(ranks(), timeout=10)
    assert alive == []
    # The slots are free again.
    assert HorovodLauncher(2).run(lambda: 1) == [1, 1]


def test_more_workers_than_slots_are_refused_at_once(spark: SparkSession) -> None:
    with pytest.raises(ClusterError, match=r"numWorkers=3 .*2 slots"):
        HorovodLauncher(3).run(lambda: None)


def test_ranks_that_find_no_slots_in_time_say_so(spark: SparkSession) -> None:
    with pytest.raises(SlotsError, match=r"3 slots at the same time within 2 s[\s\S]*Spark has started no task"):
        run_ranks(spark, lambda rank: None, 3, LaunchSettings(slot_timeout=2))
    assert HorovodLauncher(2).run(lambda: 1) == [1, 1]


def test_spark_says_which_tasks_it_has_started_before_python_answers(spark: SparkSession, tmp_path: Path) -> None:
    may_end = tmp_path / "may end"

    def hold(batches: Any) -> Any:
        import time

        while not may_end.exists():
            time.sleep(0.05)
        yield from batches

    tasks = spark.range(0, 2, 1, 2).mapInArrow(hold, "id long", barrier=True)
    with SparkJob(tasks) as job:
        deadline = time.monotonic() + 60
        while not job.has_started(2):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert job.has_started(3) is False
        assert started_stages(spark)
        may_end.touch()
        assert len(job.rows()) == 2


def test_calls_of_one_application_wait_for_each_other_beyond_slot_timeout(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_queue, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(watch, "NOTICE_SECONDS", 0.1)
    may_end = tmp_path / "may end"
    results: dict[str, Any] = {}
    said: list[str] = []

    def hold(rank: Any) -> str:
        import time

        if rank.world.rank == 0:
            rank.report({"kind": "begun"})
        while not may_end.exists():
            time.sleep(0.05)
        return "held"

    def let_end(text: str) -> None:
        said.append(text)
        may_end.touch()

    def run_second() -> None:
        results["second"] = run_ranks(spark, lambda rank: "had", 2, LaunchSettings(), on_warning=let_end)

    second = threading.Thread(target=run_second)
    first = run_ranks(spark, hold, 2, LaunchSettings(), lambda content: second.start())
    second.join()
    assert (first, results) == (["held", "held"], {"second": ["had", "had"]})
    assert said == ["Waiting for 2 slots: other fits of this application come first."]


def test_options_are_checked(spark: SparkSession) -> None:
    with pytest.raises(OptionError, match="numWorkers"):
        HorovodLauncher(0)


WITH_DYNAMIC_ALLOCATION = """
from sessions import session
from spark_dl import HorovodLauncher
with session("local-cluster[1,1,1024]", dynamicAllocation_enabled="true"):
    try:
        HorovodLauncher(1).run(print)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_dynamic_allocation_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITH_DYNAMIC_ALLOCATION],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert "ClusterError Barrier stages can't run with dynamic allocation" in ran.stdout, ran.stderr[-2000:]
