"""Training from the driver: attempts, each from the last checkpoint, until one succeeds or no restart is left."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
from pyspark.sql import SparkSession

from spark_dl.data.readers import READERS
from spark_dl.data.shards import canonical_count
from spark_dl.errors import ClusterError, OptionError, RankError, SlotsError, explain
from spark_dl.fit.directory import FitDirectory
from spark_dl.fit.fingerprint import fingerprint, layout
from spark_dl.fit.progress import Progress
from spark_dl.fit.trained import Evaluation, Trained
from spark_dl.launch.launcher import run_ranks
from spark_dl.launch.pool import RankPool
from spark_dl.launch.settings import LaunchSettings, ProcessSettings
from spark_dl.launch.slots import cores_now
from spark_dl.options import EstimatorOptions
from spark_dl.redaction import warn
from spark_dl.score.assess import Assessment, assess
from spark_dl.track import Record
from spark_dl.train.checkpoint import Checkpoint, latest
from spark_dl.train.plan import TrainPlan, TrainResult
from spark_dl.train.reports import (
    TRAIN_REPORTS,
    EpochEnd,
    EpochReport,
    ResultReport,
    Speed,
    StepReport,
    Verdict,
    WarningReport,
)
from spark_dl.wire import decode, encode

if TYPE_CHECKING:
    from spark_dl.fit.spec import FitSpec

__all__ = ["ends_training", "train_on_ranks"]

# The modules that a rank runs: imported once for all ranks of an executor.
_MODULES = ("spark_dl.train.entry", "spark_dl.score.assess")


def train_on_ranks(
    spark: SparkSession,
    plan: TrainPlan,
    settings: LaunchSettings,
    spec: FitSpec,
    record: Record,
    evaluation: Evaluation,
    pool: RankPool | None = None,
) -> Trained:
    """Train a model on Horovod ranks; show and log the progress.

    Args:
        spark: The Spark session.
        plan: The training plan. Its checkpoint store is checkpointDir, or a temporary directory of this fit.
        settings: The launch settings of the ranks.
        spec: The checked fit.
        record: The tracking record of the fit; opened here unless it is open.
        evaluation: The evaluation of the fitted model.
        pool: The pool of the ranks; None for ranks that end with each attempt.

    Returns:
        The result of the attempt that succeeded.

    Raises:
        OptionError: numWorkers is too large for globalBatchSize and this number of rows.
        RankError: The code on a rank failed, or workers were lost more than maxRestarts times.
        ClusterError: The ranks did not find each other at the first attempt, or more than maxRestarts times.
        SlotsError: The cluster has too few slots: for numWorkers at the first attempt, for minWorkers later.
    """
    options = spec.options
    rows = plan.dataset.rows(validation=False)
    _check_shares(plan, options)
    with Progress(options.verbose, options.epochs, steps=0) as progress:
        progress.show(
            f"Training on {rows:,} rows ({plan.dataset.bytes / 1e6:,.1f} MB) with {options.num_workers} workers"
        )
        if options.checkpoint_dir:
            content, objects = plan.workspace.read(plan.initial_model), cloudpickle.loads(plan.custom_objects)
            kind = fingerprint(content, plan.dataset, options, objects, spec.model)
            directory = FitDirectory.find(plan.checkpoints, kind, progress.show, options.epochs, layout(plan.dataset))
        else:
            directory = FitDirectory.temporary(plan.checkpoints)
        plan = replace(plan, checkpoints=directory.store, dataset=plan.dataset.for_reading())
        try:
            directory.tracked_as(record.open(directory.tracked))
            training = _Training(spark, plan, directory, settings, options, record, progress, evaluation, pool)
            for note in record.tracker.notes:
                progress.show(note)
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
    """Check that all workers can share a global batch."""
    together = options.global_batch_size
    most = canonical_count(len(plan.dataset.part(validation=False)), together) if together else options.num_workers
    if options.num_workers > most:
        raise OptionError(
            explain(
                "globalBatchSize can't give so many workers the same batches as fewer workers.",
                expected=f"numWorkers <= {most} with globalBatchSize={together} and this number of rows",
                received=f"numWorkers={options.num_workers}",
                fix="Lower numWorkers, raise globalBatchSize, or set batchSize instead.",
            )
        )


def _warn_of_weights(variable: str, progress: Progress, record: Record) -> None:
    """Warn the user, and log to the run, that a variable of the fitted model has NaN or infinite values."""
    text = (
        f"The fitted model's weights aren't finite: {variable} has values that are NaN or infinite. Its predictions "
        "are of no use: lower the learning rate, clip the gradients, or scale the columns; restoreBestWeights=True "
        "returns the best epoch's finite weights."
    )
    progress.show(text, logging.WARNING)
    record.tracker.event(text)
    warn(text)


@dataclass
class _Training:
    """The training of one fit, with its restarts.

    Args:
        spark: The Spark session.
        plan: The training plan, without the checkpoint that an attempt starts from.
        directory: The checkpoint directory of the fit.
        settings: The launch settings of the ranks.
        options: The estimator's options.
        record: The tracking record of the fit.
        progress: The progress display.
        evaluation: The evaluation of the fitted model.
        pool: The pool of the ranks; None for ranks that end with each attempt.

    Attributes:
        epoch: The current epoch, from 0; None before the first step.
        epochs: The reports of the finished epochs.
        restarts: The number of restarts.
        trained: The training result, set when the last epoch is finished.
        own_error: The error that onEpoch raised.
    """

    spark: SparkSession
    plan: TrainPlan
    directory: FitDirectory
    settings: LaunchSettings
    options: EstimatorOptions
    record: Record
    progress: Progress
    evaluation: Evaluation
    pool: RankPool | None
    epoch: int | None = None
    epochs: list[EpochReport] = field(default_factory=list)
    restarts: int = 0
    trained: TrainResult | None = None
    own_error: Exception | None = None

    def run(self) -> Trained:
        """Train; restart from the last checkpoint after workers are lost."""
        workers, attempts = self.options.num_workers, self.options.max_restarts + 1
        attempt, begun = 1, False
        cause: Exception
        plan = self._from_checkpoint(attempt, workers)
        if plan.attempt > 1:
            self._event(f"Resuming from {_position(plan)}.")
        while True:
            try:
                return Trained(*self._attempt(plan, workers), self.epochs)
            except SlotsError as error:
                fewer = self._fewer(workers)
                if error is self.own_error or not begun or fewer is None:
                    raise
                workers = fewer
                if self.options.learning_rate_scaling != "none":
                    self._event(f"The learning rate stays scaled for {self.options.num_workers} workers.")
                cause, how = error, f"with {fewer} of {self.options.num_workers} workers"
            except (RankError, ClusterError) as error:
                if error is self.own_error:
                    raise
                if self.trained is not None:  # only the evaluation on the validation rows is lost
                    self._warning(f"Trained; then: {_first_line(error)}")
                    return Trained(self.trained, None, self.epochs)
                # If ranks can't connect, the set-up is wrong at the first attempt; later, the network or a host fails.
                apart = isinstance(error, ClusterError) or isinstance(error.__cause__, ClusterError)
                lost = begun if apart else isinstance(error, RankError) and error.lost
                if not lost or attempt >= attempts:
                    raise
                attempt, begun = attempt + 1, True
                cause, how = error, f"attempt {attempt} of {attempts}"
            self.restarts += 1
            plan = self._from_checkpoint(attempt, workers)
            when = f"In epoch {self.epoch + 1}: " if self.epoch is not None else ""
            self._warning(f"{when}{_first_line(cause)} Restarting from {_position(plan)}, {how}.")

    def _attempt(self, plan: TrainPlan, workers: int) -> tuple[TrainResult, Assessment | None]:
        from spark_dl.train.entry import run_rank  # late import: loads TensorFlow

        self.directory.starts(plan.attempt)
        rows = plan.dataset.rows(validation=False)
        together = self.options.global_batch_size or self.options.batch_size * workers
        if plan.federated:  # the reported steps are those of rank 0 on its silo
            rows, together = plan.dataset.of_silo(0).rows(validation=False), self.options.batch_size
        self.progress.steps = math.ceil(rows / together) * plan.passes
        head = self.evaluation.head
        look = functools.partial(assess, head) if head else None
        rank = functools.partial(run_rank, plan, look)
        processes = ProcessSettings((*_MODULES, READERS[plan.reader]), self.pool)
        results: list[tuple[TrainResult, Assessment | None]] = run_ranks(
            self.spark, rank, workers, self.settings, self._on_report, self._warning, processes
        )
        return results[0]

    def _from_checkpoint(self, attempt: int, workers: int) -> TrainPlan:
        """Return the plan that starts from the last usable checkpoint, copied to the workspace."""
        plan = replace(self.plan, attempt=self.directory.first_attempt + attempt - 1)
        found = latest(self.directory.store)
        each_has_own = plan.options.global_batch_size is None
        if found is not None and found[0].step and found[0].workers != workers and each_has_own:
            # The number of workers determines which rows of the epoch remain.
            reached = found[0].position
            self._event(f"{found[0].workers} workers reached {reached}: with {workers}, that epoch restarts.")
            found = latest(self.directory.store, whole_epochs=True)
        elif found is not None and found[0].step and self._in_other_order(found[0]):
            self._event(f"The rows come in another order than at {found[0].position}: that epoch restarts.")
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
        """Return whether a checkpoint comes from an earlier fit that had the rows in another order."""
        return not self.directory.same_order and start.attempt < self.directory.first_attempt

    def _fewer(self, workers: int) -> int | None:
        """Return the number of workers to retry with after a lack of slots; None if it is below minWorkers."""
        least = self.options.min_workers or self.options.num_workers
        fewer = workers - 1
        if cores := cores_now(self.spark):
            task_cpus = self.settings.cpus_per_worker or int(self.spark.conf.get("spark.task.cpus", "1") or 1)
            fewer = min(fewer, cores // task_cpus)
        return fewer if fewer >= least else None

    def _on_report(self, content: dict[str, Any]) -> dict[str, Any] | None:
        """Handle a report of rank 0; return the reply to all ranks, or None."""
        match decode(content, TRAIN_REPORTS):
            case EpochEnd(epoch, metrics):
                stop = self._ask(epoch, metrics)
                if stop:
                    self._event(f"onEpoch ended training after epoch {epoch + 1}.")
                return encode(Verdict(stop))
            case StepReport(epoch, step, loss):
                self.epoch = epoch
                self.progress.step(epoch, step, loss)
            case EpochReport() as report:
                self.epoch = min(report.epoch + 1, self.options.epochs - 1)
                self.progress.epoch(report.epoch, report.logs, report.speed)
                self.epochs.append(report)
                metrics = {**_speed_metrics(report.speed), "restarts": self.restarts, **_rank_metrics(report)}
                self.record.tracker.log_metrics(report.epoch, _merged(report.logs, metrics), time.time())
            case ResultReport(result):
                self.trained = result
                self.evaluation.on_begin(Trained(result, None, self.epochs))
            case WarningReport(text):
                self._warning(text)
        return None

    def _ask(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """Ask onEpoch whether training ends; remember its error, which is no fault of the cluster."""
        if self.options.on_epoch is None:
            return False
        try:
            return ends_training(self.options.on_epoch, epoch, metrics)
        except Exception as error:
            error.add_note(f"onEpoch failed after epoch {epoch + 1}.")
            self.own_error = error
            raise

    def _event(self, text: str, level: int = logging.INFO) -> None:
        """Show an event to the user and log it to the run."""
        self.progress.show(text, level)
        self.record.tracker.event(text)

    def _warning(self, text: str) -> None:
        self._event(text, logging.WARNING)


def ends_training(on_epoch: Callable[..., Any], epoch: int, metrics: dict[str, Any]) -> bool:
    """Ask onEpoch whether training ends with this epoch.

    Args:
        on_epoch: The value of the option.
        epoch: The epoch, from 0.
        metrics: The epoch's metrics.

    Raises:
        OptionError: The answer is neither a boolean nor None.
    """
    answer = on_epoch(epoch, metrics)
    if answer is None or isinstance(answer, (bool, np.bool_)):
        return bool(answer)
    raise OptionError(
        explain(
            f"onEpoch returned an invalid value after epoch {epoch + 1}.",
            expected="True to stop training; False or None to continue",
            received=f"{answer!r} ({type(answer).__name__})",
            fix="Return bool(...) of the condition on which training ends.",
        )
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(". ") + "."


def _position(plan: TrainPlan) -> str:
    return plan.start.position if plan.start else "the beginning"


def _merged(logs: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Merge an epoch's logs with this package's metrics; a name that is taken gets the prefix `spark_dl/`."""
    added = {f"spark_dl/{name}" if name in logs else name: value for name, value in metrics.items()}
    if logs.get("learning_rate") == metrics.get("learning_rate"):  # logged by a LearningRateScheduler
        added.pop("spark_dl/learning_rate", None)
    return {**logs, **added}


def _speed_metrics(speed: Speed) -> dict[str, float]:
    """Return the throughput of all ranks together, as metrics."""
    return {name: value for name, value in vars(speed).items() if name != "ranks"}


def _rank_metrics(report: EpochReport) -> dict[str, float]:
    """Return the metrics that only the run gets: the learning rate, and each rank's speed and resource use."""
    metrics = {} if report.learning_rate is None else {"learning_rate": report.learning_rate}
    for number, rank in enumerate(report.speed.ranks):
        prefix = f"system/rank_{number}"
        metrics[f"{prefix}/rows_per_second"] = rank.rows_per_second
        metrics[f"{prefix}/cpu_utilization_percentage"] = rank.cpu_percent
        metrics[f"{prefix}/memory_usage_megabytes"] = rank.memory_mb
        if rank.gpu_memory_mb:
            metrics[f"{prefix}/gpu_memory_usage_megabytes"] = rank.gpu_memory_mb
    return metrics
