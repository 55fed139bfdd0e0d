"""Environment variables of a rank, from its task's resources: GPUs, threads, network interface, Horovod's settings."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
from collections.abc import Sequence

import psutil

from spark_dl.errors import ClusterError, explain
from spark_dl.launch.messages import Address
from spark_dl.world import World

__all__ = [
    "check_gpus",
    "gpu_names",
    "horovod_environment",
    "interface_address",
    "interface_towards",
    "ipv4",
    "task_environment",
]

_TOOL_SECONDS = 20.0
# HOROVOD_CYCLE_TIME: Horovod's default of 1 ms is as long as a small model's step. Under SCHED_BATCH (rank.py), the
# cycles don't interrupt the rank's computation.
_CYCLE_MILLISECONDS = "0.3"


def task_environment(cpus: int, gpus: list[str], threads: int) -> dict[str, str]:
    """Build the variables that must be set before TensorFlow is imported.

    Args:
        cpus: The number of the task's cores (spark.task.cpus).
        gpus: The addresses of the task's GPUs; if empty, TensorFlow sees no GPU.
        threads: The number of computing threads of the rank; 0 for as many as the task has cores.
    """
    count = str(threads or cpus)
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus) if gpus else "-1",
        "OMP_NUM_THREADS": count,
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Petastorm warns about the pyarrow API that it uses, once per file.
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def horovod_environment(world: World, rendezvous: Address, interface: str, timeout: int) -> dict[str, str]:
    """Build Horovod's variables for one rank. HOROVOD_CYCLE_TIME keeps the executor's value, if it has one.

    Args:
        world: The rank's World.
        rendezvous: The address of the rendezvous store.
        interface: The name of this host's network interface that reaches the other ranks.
        timeout: The seconds after which a silent peer counts as lost.
    """
    return {
        "HOROVOD_CYCLE_TIME": os.environ.get("HOROVOD_CYCLE_TIME", _CYCLE_MILLISECONDS),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_SOCKET_IFNAME": f"={interface}",  # "=" matches the exact name; without it NCCL matches a prefix
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{rendezvous.host}:{rendezvous.port}/{rendezvous.token}",
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


def gpu_names(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the UUIDs of GPUs, or their addresses if nvidia-smi doesn't know them.

    Addresses don't identify GPUs: in containers that isolate GPUs, each has the address 0.
    """
    names = []
    for address in addresses:
        command = ["nvidia-smi", "-i", address, "--query-gpu=uuid", "--format=csv,noheader"]
        name = ""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            name = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TOOL_SECONDS).stdout
        names.append(name.strip() or address)
    return tuple(names)


def check_gpus(hosts: Sequence[str], gpus: Sequence[Sequence[str]], shared: bool) -> None:
    """Check that no two ranks of a host have the same GPU, since each would take all of its memory.

    Args:
        hosts: The host of each rank.
        gpus: The names of the GPUs of each rank's task, from `gpu_names`.
        shared: Whether tasks may share a GPU (spark.task.resource.gpu.amount below 1).

    Raises:
        ClusterError: Two ranks have the same GPU, and `shared` is False.
    """
    owners: dict[tuple[str, str], int] = {}
    for rank, (host, addresses) in enumerate(zip(hosts, gpus, strict=True)):
        for address in addresses:
            other = owners.setdefault((host, address), rank)
            if other != rank and not shared:
                raise ClusterError(
                    explain(
                        f"Ranks {other} and {rank} both have GPU {address} of host {host}.",
                        expected="a GPU for one rank alone",
                        received="executors on one host whose discovery scripts name the same GPUs",
                        fix="Start one executor on each host, or let the script give each executor different GPUs; "
                        "to share a GPU, set spark.task.resource.gpu.amount below 1.",
                    )
                )


def ipv4(host: str, alone: bool) -> str:
    """Resolve a host to its IPv4 address.

    Args:
        host: The host's name or address.
        alone: Whether all ranks are on this host, so that a loopback address does.

    Raises:
        ClusterError: The host has no IPv4 address, or a loopback address that other hosts can't reach.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ClusterError(
            explain(
                f"The host {host} has no IPv4 address.",
                expected="hosts with IPv4 addresses in Spark: Gloo, which connects Horovod's ranks, has no IPv6",
                received=f"{host}: {error}",
                fix="Set SPARK_LOCAL_IP on the executors' hosts to an IPv4 address, or networkInterface.",
            )
        ) from error
    address = str(found[0][4][0])
    if ipaddress.ip_address(address).is_loopback and not alone:
        raise ClusterError(
            explain(
                f"{socket.gethostname()} resolves its name to the loopback address {address}.",
                expected=f"an address of {host} that other hosts reach",
                received=f"{host} = {address}, from /etc/hosts or the like",
                fix="Correct /etc/hosts there, or set networkInterface.",
            )
        )
    return address


def interface_address(wanted: str) -> str:
    """Find this host's IPv4 address on a network.

    Args:
        wanted: The name of the interface, or a CIDR that contains its address.

    Raises:
        ClusterError: No address matches, or several do.
    """
    network = ipaddress.ip_network(wanted) if "/" in wanted else None
    here = {(name, address) for name, address in _addresses() if network or name == wanted}
    fit = sorted(a for _, a in here if network is None or ipaddress.ip_address(a) in network)
    if len(fit) == 1:
        return fit[0]
    known = ", ".join(f"{name} {address}" for name, address in _addresses())
    raise ClusterError(
        explain(
            f"{socket.gethostname()} has {len(fit) or 'no'} IPv4 addresses on networkInterface={wanted!r}.",
            expected="one",
            received=known,
            fix="Give the name of an interface, or a CIDR, that each executor's host has one address on.",
        )
    )


def _addresses() -> list[tuple[str, str]]:
    return [
        (str(name), address.address)
        for name, addresses in sorted(psutil.net_if_addrs().items())
        for address in addresses
        if address.family == socket.AF_INET
    ]


def interface_towards(host: str, port: int, timeout: float, own: str | None = None) -> str:
    """Find the name of the network interface by which this host reaches another.

    A connection shows which one the system uses. A guess may hit a bridge or an address that reaches no other host,
    and with a wrong interface Horovod aborts the process, which Python can't catch.

    Args:
        host: The address at which the other host listens.
        port: The port at which it listens.
        timeout: The seconds to wait for the connection.
        own: This host's address to connect from; None to let the system choose.

    Raises:
        ClusterError: The other host can't be reached, or no interface has the address used.
    """
    try:
        source = (own, 0) if own else None
        with socket.create_connection((host, port), timeout, source) as connection:
            own = connection.getsockname()[0]
    except OSError as error:
        raise ClusterError(
            explain(
                f"{socket.gethostname()} can't reach rank 0 at {host}:{port}{f' from {own}' if own else ''}.",
                expected="connections between all executors, on any port",
                received=f"{type(error).__name__}: {error}",
                fix="Open the ports between the executors' hosts.",
            )
        ) from error
    for name, address in _addresses():
        if address == own:
            return name
    raise ClusterError(
        explain(
            f"No network interface of {socket.gethostname()} has the address {own}.",
            expected="an interface with an IPv4 address that the other ranks reach",
            received=", ".join(f"{name} {address}" for name, address in _addresses()),
            fix="Set networkInterface to the name or CIDR of the right network.",
        )
    )
