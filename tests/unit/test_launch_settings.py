"""What a rank is started with: slots told by settings, and the environment of GPUs, threads and Horovod."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from spark_dl.errors import ClusterError
from spark_dl.launch.resources import horovod_environment, interface_towards, task_environment
from spark_dl.launch.slots import slots_of
from spark_dl.world import worlds


def setting_of(settings: dict[str, str]) -> Callable[[str, str], str]:
    return lambda key, default: settings.get(key, default)


@pytest.mark.parametrize(
    ("master", "settings", "slots"),
    [
        ("local", {}, 1),
        ("local[3]", {}, 3),
        ("local[*]", {}, os.cpu_count()),
        ("local[4,2]", {}, 4),
        ("local[4, 2]", {}, 4),
        ("local[5]", {"spark.task.cpus": "2"}, 2),
        ("local[1]", {"spark.task.cpus": "2"}, 0),
        ("local-cluster[2,1,2048]", {}, 2),
        ("local-cluster[3, 5, 1024]", {"spark.task.cpus": "2"}, 6),
        ("local[2]", {"spark.executor.instances": "9", "spark.executor.cores": "9"}, 2),
        ("spark://host:7077", {}, None),
        ("spark://host:7077", {"spark.executor.cores": "4"}, None),
        ("yarn", {"spark.executor.instances": "3", "spark.executor.cores": "4"}, 12),
        ("k8s://x", {"spark.executor.instances": "3", "spark.executor.cores": "5", "spark.task.cpus": "2"}, 6),
    ],
)
def test_slots_of_a_master(master: str, settings: dict[str, str], slots: int | None) -> None:
    assert slots_of(master, setting_of(settings)) == slots


@pytest.mark.parametrize(("cpus", "threads", "count"), [(1, 0, "1"), (4, 0, "4"), (4, 2, "2")])
def test_threads_are_the_tasks_cores_unless_given(cpus: int, threads: int, count: str) -> None:
    environment = task_environment(cpus, [], threads)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    assert [environment[name] for name in names] == [count] * 3


@pytest.mark.parametrize(("gpus", "visible"), [([], "-1"), (["0"], "0"), (["3", "1"], "3,1")])
def test_a_rank_sees_the_gpus_of_its_task_only(gpus: list[str], visible: str) -> None:
    assert task_environment(1, gpus, 0)["CUDA_VISIBLE_DEVICES"] == visible


def test_horovod_is_told_the_place_of_each_rank() -> None:
    ranks = worlds(["a", "b", "a"])
    told = [horovod_environment(world, ("a", 4000, "secret"), "eth1", 30, {}) for world in ranks]
    for name, values in {
        "HOROVOD_RANK": ["0", "1", "2"],
        "HOROVOD_SIZE": ["3", "3", "3"],
        "HOROVOD_LOCAL_RANK": ["0", "0", "1"],
        "HOROVOD_LOCAL_SIZE": ["2", "1", "2"],
        "HOROVOD_CROSS_RANK": ["0", "1", "0"],
        "HOROVOD_CROSS_SIZE": ["2", "2", "1"],
        "HOROVOD_HOSTNAME": ["a", "b", "a"],
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": ["a:4000/secret"] * 3,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": ["0"] * 3,
        "HOROVOD_GLOO_IFACE": ["eth1"] * 3,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": ["30"] * 3,
        "HOROVOD_CONTROLLER": ["gloo"] * 3,
    }.items():
        assert [environment[name] for environment in told] == values


def test_a_tuning_variable_of_the_user_is_kept() -> None:
    (world,) = worlds(["a"])
    place = ("a", 1, "t")
    assert horovod_environment(world, place, "lo", 1, {"HOROVOD_CYCLE_TIME": "5"})["HOROVOD_CYCLE_TIME"] == "5"
    assert float(horovod_environment(world, place, "lo", 1, {})["HOROVOD_CYCLE_TIME"]) < 1


def test_the_interface_is_the_one_that_the_connection_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = interface_towards("127.0.0.1", server.getsockname()[1], 30)
    assert name in {name for _, name in socket.if_nameindex()}
    assert name.startswith("lo")


def test_a_rank_0_that_can_not_be_reached_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match=rf"can't reach rank 0 at 127.0.0.1:{port}.*ConnectionRefused.*ports"):
        interface_towards("127.0.0.1", port, 30)
