"""What each rank of a fit runs. It imports no Spark and nothing of the driver's: a rank's start is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from spark_dl.collectives import Collectives, make_collectives
from spark_dl.train.loop import train
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.world import Rank

__all__ = ["run_rank"]

T = TypeVar("T")
Report = Callable[[dict[str, Any]], None]
Heartbeat = Callable[[str], None]
# What looks at a trained model: on every rank, with what the training came to.
Look = Callable[[TrainPlan, TrainResult, Collectives, Report, Heartbeat], T]


def run_rank(plan: TrainPlan, look: Look[T] | None, rank: Rank) -> tuple[TrainResult, T | None]:
    """Train on this rank's shard, then look at the model.

    Args:
        plan: the same on every rank.
        look: what is called afterwards, if anything; rank 0 has written the model and told the driver so.
        rank: this one.

    Returns:
        what the training came to and what was seen, the same on every rank.
    """
    collectives = make_collectives(rank.world)
    result = train(plan, collectives, rank.report, rank.heartbeat)
    if look is None:
        return result, None
    if rank.world.is_leader:
        rank.report({"kind": "trained", "result": asdict(result)})
    report = rank.report if rank.world.is_leader else lambda told: None
    return result, look(plan, result, collectives, report, rank.heartbeat)
