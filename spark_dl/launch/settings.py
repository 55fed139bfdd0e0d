"""How ranks are launched, as one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LaunchSettings"]


@dataclass(frozen=True)
class LaunchSettings:
    """How ranks are launched.

    Attributes:
        cpus: cores of a rank's task; None for spark.task.cpus.
        gpus: GPUs of a rank's task; None for spark.task.resource.gpu.amount.
        threads: computing threads of a rank; 0 for as many as its task has cores.
        interface: name or CIDR of the network between the ranks; None for the one that leads to rank 0.
        allow_plaintext: whether ranks may speak plain TCP where Spark is told to encrypt.
        slot_timeout: seconds to wait for all slots at once.
        start_timeout: seconds from the slots to the first collective.
        collective_timeout: seconds after which a silent peer counts as lost.
        stall_timeout: seconds without a mark of any rank, after the first, until the ranks are given up.
    """

    cpus: int | None = None
    gpus: int | None = None
    threads: int = 0
    interface: str | None = None
    allow_plaintext: bool = False
    slot_timeout: float = 60.0
    start_timeout: float = 180.0
    collective_timeout: int = 30
    stall_timeout: float = 600.0

    @staticmethod
    def of_options(values: Mapping[str, Any]) -> LaunchSettings:
        """The record from options in camelCase."""
        return LaunchSettings(
            cpus=values["cpusPerWorker"],
            gpus=values["gpusPerWorker"],
            threads=values["threadsPerWorker"],
            interface=values["networkInterface"],
            allow_plaintext=values["allowPlaintext"],
            slot_timeout=values["slotTimeout"],
            collective_timeout=values["collectiveTimeout"],
            stall_timeout=values["stallTimeout"],
        )
