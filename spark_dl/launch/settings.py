"""How ranks are launched, as one record."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LaunchSettings"]


@dataclass(frozen=True)
class LaunchSettings:
    """How ranks are launched.

    Attributes:
        threads: computing threads of a rank; 0 for as many as its task has cores.
        slot_timeout: seconds to wait for all slots at once.
        start_timeout: seconds from the slots to the first collective.
        collective_timeout: seconds after which a silent peer counts as lost.
        stall_timeout: seconds without a mark of any rank, after the first, until the ranks are given up.
    """

    threads: int = 0
    slot_timeout: float = 60.0
    start_timeout: float = 180.0
    collective_timeout: int = 30
    stall_timeout: float = 600.0
