"""What a task was given, as the environment of its rank: GPUs, threads, Horovod's variables."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

import psutil

from spark_dl.errors import ClusterError, explain
from spark_dl.world import World

__all__ = ["horovod_environment", "interface_towards", "task_environment"]


def task_environment(cpus: int, gpus: list[str], threads: int) -> dict[str, str]:
    """Variables that must be set before TensorFlow is imported.

    Args:
        cpus: the task's cores (spark.task.cpus).
        gpus: addresses of the task's GPUs; without any, TensorFlow sees no GPU.
        threads: computing threads of the rank; 0 for as many as the task has cores.
    """
    count = str(threads or cpus)
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus) if gpus else "-1",
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Petastorm warns of the pyarrow API that it uses, once for each file.
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def horovod_environment(
    world: World, rendezvous: tuple[str, int, str], interface: str, timeout: int, given: Mapping[str, str]
) -> dict[str, str]:
    """Horovod's variables for one rank.

    Args:
        world: the rank's place.
        rendezvous: host, port and token of the store.
        interface: name of this host's network interface that reaches the other ranks.
        timeout: seconds after which a silent peer counts as lost.
        given: the environment of the task; tuning variables that are set there are kept.
    """
    host, port, token = rendezvous
    return {
        # Small models are bound by the latency of Horovod's cycle, 1 ms by default.
        "HOROVOD_CYCLE_TIME": given.get("HOROVOD_CYCLE_TIME", "0.1"),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{host}:{port}/{token}",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "0",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(timeout),
        "HOROVOD_HOSTNAME": world.host,
        "HOROVOD_RANK": str(world.rank),
        "HOROVOD_SIZE": str(world.size),
        "HOROVOD_LOCAL_RANK": str(world.local_rank),
        "HOROVOD_LOCAL_SIZE": str(world.local_size),
        "HOROVOD_CROSS_RANK": str(world.cross_rank),
        "HOROVOD_CROSS_SIZE": str(world.cross_size),
    }


def interface_towards(host: str, port: int, timeout: float) -> str:
    """The name of the interface by which this host reaches another.

    It is asked of the system by connecting, not guessed: a host has bridges and addresses that lead nowhere,
    and a wrong interface ends Horovod in an abort that Python can't catch.

    Raises:
        ClusterError: the other host can't be reached, or no interface has the address used.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            own = connection.getsockname()[0]
    except OSError as error:
        raise ClusterError(
            explain(
                f"{socket.gethostname()} can't reach rank 0 at {host}:{port}.",
                expected="a way between all executors, on any port",
                received=f"{type(error).__name__}: {error}",
                fix="Open the ports between the executors' hosts.",
            )
        ) from error
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket.AF_INET and address.address == own:
                return str(name)
    kind = "IPv6" if ipaddress.ip_address(own).version == 6 else "address"
    raise ClusterError(
        explain(
            f"No network interface of {socket.gethostname()} has the {kind} {own}.",
            expected="an interface with an IPv4 address that the other ranks reach",
            received=", ".join(sorted(psutil.net_if_addrs())),
            fix="Set SPARK_LOCAL_IP on the executors' hosts to the address of the right interface.",
        )
    )
