"""Bytes and time of an allreduce of gradients over shaped links: `python scripts/bench/links.py`, about three minutes.

Hosts are network namespaces of this machine, one rank on each, with the rank processes, the settings and the reducer
that training has, but without Spark. What a host sends is shaped by `tc` (tbf). A step is the reducer's: gradients in
ten tensors are weighted, packed, summed by Horovod and unpacked. Printed are the bytes that a host sends in a step, by
the counters of its interface, relative to the ring's minimum, 2(N-1)/N of the gradients; and the time with a model,
compute + latency + bytes / bandwidth, whose latency and bandwidth are fitted by least squares of the relative error.

All hosts share this machine's cores: the processor's part of Gloo's work is in the times, and more so with more hosts.
It needs root or user namespaces, and `tc` of the package iproute2.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil

from spark_dl.collectives import make_collectives
from spark_dl.launch import resources
from spark_dl.launch.messages import Address, Done, Failed, RankTask
from spark_dl.launch.rank_process import RankProcess
from spark_dl.launch.rendezvous import Rendezvous
from spark_dl.world import Rank, worlds

HOSTS = (2, 4)
# Gbit/s, and the bucket of the shaper: as small as it may be without its cutting packets. 0 is an unshaped link.
RATES = {0: "", 10: "256kb", 1: "128kb"}
# Megabytes (10^6) of float32 gradients, and how many steps are timed.
SIZES = {0.033: 200, 1.0: 60, 10.0: 16, 50.0: 6, 100.0: 6}
TENSORS, WARM, IDLE_SECONDS = 10, 3, 2.0
ALONE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def shape(interface: str, gigabits: int) -> None:
    """Shape what this host sends."""
    subprocess.run(["tc", "qdisc", "del", "dev", interface, "root"], check=False, capture_output=True)
    if gigabits:
        words = f"rate {gigabits}gbit burst {RATES[gigabits]} latency 50ms".split()
        subprocess.run(["tc", "qdisc", "add", "dev", interface, "root", "tbf", *words], check=True)


def sent(interface: str) -> int:
    """Bytes that this host has sent."""
    return int(psutil.net_io_counters(pernic=True)[interface].bytes_sent)


def received() -> int:
    """TCP segments with data that this host has received."""
    counts: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            counts |= {names[0] + what: int(count) for what, count in zip(names[1:], values[1:], strict=True)}
    return counts["Tcp:InSegs"] - counts["TcpExt:TCPPureAcks"]


def measure(interface: str, rank: Rank) -> dict[str, Any]:
    """On each rank: the steps of all rates and sizes."""
    import tensorflow as tf

    from spark_dl.train.optimizer import GradientReducer
    from spark_dl.train.speed import StepClock

    collectives = make_collectives(rank.world)

    def steps(megabytes: float, half: bool, name: str) -> dict[str, Any]:
        clock = StepClock()
        reducer = GradientReducer(collectives, clock, fp16=32 if half else 0)
        size = round(megabytes * 1e6 / 4 / TENSORS)
        gradients = [tf.random.normal([size]) for _ in range(TENSORS)]
        step = tf.function(lambda *tensors: reducer.reduce(list(tensors), name, tf.constant(32.0)))
        seconds, reducing, count = [], [], SIZES[megabytes]
        for turn in range(WARM + count):
            if turn == WARM:
                collectives.sum(np.zeros(1), f"{name}.warm")
                before = sent(interface)
            clock.take()
            began = time.perf_counter()
            step(*gradients)[-1][-1].numpy()
            seconds.append(time.perf_counter() - began)
            reducing.append(clock.take().collective_seconds)
        wire = (sent(interface) - before) / count
        middle = (statistics.median(taken[WARM:]) for taken in (seconds, reducing))
        return dict(zip(("seconds", "reducing"), middle, strict=True), sent=wire)

    found = {}
    for gigabits in RATES:
        shape(interface, gigabits)
        collectives.sum(np.zeros(1), f"shaped.{gigabits}")
        for megabytes in SIZES:
            found[f"{gigabits} {megabytes}"] = steps(megabytes, False, f"{gigabits}.{megabytes}")
        found[f"{gigabits} fp16"] = steps(100.0, True, f"{gigabits}.half")
    shape(interface, 0)
    collectives.sum(np.zeros(1), "idle")
    before = (sent(interface), time.process_time(), received())
    time.sleep(IDLE_SECONDS)
    after = (sent(interface), time.process_time(), received())
    idle = [(now - then) / IDLE_SECONDS for now, then in zip(after, before, strict=True)]
    return {**found, "idle": dict(zip(("bytes", "processor", "messages"), idle, strict=True))}


def agent(rank: int, addresses: list[str]) -> None:
    """On each host, in the place of a Spark task: start the rank, and print what it measured."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(RankProcess(resources.task_environment(1, [], 0)))
        rendezvous = stack.enter_context(Rendezvous(addresses[0])) if rank == 0 else None
        if not process.ready():
            raise SystemExit(f"rank {rank} ended: {process.exit()}")
        print(json.dumps(vars(rendezvous.address) if rendezvous else None), flush=True)
        address = Address(**json.loads(sys.stdin.readline()))
        interface = resources.interface_towards(address.host, address.port, 10.0)
        world = worlds(addresses)[rank]
        variables = resources.horovod_environment(world, address, interface, 60)
        payload = cloudpickle.dumps(functools.partial(measure, interface))
        process.send(RankTask(world, variables, payload, logging.WARNING))
        for message in process.messages():
            if isinstance(message, Failed):
                raise SystemExit(str(message.failure.error()))
            if isinstance(message, Done):
                print(json.dumps(cloudpickle.loads(message.value)), flush=True)
                return
        raise SystemExit(f"rank {rank} ended: {process.exit()}")


def over_hosts(count: int) -> dict[str, Any]:
    """What the ranks of so many hosts measured, as means over them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from hosts.network import Network

    with tempfile.TemporaryDirectory() as directory:
        hosts = list(Network([f"node-{number}" for number in range(count)], Path(directory)).hosts.values())
        addresses = json.dumps([host.address for host in hosts])
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        agents = [
            subprocess.Popen(host.command(sys.executable, __file__, "agent", str(rank), addresses), **pipes)
            for rank, host in enumerate(hosts)
        ]
        place, *_ = [process.stdout.readline() for process in agents]  # type: ignore[union-attr]
        for process in agents:
            process.stdin.write(place)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        answers = [json.loads(process.communicate()[0]) for process in agents]
    return {
        case: {what: statistics.mean(answer[case][what] for answer in answers) for what in answers[0][case]}
        for case in answers[0]
    }


def fitted(least: list[float], seconds: list[float]) -> tuple[float, float]:
    """Latency in seconds and bandwidth in bytes a second that give the least squares of the relative errors."""
    weights = 1 / np.array(seconds)
    columns = np.stack([weights, np.array(least) * weights], axis=1)
    (latency, by_byte), *_ = np.linalg.lstsq(columns, np.ones(len(seconds)), rcond=None)
    return float(latency), 1 / float(by_byte)


def show(count: int, found: dict[str, Any]) -> None:
    """The tables of so many hosts."""
    idle = found["idle"]
    print(f"\n{count} hosts. When idle, a rank uses {idle['processor']:.2f} of a core, and sends ", end="")
    print(f"{idle['bytes'] / 1e6:.2f} MB/s in {idle['messages']:,.0f} TCP segments per second.\n")
    print(
        "| link, Gbit/s | gradients, MB | sent, MB | sent / ring minimum | step, ms "
        "| compute | collectives | model, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    constants = []
    for gigabits in RATES:
        name = str(gigabits or "unshaped")
        cases = [found[f"{gigabits} {megabytes}"] for megabytes in SIZES]
        least = [2 * (count - 1) / count * megabytes * 1e6 for megabytes in SIZES]
        latency, bandwidth = fitted(least, [case["reducing"] for case in cases])
        constants.append(f"| {count} | {name} | {latency * 1e3:.2f} | {bandwidth * 8 / 1e9:.2f} |")
        for megabytes, at_least, case in zip(SIZES, least, cases, strict=True):
            compute = case["seconds"] - case["reducing"]
            row(name, f"{megabytes:g}", case, at_least, f"{(compute + latency + at_least / bandwidth) * 1e3:.1f}")
        row(name, "100, fp16", found[f"{gigabits} fp16"], least[-1] / 2, "")
    print("\n| hosts | link, Gbit/s | allreduce latency, ms | allreduce bandwidth, Gbit/s |\n|---|---|---|---|")
    print("\n".join(constants), flush=True)


def row(link: str, size: str, case: dict[str, float], least: float, model: str) -> None:
    """A row of the table."""
    step, joining = (case[what] * 1e3 for what in ("seconds", "reducing"))
    shown = f"{case['sent'] / 1e6:.3g} | {case['sent'] / least:.2f} | {step:.1f} | {step - joining:.1f} | {joining:.1f}"
    print(f"| {link} | {size} | {shown} | {model} |")


def main() -> None:
    alone = ALONE if os.geteuid() == 0 else [*ALONE, "--user", "--map-root-user"]
    if not shutil.which("tc") or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        print("Left out: it needs tc (of the package iproute2), and root or user namespaces.")
        return
    for count in HOSTS:
        ran = subprocess.run(
            [*alone, sys.executable, __file__, "hosts", str(count)], stdout=subprocess.PIPE, check=True
        )
        show(count, json.loads(ran.stdout.splitlines()[-1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["agent"]:
        agent(int(sys.argv[2]), json.loads(sys.argv[3]))
    elif sys.argv[1:2] == ["hosts"]:
        print(json.dumps(over_hosts(int(sys.argv[2]))), flush=True)
        os._exit(0)  # the hosts go with this process
    else:
        main()
