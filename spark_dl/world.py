"""Who a rank is: a value that is passed in, never looked up. A World of one is real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Rank", "World", "solo", "worlds"]


@dataclass(frozen=True)
class World:
    """The place of one rank among all.

    Attributes:
        rank: 0 .. size - 1.
        size: number of ranks.
        local_rank: 0 .. local_size - 1 among the ranks of the same host.
        local_size: number of ranks on this host.
        cross_rank: index of this host among the hosts that have a rank with this local_rank.
        cross_size: number of such hosts.
        host: name or address of the host, the same text for all its ranks.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    host: str

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, the one that writes files."""
        return self.rank == 0


@dataclass(frozen=True)
class Rank:
    """What a rank's function is given.

    Attributes:
        world: the rank's place.
        report: sends a small dict, fit for JSON, to the driver at once.
        heartbeat: notes where the function stands, in a few words; a function that has marked once and then marks
            nothing for long is taken to be stuck.
    """

    world: World
    report: Callable[[dict[str, Any]], None]
    heartbeat: Callable[[str], None]


def solo(host: str = "localhost") -> World:
    """The World of one process that trains alone."""
    return World(0, 1, 0, 1, 0, 1, host)


def worlds(hosts: Sequence[str]) -> list[World]:
    """One World for each rank, from the host of each rank in rank order.

    Placement need not be contiguous: ranks 0 and 2 may share a host.

    >>> [(w.local_rank, w.local_size, w.cross_rank) for w in worlds(["a", "b", "a"])]
    [(0, 2, 0), (0, 1, 1), (1, 2, 0)]
    """
    sizes = Counter(hosts)
    # For each local rank the hosts that have it, in the order in which hosts come.
    across: list[dict[str, int]] = []
    peers = list(sizes)
    for local_rank in range(max(sizes.values(), default=0)):
        peers = [host for host in peers if sizes[host] > local_rank]
        across.append({host: index for index, host in enumerate(peers)})
    seen: Counter[str] = Counter()
    result = []
    for rank, host in enumerate(hosts):
        local_rank = seen[host]
        seen[host] += 1
        result.append(
            World(
                rank=rank,
                size=len(hosts),
                local_rank=local_rank,
                local_size=sizes[host],
                cross_rank=across[local_rank][host],
                cross_size=len(across[local_rank]),
                host=host,
            )
        )
    return result
