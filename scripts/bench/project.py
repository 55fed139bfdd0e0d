"""Extrapolation of measured constants to more ranks: `python scripts/bench/project.py`; it measures nothing.

A step takes compute + latency + bytes / bandwidth without overlap, since gradients are reduced in one buffer when all
are computed. With N ranks on N hosts the ring has 2 (N - 1) steps, and sends 2 (N - 1) / N of the gradients' bytes
through each link. Constants are from what `links.py` printed for docs/scaling.md; each is an option here. Efficiency
is compute / step: rows/s relative to N times those of one rank.
"""

import argparse
import math
from argparse import Namespace

RANKS, LINKS = (64, 512), (10, 25, 100)
# The constants of docs/scaling.md: option, value, what it is.
CONSTANTS = (
    ("start-ms", 0.4, "of an allreduce of two hosts, without the steps of its ring; measured"),
    ("turn-ms", 0.1, "of a message to the next rank, where ranks only wait; assumed"),
    (
        "rounds",
        2.5,
        "of the ring in an allreduce: half a cycle in progress, the agreement, the sum; from Horovod's source",
    ),
    ("busy-turn-ms", 0.4, "of a ring step, all rounds, where four ranks share two cores: allreduce / 6; measured"),
    ("used", 0.90, "share of a link's bandwidth that an allreduce reaches; measured at 1 Gbit/s"),
    ("most-gbit", 9.7, "Gbit/s of an allreduce over unlimited links, two hosts with a core each; measured"),
)
# Option, name, bytes of float32 gradients, milliseconds of a step without collectives, and the source of that time.
MODELS = (
    ("mlp-ms", "MLP 64-128-1", 4 * 8_449.0, 1.0, "1024 rows on one core, scaling.py"),
    ("resnet-ms", "ResNet-50", 4 * 25.6e6, 1000 * 256 / 1270, "256 images on a V100, published"),
    (
        "bert-ms",
        "BERT-base",
        4 * 110e6,
        1000 * 64 / 168.63 * 110 / 330,
        "64 sequences of 128 on a V100, from BERT-large",
    ),
)
# Published for 512 GPUs, four on a host, 25 Gbit/s a host: images a second of one GPU, parameters, efficiency.
PUBLISHED = {"Inception V3": (142.0, 23.9e6, 90), "VGG-16": (154.0, 138.4e6, 68)}


def by_link(ranks: int, size: float, gigabits: float) -> float:
    """Milliseconds for the ring's bytes, if nothing but the link takes time."""
    return 2 * (ranks - 1) / ranks * size * 8 / (gigabits * 1e6)


def by_gloo(known: Namespace, ranks: int, size: float, gigabits: float, busy: bool) -> float:
    """Milliseconds of an allreduce by the constants."""
    turns = 2 * (ranks - 1)
    latency = turns * known.busy_turn_ms if busy else known.start_ms + turns * known.rounds * known.turn_ms
    return float(latency) + by_link(ranks, size, min(known.used * gigabits, known.most_gbit))


def steps(known: Namespace) -> None:
    """Efficiency, by three estimates of an allreduce."""
    ways = "allreduce by Gloo, ms | efficiency | oversubscribed, ms | efficiency | link only, ms | efficiency"
    print(f"| model | MB | compute, ms | ranks | link, Gbit/s | {ways} |")
    print("|" + "---|" * 11)
    for option, name, size, *_ in MODELS:
        compute = vars(known)[option.replace("-", "_")]
        for ranks in RANKS:
            for link in LINKS:
                times = [by_gloo(known, ranks, size, link, busy) for busy in (False, True)]
                shown = [
                    f"{t:,.1f} | {100 * compute / (compute + t):.0f} %" for t in (*times, by_link(ranks, size, link))
                ]
                row = f"| {name} | {size / 1e6:.3g} | {compute:.1f} | {ranks} | {link} | "
                print(row + " | ".join(shown) + " |")


def larger(known: Namespace) -> None:
    """How many steps' gradients are to be added up before each join."""
    print("\n| model | ranks | link, Gbit/s | steps per allreduce for 90 %, Gloo | link only | link only, float16 |")
    print("|" + "---|" * 6)
    for option, name, size, *_ in MODELS:
        compute = vars(known)[option.replace("-", "_")]
        for ranks in RANKS:
            for link in LINKS:
                gloo, alone = by_gloo(known, ranks, size, link, False), by_link(ranks, size, link)
                counts = [max(1, math.ceil(9 * t / compute)) for t in (gloo, alone, alone / 2)]
                print(f"| {name} | {ranks} | {link} | {' | '.join(map(str, counts))} |")


def published() -> None:
    """The same for Horovod's own figures, by the link alone: NCCL's ring goes through each host's link once."""
    print("\n| model | compute, ms | link only, ms | efficiency without overlap | published |")
    print("|---|---|---|---|---|")
    for name, (images, parameters, efficiency) in PUBLISHED.items():
        compute, moving = 1000 * 64 / images, by_link(128, 4 * parameters, 25)
        print(
            f"| {name} | {compute:.0f} | {moving:.0f} | {100 * compute / (compute + moving):.0f} % | {efficiency} % |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Steps on more ranks, by the model of docs/scaling.md.")
    for name, value, what in CONSTANTS:
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{what} (default {value:g})")
    for name, of, _, value, what in MODELS:
        parser.add_argument(
            f"--{name}", type=float, default=value, help=f"compute of {of}: {what} (default {value:.1f})"
        )
    given = parser.parse_args()
    steps(given)
    larger(given)
    published()
