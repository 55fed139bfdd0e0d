"""What a rank is started with: slots told by settings, and the environment of GPUs, threads and Horovod."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from spark_dl.errors import ClusterError
from spark_dl.launch.messages import Address
from spark_dl.launch.resources import (
    check_gpus,
    gpu_names,
    horovod_environment,
    interface_address,
    interface_towards,
    ipv4,
    task_environment,
)
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import check_settings, slots_of, task_gpus
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
        ("spark://host:7077", {"spark.executor.instances": "2", "spark.executor.cores": "4"}, None),
        ("yarn", {"spark.executor.instances": "3", "spark.executor.cores": "4"}, 12),
        ("k8s://x", {"spark.executor.instances": "3", "spark.executor.cores": "5", "spark.task.cpus": "2"}, 6),
    ],
)
def test_slots_of_a_master(master: str, settings: dict[str, str], slots: int | None) -> None:
    assert slots_of(master, setting_of(settings), LaunchSettings()) == slots


GPUS = {"spark.executor.resource.gpu.amount": "4"}


@pytest.mark.parametrize(
    ("settings", "wanted", "slots"),
    [
        (GPUS, LaunchSettings(), 16),
        (GPUS, LaunchSettings(gpus_per_worker=1), 8),
        (GPUS, LaunchSettings(gpus_per_worker=3), 2),
        (GPUS, LaunchSettings(gpus_per_worker=1, cpus_per_worker=4), 4),
        (GPUS | {"spark.task.resource.gpu.amount": "2"}, LaunchSettings(), 4),
        (GPUS | {"spark.task.resource.gpu.amount": "2"}, LaunchSettings(gpus_per_worker=0), 16),
        (GPUS | {"spark.task.resource.gpu.amount": "0.5"}, LaunchSettings(), 16),
        (GPUS | {"spark.task.resource.gpu.amount": "0.6"}, LaunchSettings(), 8),
        ({"spark.task.resource.gpu.amount": "1"}, LaunchSettings(), 0),
        ({}, LaunchSettings(cpus_per_worker=3), 4),
    ],
)
def test_slots_by_what_each_worker_is_given(settings: dict[str, str], wanted: LaunchSettings, slots: int) -> None:
    assert slots_of("local-cluster[2,8,1024]", setting_of(settings), wanted) == slots
    static = {"spark.executor.instances": "2", "spark.executor.cores": "8", **settings}
    assert slots_of("yarn", setting_of(static), wanted) == slots


# What Databricks sets on its clusters besides.
DATABRICKS = {
    "spark.databricks.clusterUsageTags.clusterNodeType": "i3.xlarge",
    "spark.databricks.clusterUsageTags.clusterScalingType": "fixed_size",
    "spark.databricks.clusterUsageTags.clusterTargetWorkers": "2",
    "spark.databricks.cluster.profile": "singleNode",
    "spark.databricks.driver.dbfsLibraryInstallationAllowed": "true",
}
MANY, ONE = "spark://10.139.64.4:7077", "local[*, 4]"
DYNAMIC = {"spark.dynamicAllocation.enabled": "true"}


@pytest.mark.parametrize("extra", [{}, DATABRICKS])
@pytest.mark.parametrize(
    ("master", "settings", "slots"),
    [
        (ONE, {}, os.cpu_count()),
        (ONE, DYNAMIC, os.cpu_count()),  # Spark ignores it in local mode
        ("local[*,4]", {"spark.task.cpus": str(os.cpu_count())}, 1),
        # The GPU settings that a GPU cluster has preset don't bound the slots of local mode.
        (ONE, GPUS | {"spark.task.resource.gpu.amount": "1"}, os.cpu_count()),
        (MANY, {}, None),
        (MANY, {"spark.executor.instances": "2", "spark.executor.cores": "4"}, None),
        (MANY, GPUS | {"spark.task.resource.gpu.amount": "1"}, None),
        ("databricks://10.139.64.4:7077", {}, None),
        ("", {}, None),
    ],
)
def test_masters_of_databricks(master: str, settings: dict[str, str], extra: dict[str, str], slots: int | None) -> None:
    known = {"spark.master": master, **settings, **extra}
    assert slots_of(master, setting_of(known), LaunchSettings()) == slots
    check_settings(setting_of(known), 1, LaunchSettings())
    if slots is not None:
        with pytest.raises(ClusterError, match=f"more than the cluster's {slots} slots"):
            check_settings(setting_of(known), slots + 1, LaunchSettings())


@pytest.mark.parametrize("gpus", [None, 1])
def test_a_preset_amount_of_gpus_is_what_ranks_get(gpus: int | None) -> None:
    preset = {"spark.executor.resource.gpu.amount": "1", "spark.task.resource.gpu.amount": "1"}
    settings = LaunchSettings(gpus_per_worker=gpus)
    for master in (MANY, ONE):
        check_settings(setting_of({"spark.master": master, **preset, **DATABRICKS}), 1, settings)
    assert task_gpus(setting_of(preset), settings) == 1


@pytest.mark.parametrize("master", [MANY, "yarn", "k8s://https://host:443", "databricks://10.139.64.4:7077"])
def test_autoscaling_is_refused_with_what_to_write_in_its_place(master: str) -> None:
    known = {"spark.master": master, **DATABRICKS, **DYNAMIC}
    with pytest.raises(ClusterError, match=r"SPARK-24942.*fixed number of executors.*num_workers, not autoscale"):
        check_settings(setting_of(known), 1, LaunchSettings())


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
    told = [horovod_environment(world, Address("a", 4000, "secret"), "eth1", 30) for world in ranks]
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
        "NCCL_SOCKET_IFNAME": ["=eth1"] * 3,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": ["30"] * 3,
        "HOROVOD_CONTROLLER": ["gloo"] * 3,
    }.items():
        assert [environment[name] for environment in told] == values


def test_variables_for_tuning_are_the_executors_where_it_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    (world,) = worlds(["a"])
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "2.5")
    assert horovod_environment(world, Address("a", 1, "t"), "lo", 1)["HOROVOD_CYCLE_TIME"] == "2.5"
    monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    assert 0 < float(horovod_environment(world, Address("a", 1, "t"), "lo", 1)["HOROVOD_CYCLE_TIME"]) < 1


def test_the_interface_is_the_one_that_the_connection_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = interface_towards("127.0.0.1", server.getsockname()[1], 30)
    assert name in {name for _, name in socket.if_nameindex()}
    assert name.startswith("lo")


def own_addresses() -> list[str]:
    return [a.address for all_ in psutil.net_if_addrs().values() for a in all_ if a.family == socket.AF_INET]


@pytest.mark.parametrize("wanted", ["lo", "127.0.0.0/8", "127.0.0.1/32"])
def test_the_interface_may_be_named_or_given_by_its_network(wanted: str) -> None:
    assert interface_address(wanted) == "127.0.0.1"


@pytest.mark.parametrize("wanted", ["nothere0", "203.0.113.0/24"])
def test_a_network_that_a_host_is_not_on_is_a_clear_error(wanted: str) -> None:
    with pytest.raises(
        ClusterError, match=rf"no IPv4 addresses on networkInterface='{wanted}'.*Received: .*lo 127.0.0.1"
    ):
        interface_address(wanted)


def test_several_addresses_on_a_network_are_ambiguous() -> None:
    if len(own_addresses()) > 1:
        with pytest.raises(ClusterError, match=rf"has {len(own_addresses())} IPv4 addresses on"):
            interface_address("0.0.0.0/0")
    else:
        assert interface_address("0.0.0.0/0") == "127.0.0.1"


def test_the_connection_goes_from_the_wanted_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert interface_towards("127.0.0.1", server.getsockname()[1], 5, "127.0.0.1").startswith("lo")
        with pytest.raises(ClusterError, match=r"can't reach rank 0 at .* from 203\.0\.113\.5"):
            interface_towards("127.0.0.1", server.getsockname()[1], 5, "203.0.113.5")


def test_a_host_without_ipv4_is_refused() -> None:
    assert ipv4("127.0.0.1", alone=True) == "127.0.0.1"
    assert ipv4("localhost", alone=True) == "127.0.0.1"
    assert ipv4("10.1.2.3", alone=False) == "10.1.2.3"
    with pytest.raises(ClusterError, match=r"loopback address 127.0.0.1.*/etc/hosts"):
        ipv4("localhost", alone=False)
    with pytest.raises(ClusterError, match=r"\[::1\] has no IPv4 address.*Gloo.*networkInterface"):
        ipv4("[::1]", alone=True)


def test_gpus_are_compared_by_what_nvidias_tool_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("""#!/bin/sh\n[ "$2" = 9 ] && exit 6\necho GPU-of-$2\n""")
    tool.chmod(0o755)
    assert gpu_names(["0", "1"]) == ("0", "1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_names(["0", "1", "9"]) == ("GPU-of-0", "GPU-of-1", "9")


def test_a_gpu_is_for_one_rank_alone_unless_tasks_share_it() -> None:
    check_gpus(["a", "a", "b"], [["0"], ["1"], ["0"]], shared=False)
    check_gpus(["a", "a"], [[], []], shared=False)
    check_gpus(["a", "a"], [["0"], ["0"]], shared=True)
    with pytest.raises(ClusterError, match="Ranks 0 and 2 both have GPU 1 of host a"):
        check_gpus(["a", "b", "a"], [["0", "1"], ["0", "1"], ["1"]], shared=False)


def test_a_rank_0_that_can_not_be_reached_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match=rf"can't reach rank 0 at 127.0.0.1:{port}.*ConnectionRefused.*ports"):
        interface_towards("127.0.0.1", port, 30)
