"""Who a rank is: a value that is passed in, never looked up. A World of one is real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["World", "solo", "worlds"]


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
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that writes files."""
        return self.rank == 0


def solo(host: str = "localhost") -> World:
    """The World of one process that trains alone."""
    return World(0, 1, 0, 1, 0, 1, host)


def worlds(hosts: Sequence[str]) -> list[World]:
    """One World for each rank, from the host of each rank in rank order.

    Placement need not be contiguous: ranks 0 and 2 may share a host.

    >>> [(w.local_rank, w.local_size, w.cross_rank) for w in worlds(["a", "b", "a"])]
    [(0, 2, 0), (0, 1, 1), (1, 2, 0)]
    """
    local_rank = [list(hosts[:rank]).count(host) for rank, host in enumerate(hosts)]
    in_order = list(dict.fromkeys(hosts))
    result = []
    for rank, host in enumerate(hosts):
        peers = [h for h in in_order if list(hosts).count(h) > local_rank[rank]]
        result.append(
            World(
                rank=rank,
                size=len(hosts),
                local_rank=local_rank[rank],
                local_size=list(hosts).count(host),
                cross_rank=peers.index(host),
                cross_size=len(peers),
                host=host,
            )
        )
    return result
