"""Training as the driver sees it: attempts, each from the last checkpoint, until one ends or none may follow."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
from pyspark.sql import SparkSession

from spark_dl.data.shards import canonical_count
from spark_dl.errors import ClusterError, OptionError, RankError, SlotsError, explain
from spark_dl.fit.directory import FitDirectory
from spark_dl.fit.fingerprint import fingerprint, layout
from spark_dl.fit.progress import SPEEDS, Progress
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import cores_now
from spark_dl.options import EstimatorOptions
from spark_dl.redaction import warn
from spark_dl.score.assess import Assessment, assess
from spark_dl.score.heads import Head
from spark_dl.track import Record
from spark_dl.train.checkpoint import Checkpoint, latest
from spark_dl.train.plan import TrainPlan, TrainResult

if TYPE_CHECKING:
    from spark_dl.fit.spec import FitSpec

__all__ = ["Trained", "train_on_ranks"]

# What a rank needs: imported once for all ranks of an executor.
_MODULES = ("spark_dl.train.entry", "spark_dl.score.assess", "spark_dl.data.readers.petastorm")


@dataclass
class Trained:
    """What a training came to.

    Attributes:
        result: as the ranks tell it.
        assessment: what the fitted model gives for the validation rows; None where it wasn't asked for.
        epochs: what each epoch told beside its metrics, the ranks' speeds among it, as `train.progress` reports it.
    """

    result: TrainResult
    assessment: Assessment | None
    epochs: list[dict[str, Any]]


def train_on_ranks(
    spark: SparkSession,
    plan: TrainPlan,
    settings: LaunchSettings,
    spec: FitSpec,
    record: Record,
    assessed: Head | None,
) -> Trained:
    """Train, and show and log the progress.

    Args:
        spark: the session.
        plan: what the ranks are told; its checkpoints are the user's directory, or one that ends with the fit.
        settings: how the ranks are launched.
        spec: the checked fit.
        record: the fit's; it is opened here if it isn't yet.
        assessed: what the outputs mean, where the fitted model is to be looked at on the validation rows.

    Raises:
        OptionError: globalBatchSize is too small for so many workers.
        RankError: a rank's own code failed, or more were lost than maxRestarts.
        SlotsError: too few slots are left.
    """
    options = spec.options
    rows = plan.dataset.rows(validation=False)
    _check_shares(plan, options)
    with Progress(options.verbose, options.epochs, steps=0) as progress:
        progress.say(
            f"Training on {rows:,} rows ({plan.dataset.bytes / 1e6:,.1f} MB) with {options.num_workers} workers"
        )
        if options.checkpoint_dir:
            content, objects = plan.workspace.read(plan.initial_model), cloudpickle.loads(plan.custom_objects)
            kind = fingerprint(content, plan.dataset, options, objects, spec.model)
            directory = FitDirectory.find(plan.checkpoints, kind, progress.say, options.epochs, layout(plan.dataset))
        else:
            directory = FitDirectory.temporary(plan.checkpoints)
        plan = replace(plan, checkpoints=directory.store, dataset=plan.dataset.for_reading())
        try:
            directory.tracked_as(record.open(directory.tracked))
            training = _Training(spark, plan, directory, settings, options, record, progress, assessed)
            for note in record.tracker.notes:
                progress.say(note)
            for note in spec.notes:
                training._event(note)
            trained = training.run()
        except BaseException:
            directory.leave()
            raise
        directory.finish()
        if trained.result.non_finite:
            _warn_of_weights(trained.result.non_finite, progress, record)
    if directory.tracked:
        record.tracker.history(trained.result.history, options.initial_epoch)
    return trained


def _check_shares(plan: TrainPlan, options: EstimatorOptions) -> None:
    """Refuse more workers than can share a global batch."""
    together = options.global_batch_size
    most = canonical_count(len(plan.dataset.part(validation=False)), together) if together else options.num_workers
    if options.num_workers > most:
        raise OptionError(
            explain(
                "So many workers can't share the rows of a batch in the same way as fewer would.",
                expected=f"numWorkers <= {most} with globalBatchSize={together} and this number of rows",
                received=f"numWorkers={options.num_workers}",
                fix="Lower numWorkers, raise globalBatchSize, or set batchSize instead.",
            )
        )


def _warn_of_weights(variable: str, progress: Progress, record: Record) -> None:
    """Say to the user and the run that the fitted model has a variable that isn't finite."""
    text = (
        f"The fitted model's weights aren't finite: {variable} has values that are NaN or infinite. Its predictions "
        "are of no use: lower the learning rate, clip the gradients, or scale the columns; restoreBestWeights=True "
        "returns the best epoch's finite weights."
    )
    progress.say(text)
    record.tracker.event(text)
    warn(text, 2)


@dataclass
class _Training:
    """One fit's training.

    Args:
        spark: the session.
        plan: what the ranks are told, but for where an attempt starts.
        directory: the fit's checkpoints.
        settings: how the ranks are launched.
        options: the estimator's.
        record: the fit's.
        progress: what the user sees.
        assessed: what the outputs mean, where the fitted model is to be looked at on the validation rows.

    Attributes:
        epoch: the epoch under way, from 0; None before the first step.
        epochs: what each that has ended told beside its metrics.
        restarts: how often workers were lost and it went on.
        trained: what the training came to, once it has ended.
    """

    spark: SparkSession
    plan: TrainPlan
    directory: FitDirectory
    settings: LaunchSettings
    options: EstimatorOptions
    record: Record
    progress: Progress
    assessed: Head | None
    epoch: int | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    restarts: int = 0
    trained: TrainResult | None = None

    def run(self) -> Trained:
        """Train; start again after workers were lost."""
        workers, attempts = self.options.num_workers, self.options.max_restarts + 1
        attempt, begun = 1, False
        cause: Exception
        plan = self._from_checkpoint(attempt, workers)
        if plan.attempt > 1:
            self._event(f"Going on from {_place(plan)}.")
        while True:
            try:
                return Trained(*self._attempt(plan, workers), self.epochs)
            except SlotsError as error:
                fewer = self._fewer(workers)
                if not begun or fewer is None:
                    raise
                workers = fewer
                if self.options.learning_rate_scaling != "none":
                    self._event(f"The learning rate stays scaled for {self.options.num_workers} workers.")
                cause, how = error, f"with {fewer} of {self.options.num_workers} workers"
            except (RankError, ClusterError) as error:
                if self.trained is not None:  # only the look at the validation rows is lost
                    self._event(f"Trained; then: {_first_line(error)}")
                    return Trained(self.trained, None, self.epochs)
                # Ranks that don't meet: at first the set-up is wrong, later the network, or a host that is about to go.
                apart = isinstance(error, ClusterError) or isinstance(error.__cause__, ClusterError)
                lost = begun if apart else isinstance(error, RankError) and error.lost
                if not lost or attempt >= attempts:
                    raise
                attempt, begun = attempt + 1, True
                cause, how = error, f"attempt {attempt} of {attempts}"
            self.restarts += 1
            plan = self._from_checkpoint(attempt, workers)
            when = f"In epoch {self.epoch + 1}: " if self.epoch is not None else ""
            self._event(f"{when}{_first_line(cause)} Restarting from {_place(plan)}, {how}.")

    def _attempt(self, plan: TrainPlan, workers: int) -> tuple[TrainResult, Assessment | None]:
        from spark_dl.train.entry import run_rank  # with it comes TensorFlow

        self.directory.starts(plan.attempt)
        rows = plan.dataset.rows(validation=False)
        together = self.options.global_batch_size or self.options.batch_size * workers
        self.progress.steps = math.ceil(rows / together)
        look = functools.partial(assess, self.assessed) if self.assessed else None
        rank = functools.partial(run_rank, plan, look)
        results: list[tuple[TrainResult, Assessment | None]] = run_ranks(
            self.spark, rank, workers, self.settings, self._on_report, _MODULES
        )
        return results[0]

    def _from_checkpoint(self, attempt: int, workers: int) -> TrainPlan:
        """The plan from the last checkpoint that can be used, which the workspace gets a copy of."""
        plan = replace(self.plan, attempt=self.directory.first_attempt + attempt - 1)
        found = latest(self.directory.store)
        each_has_own = plan.options.global_batch_size is None
        if found is not None and found[0].step and found[0].workers != workers and each_has_own:
            # Which rows are left of the epoch follows from the number of workers.
            self._event(f"{found[0].workers} workers stood at {found[0].place}: {workers} begin that epoch anew.")
            found = latest(self.directory.store, whole_epochs=True)
        elif found is not None and found[0].step and self._in_other_order(found[0]):
            self._event(f"The rows come in another order than at {found[0].place}: that epoch begins anew.")
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

    def _in_other_order(self, start: Checkpoint) -> bool:
        """Whether a checkpoint within an epoch is of another fit, which had the rows in another order."""
        return not self.directory.same_order and start.attempt < self.directory.first_attempt

    def _fewer(self, workers: int) -> int | None:
        """With how many workers to go on when there were no slots for so many; None where that are too few."""
        least = self.options.min_workers or self.options.num_workers
        fewer = workers - 1
        if cores := cores_now(self.spark):
            task_cpus = self.settings.cpus_per_worker or int(self.spark.conf.get("spark.task.cpus", "1") or 1)
            fewer = min(fewer, cores // task_cpus)
        return fewer if fewer >= least else None

    def _on_report(self, content: dict[str, Any]) -> None:
        if content["kind"] == "step":
            self.epoch = content["epoch"]
            self.progress.step(content["epoch"], content["step"], content["loss"])
        elif content["kind"] == "epoch":
            self.epoch = min(content["epoch"] + 1, self.options.epochs - 1)
            speed = {name: content[name] for name in SPEEDS}
            self.progress.epoch(content["epoch"], content["logs"], speed)
            self.epochs.append(content)
            ours = {**speed, "restarts": self.restarts, **_more(content)}
            self.record.tracker.log_metrics(content["epoch"], _merged(content["logs"], ours), time.time())
        elif content["kind"] == "trained":
            self.trained = TrainResult(**content["result"])
        elif content["kind"] == "warning":
            self._event(content["text"])

    def _event(self, text: str) -> None:
        """What happened, for the user and for the run."""
        self.progress.say(text)
        self.record.tracker.event(text)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(". ") + "."


def _place(plan: TrainPlan) -> str:
    return plan.start.place if plan.start else "the beginning"


def _merged(logs: Mapping[str, Any], ours: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of an epoch and ours, under another name where a metric is called so."""
    told = {f"spark_dl/{name}" if name in logs else name: value for name, value in ours.items()}
    if logs.get("learning_rate") == ours.get("learning_rate"):  # as a LearningRateScheduler tells it
        told.pop("spark_dl/learning_rate", None)
    return {**logs, **told}


def _more(content: Mapping[str, Any]) -> dict[str, float]:
    """What an epoch tells for the run alone: the learning rate, and what each rank took of its host."""
    told = {} if content["learning_rate"] is None else {"learning_rate": content["learning_rate"]}
    for rank, one in enumerate(content["ranks"]):
        told[f"system/rank_{rank}/rows_per_second"] = one["rows_per_second"]
        told[f"system/rank_{rank}/cpu_utilization_percentage"] = one["cpu_percent"]
        told[f"system/rank_{rank}/memory_usage_megabytes"] = one["memory_mb"]
        if one["gpu_memory_mb"]:
            told[f"system/rank_{rank}/gpu_memory_usage_megabytes"] = one["gpu_memory_mb"]
    return told
