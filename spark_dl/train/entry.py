"""Entry point of a rank's process in a fit; it imports neither Spark nor driver code, so that ranks start fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from spark_dl.collectives import Collectives, make_collectives
from spark_dl.train.loop import train
from spark_dl.train.plan import RankTraining, TrainPlan, TrainResult
from spark_dl.train.reports import ResultReport, TrainReport, TrainReporter
from spark_dl.wire import encode
from spark_dl.world import Rank

__all__ = ["run_rank"]

T = TypeVar("T")
Heartbeat = Callable[[str], None]
# Evaluates the trained model: called on every rank with the plan and the training that has ended.
Look = Callable[[TrainPlan, RankTraining, Collectives, TrainReporter, Heartbeat], T]


def run_rank(plan: TrainPlan, look: Look[T] | None, rank: Rank) -> tuple[TrainResult, T | None]:
    """Train on this rank's shard, then evaluate the trained model.

    Args:
        plan: The training plan, the same on every rank.
        look: The function to call after training, or None. Rank 0 has then written the model and reported the result to
            the driver.
        rank: This rank.

    Returns:
        The training result and the return value of `look` (None without `look`).
    """

    def report(content: TrainReport) -> None:
        if rank.world.is_leader:
            rank.report(encode(content))

    collectives = make_collectives(rank.world)
    training = train(plan, collectives, report, rank.heartbeat, rank.reply if plan.asks_driver else None, rank.kept)
    if look is None:
        return training.result, None
    report(ResultReport(training.result))
    return training.result, look(plan, training, collectives, report, rank.heartbeat)
