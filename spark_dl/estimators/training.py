"""Training as the driver sees it: attempts, each from the last checkpoint, until one ends or none may follow."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from spark_dl.data.shards import canonical_count
from spark_dl.errors import ClusterError, OptionError, RankError, SlotsError, explain
from spark_dl.estimators.fit_directory import FitDirectory, fingerprint
from spark_dl.estimators.progress import SPEEDS, Progress
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import cores_now
from spark_dl.track import Tracker
from spark_dl.train.checkpoint import latest
from spark_dl.train.plan import TrainPlan, TrainResult

if TYPE_CHECKING:
    from spark_dl.launch.rank_main import Rank

__all__ = ["train_on_ranks"]

# What `_rank` imports.
_MODULES = ("spark_dl.train.loop", "spark_dl.data.readers.petastorm")


def train_on_ranks(
    spark: SparkSession, plan: TrainPlan, settings: LaunchSettings, values: Mapping[str, Any], record: Tracker
) -> TrainResult:
    """Train, and show and log the progress.

    Args:
        spark: the session.
        plan: what the ranks are told; its checkpoints are the user's directory, or one that ends with the fit.
        settings: how the ranks are launched.
        values: the estimator's options.
        record: the tracker.

    Raises:
        OptionError: globalBatchSize is too small for so many workers.
        RankError: a rank's own code failed, or more were lost than maxRestarts.
        SlotsError: too few slots are left.
    """
    rows = plan.dataset.rows(validation=False)
    together = values["globalBatchSize"]
    most = canonical_count(len(plan.dataset.part(validation=False)), together) if together else values["numWorkers"]
    if values["numWorkers"] > most:
        raise OptionError(
            explain(
                "So many workers can't share the rows of a batch in the same way as fewer would.",
                expected=f"numWorkers <= {most} with globalBatchSize={together} and this number of rows",
                received=f"numWorkers={values['numWorkers']}",
                fix="Lower numWorkers, raise globalBatchSize, or set batchSize instead.",
            )
        )
    with Progress(values["verbose"], values["epochs"], steps=0) as progress:
        progress.say(
            f"Training on {rows:,} rows ({plan.dataset.bytes / 1e6:,.1f} MB) with {values['numWorkers']} workers"
        )
        if values["checkpointDir"]:
            kind = fingerprint(plan.workspace.read(plan.initial_model), plan.dataset, values)
            directory = FitDirectory.find(plan.checkpoints, kind, progress.say)
        else:
            directory = FitDirectory.temporary(plan.checkpoints)
        plan = replace(plan, checkpoints=directory.store, dataset=plan.dataset.for_reading())
        try:
            result = _Training(spark, plan, directory, settings, values, record, progress).run()
        except BaseException:
            directory.leave()
            raise
        directory.finish()
    return result


@dataclass
class _Training:
    """One fit's training.

    Args:
        spark: the session.
        plan: what the ranks are told, but for where an attempt starts.
        directory: the fit's checkpoints.
        settings: how the ranks are launched.
        values: the estimator's options.
        record: the tracker.
        progress: what the user sees.

    Attributes:
        epoch: the epoch under way, from 0; None before the first step.
    """

    spark: SparkSession
    plan: TrainPlan
    directory: FitDirectory
    settings: LaunchSettings
    values: Mapping[str, Any]
    record: Tracker
    progress: Progress
    epoch: int | None = None

    def run(self) -> TrainResult:
        """Train; start again after workers were lost."""
        workers, attempts = self.values["numWorkers"], self.values["maxRestarts"] + 1
        attempt, begun = 1, False
        cause: Exception
        plan = self._from_checkpoint(attempt, workers)
        if plan.attempt > 1:
            self._event(f"Going on from {_place(plan)}.")
        while True:
            try:
                return self._attempt(plan, workers)
            except SlotsError as error:
                fewer = self._fewer(workers)
                if not begun or fewer is None:
                    raise
                workers = fewer
                if self.values["learningRateScaling"] != "none":
                    self._event(f"The learning rate stays scaled for {self.values['numWorkers']} workers.")
                cause, how = error, f"with {fewer} of {self.values['numWorkers']} workers"
            except (RankError, ClusterError) as error:
                # Ranks that don't meet: at first the set-up is wrong, later the network, or a host that is about to go.
                apart = isinstance(error, ClusterError) or isinstance(error.__cause__, ClusterError)
                lost = begun if apart else isinstance(error, RankError) and error.lost
                if not lost or attempt >= attempts:
                    raise
                attempt, begun = attempt + 1, True
                cause, how = error, f"attempt {attempt} of {attempts}"
            plan = self._from_checkpoint(attempt, workers)
            when = f"In epoch {self.epoch + 1}: " if self.epoch is not None else ""
            self._event(f"{when}{_first_line(cause)} Restarting from {_place(plan)}, {how}.")

    def _attempt(self, plan: TrainPlan, workers: int) -> TrainResult:
        self.directory.starts(plan.attempt)
        rows = plan.dataset.rows(validation=False)
        together = self.values["globalBatchSize"] or self.values["batchSize"] * workers
        self.progress.steps = math.ceil(rows / together)
        results: list[TrainResult] = run_ranks(
            self.spark, functools.partial(_rank, plan), workers, self.settings, self._on_report, _MODULES
        )
        return results[0]

    def _from_checkpoint(self, attempt: int, workers: int) -> TrainPlan:
        """The plan from the last checkpoint that can be used, which the workspace gets a copy of."""
        plan = replace(self.plan, attempt=self.directory.first_attempt + attempt - 1)
        found = latest(self.directory.store)
        if found is not None and found[0].step and found[0].workers != workers and plan.global_batch_size is None:
            # Which rows are left of the epoch follows from the number of workers.
            self._event(f"{found[0].workers} workers stood at {found[0].place}: {workers} begin that epoch anew.")
            found = latest(self.directory.store, whole_epochs=True)
        if found is None:
            return plan
        start, model = found
        name = f"start-{attempt}.keras"
        plan.workspace.write(name, model)
        state = f"start-{attempt}.callbacks" if start.callbacks_file else ""
        if state:
            plan.workspace.write(state, self.directory.store.read(start.callbacks_file))
        return replace(plan, initial_model=name, start=start, callback_state=state)

    def _fewer(self, workers: int) -> int | None:
        """With how many workers to go on when there were no slots for so many; None where that are too few."""
        least = self.values["minWorkers"] or self.values["numWorkers"]
        fewer = workers - 1
        if cores := cores_now(self.spark):
            fewer = min(fewer, cores // (self.settings.cpus or int(self.spark.conf.get("spark.task.cpus", "1") or 1)))
        return fewer if fewer >= least else None

    def _on_report(self, content: dict[str, Any]) -> None:
        if content["kind"] == "step":
            self.epoch = content["epoch"]
            self.progress.step(content["epoch"], content["step"], content["loss"])
        elif content["kind"] == "epoch":
            self.epoch = min(content["epoch"] + 1, self.values["epochs"] - 1)
            speed = {name: content[name] for name in SPEEDS}
            self.progress.epoch(content["epoch"], content["logs"], speed)
            self.record.epoch(content["epoch"], {**content["logs"], **speed}, time.time())
        elif content["kind"] == "warning":
            self._event(content["text"])

    def _event(self, text: str) -> None:
        """What happened, for the user and for the run."""
        self.progress.say(text)
        self.record.event(text)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(". ") + "."


def _place(plan: TrainPlan) -> str:
    return plan.start.place if plan.start else "the beginning"


def _rank(plan: TrainPlan, rank: Rank) -> TrainResult:
    """What each rank runs."""
    from spark_dl.collectives import join
    from spark_dl.train.loop import train

    return train(plan, join(rank.world), rank.report, rank.mark)
