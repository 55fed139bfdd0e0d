"""A rank's position among all ranks, as a value that callers pass in. A World of size 1 is a regular case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Rank", "World", "solo", "worlds"]


@dataclass(frozen=True)
class World:
    """Position of one rank among all ranks, in Horovod's terms.

    Attributes:
        rank: The rank, 0 to size - 1.
        size: The number of ranks.
        local_rank: The rank among the ranks of the same host, 0 to local_size - 1.
        local_size: The number of ranks on this host.
        cross_rank: The index of this host among the hosts that have a rank with this local_rank.
        cross_size: The number of hosts that have a rank with this local_rank.
        host: The name or address of the host, identical for all ranks on it.
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
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0


@dataclass(frozen=True)
class Rank:
    """Argument of the function that runs on a rank: its World and its channels to the driver.

    Attributes:
        world: The rank's World.
        report: Sends a small JSON-serialisable dict to the driver at once.
        heartbeat: Records progress, as a short description of the current step. A function that sent a heartbeat once
            and then sends none for long counts as stuck.
        reply: Waits for the driver's next reply to a report, which all ranks get.
        kept: What functions keep in the rank's process for the next launch of its pool, empty at first; None in a
            process without a pool, which ends with the launch.
    """

    world: World
    report: Callable[[dict[str, Any]], None]
    heartbeat: Callable[[str], None]
    reply: Callable[[], dict[str, Any]]
    kept: dict[str, Any] | None = None


def solo(host: str = "localhost") -> World:
    """Create the World of a single process."""
    return World(0, 1, 0, 1, 0, 1, host)


def worlds(hosts: Sequence[str]) -> list[World]:
    """Create one World for each rank from the ranks' hosts, in rank order.

    A host's ranks needn't be contiguous: ranks 0 and 2 may share a host.

    >>> [(w.local_rank, w.local_size, w.cross_rank) for w in worlds(["a", "b", "a"])]
    [(0, 2, 0), (0, 1, 1), (1, 2, 0)]
    """
    sizes = Counter(hosts)
    # For each local rank, the index of each host that has it, in the order of the hosts' first ranks.
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
