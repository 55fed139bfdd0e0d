"""Comparison of two ways in alternating runs: medians and their ratio, as a row of a table."""

import statistics
from collections.abc import Callable, Mapping

__all__ = ["HEAD", "compare"]

HEAD = "| what | rows/s | baseline | rows/s | ratio |\n|---|---|---|---|---|"


def compare(what: str, ways: Mapping[str, Callable[[], float]], turns: int = 5, warm: bool = True) -> None:
    """Print the median speed of each way, ours first, and how many times as fast ours is as each other.

    Args:
        what: is done.
        ways: a name, and a call that does it once and gives rows a second.
        turns: how often each is called.
        warm: whether each is called once before, which doesn't count.
    """
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + warm):
        for name, way in ways.items():
            speed = way()
            if turn or not warm:
                speeds[name].append(speed)
    ours, *others = speeds
    own = statistics.median(speeds[ours])
    for name in others:
        peer = statistics.median(speeds[name])
        print(f"| {what} | {own:,.0f} | {name} | {peer:,.0f} | {own / peer:.2f} |", flush=True)
