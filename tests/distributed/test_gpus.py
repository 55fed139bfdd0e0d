"""GPUs that a discovery script makes up: each rank is given the addresses of its own task, and no other rank's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, sys
from sessions import session
from spark_dl import HorovodLauncher
from spark_dl.errors import SparkDLError

def look():
    import os
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], os.environ["OMP_NUM_THREADS"]

master, settings, launches = sys.argv[1], *map(json.loads, sys.argv[2:])
with session(master, **settings) as spark:
    for options in launches:
        try:
            print(json.dumps(sorted(HorovodLauncher(2, **options).run(look))))
        except SparkDLError as error:
            print(json.dumps(f"{type(error).__name__}: {error}"))
"""

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two ranks for each launch, on executors with GPUs 3 and 5: what they see, or the error."""
    script = tmp_path_factory.mktemp("gpus") / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3", "5"]}'\n""")
    script.chmod(0o755)

    def ran(master: str, launches: list[dict[str, Any]], **more: str) -> list[Any]:
        settings = {
            "worker_resource_gpu_amount": "2",
            "worker_resource_gpu_discoveryScript": str(script),
            "executor_resource_gpu_amount": "2",
            "executor_resource_gpu_discoveryScript": str(script),
            **more,
        }
        command = [sys.executable, "-c", PROGRAM, master, json.dumps(settings), json.dumps(launches)]
        tests = Path(__file__).parent.parent
        done = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()[-len(launches) :]]

    return ran


def test_each_rank_sees_the_gpus_that_its_task_is_given_or_none(run: Run) -> None:
    of_its_task, without, with_more_cores = run(
        "local-cluster[1,4,1024]", [{}, {"gpusPerWorker": 0}, {"cpusPerWorker": 2}], task_resource_gpu_amount="1"
    )
    assert of_its_task == [["3", "true", "1"], ["5", "true", "1"]]
    assert without == [["-1", "true", "1"]] * 2
    assert with_more_cores == [["3", "true", "2"], ["5", "true", "2"]]


def test_workers_may_be_given_more_than_the_applications_tasks(run: Run) -> None:
    gpus, too_many, both = run(
        "local-cluster[1,4,1024]",
        [{"gpusPerWorker": 1}, {"cpusPerWorker": 2, "gpusPerWorker": 2}, {"cpusPerWorker": 2, "gpusPerWorker": 1}],
    )
    assert gpus == [["3", "true", "1"], ["5", "true", "1"]]
    assert too_many == (
        "ClusterError: numWorkers=2 is more than the cluster's 1 slots. "
        "Expected: numWorkers <= 1: every worker needs a slot at the same time. "
        "Received: numWorkers=2 on local-cluster[1,4,1024] with 2 cores and 2 GPUs for each. "
        "Lower numWorkers, or give the application more executors or cores."
    )
    assert both == [["3", "true", "2"], ["5", "true", "2"]]


def test_more_cores_than_an_executor_has_are_refused(run: Run) -> None:
    (said,) = run("local-cluster[1,2,1024]", [{"cpusPerWorker": 3}], executor_cores="2")
    assert said.startswith(
        "ClusterError: cpusPerWorker=3, but an executor has 2 cores. Expected: spark.executor.cores >= 3"
    )


def test_two_executors_that_name_the_same_gpus_are_found_out(run: Run) -> None:
    (said,) = run("local-cluster[2,1,1024]", [{"gpusPerWorker": 2}])
    assert "raised ClusterError: Ranks 0 and 1 both have GPU 3 of host" in said


def test_half_a_gpu_for_a_task_is_shared(run: Run) -> None:
    (seen,) = run("local-cluster[1,2,1024]", [{}], task_resource_gpu_amount="0.5", executor_resource_gpu_amount="1")
    assert seen[0][0] == seen[1][0]
