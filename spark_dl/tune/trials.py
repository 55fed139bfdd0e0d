"""The trials of a search, in threads of the driver: each takes its values, trains, and reports to the study."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pyspark import inheritable_thread_target
from pyspark.sql import DataFrame

from spark_dl.fit.progress import Progress
from spark_dl.ml.model import KerasModel
from spark_dl.ml.shared_rows import SharedRows
from spark_dl.spark.session import cancel, tag_jobs
from spark_dl.track import Record
from spark_dl.tune.objective import Objective
from spark_dl.tune.space import Space
from spark_dl.tune.study import finished

__all__ = ["Trials"]


@dataclass
class Trials:
    """The trials of one search.

    Args:
        space: The space.
        objective: What is optimized.
        dataset: The rows of all trials.
        study: The study.
        shared: The converted rows.
        record: The search's record at the tracker, which is open.
        progress: The display.
    """

    space: Space
    objective: Objective
    dataset: DataFrame
    study: optuna.Study
    shared: SharedRows
    record: Record
    progress: Progress
    left: int = 0
    until: float = math.inf
    failed: BaseException | None = None
    best: tuple[int, KerasModel] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, trials: int, timeout: float | None, at_once: int) -> None:
        """Run trials in threads until there are enough, or time is over.

        Args:
            trials: The number of trials of the study.
            timeout: The seconds after which no further trial starts; None for no limit.
            at_once: The number of trials at once.
        """
        self.left = trials - finished(self.study)
        self.until = time.monotonic() + timeout if timeout is not None else math.inf
        count = max(0, min(at_once, self.left))
        spark, tag = self.dataset.sparkSession, f"spark-dl-search-{uuid.uuid4().hex}"

        @inheritable_thread_target(spark)
        def work() -> None:
            tag_jobs(spark, tag)
            self._work()

        with ThreadPoolExecutor(max(1, count), thread_name_prefix="spark-dl-trial") as pool:
            try:
                wait([pool.submit(work) for _ in range(count)], return_when=FIRST_EXCEPTION)
            except BaseException as error:  # Ctrl-C
                self.failed = error
            if self.failed is not None:
                cancel(spark, tag)
        if self.failed is not None:
            raise self.failed

    def model_of(self, trial: FrozenTrial, values: dict[str, Any]) -> KerasModel:
        """Return the model of the best trial; train it again if an earlier driver had it.

        Args:
            trial: The best trial.
            values: Its values, by option.
        """
        if self.best is None or self.best[0] != trial.number:
            self.progress.show(f"Training trial {trial.number} once more, whose model an earlier driver had.")
            self.best = trial.number, self._fitted(values, trial.number, lambda epoch, metrics: False)
        return self.best[1]

    def _work(self) -> None:
        while self.failed is None:
            with self.lock:
                if self.left <= 0 or time.monotonic() >= self.until:
                    return
                self.left -= 1
                trial = self.study.ask()
            try:
                self._try(trial)
            except BaseException as error:
                self.failed = self.failed or error  # the others are cancelled
                self.study.tell(trial, state=TrialState.FAIL)
                raise

    def _try(self, trial: optuna.Trial) -> None:
        values = self.space.suggest(trial)
        pruned = threading.Event()

        def on_epoch(epoch: int, metrics: dict[str, Any]) -> bool:
            if self.failed is not None:
                return True
            if self.objective.evaluator is None:
                trial.report(self.objective.of_epoch(metrics), epoch)
                if trial.should_prune():
                    pruned.set()
            return pruned.is_set()

        model = self._fitted(values, trial.number, on_epoch)
        if self.failed is not None:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        value = (
            math.nan
            if pruned.is_set()
            else self.objective.value(model, self.space.estimator(values).getOrDefault("restoreBestWeights"))
        )
        with self.lock:
            self._tell(trial, model, value, pruned.is_set())

    def _tell(self, trial: optuna.Trial, model: KerasModel, value: float, pruned: bool) -> None:
        if pruned:
            ended: FrozenTrial = self.study.tell(trial, state=TrialState.PRUNED)
            text = f"pruned after {len(ended.intermediate_values)} epochs"
        elif not math.isfinite(value):
            self.study.tell(trial, state=TrialState.FAIL)
            text = f"failed: {self.objective.name} is {value}"
        else:
            self.study.tell(trial, value)
            self.record.tracker.log_metrics(trial.number, {self.objective.name: value}, time.time())
            if self.study.best_trial.number == trial.number:
                self.best = trial.number, model
            text = f"{self.objective.name}={value:.6g}"
        self.progress.show(f"Trial {trial.number}: {text}  {trial.params}")

    def _fitted(
        self, values: dict[str, Any], number: int, on_epoch: Callable[[int, dict[str, Any]], bool]
    ) -> KerasModel:
        estimator = self.space.estimator(values)
        own = estimator.getOrDefault("onEpoch")

        def both(epoch: int, metrics: dict[str, Any]) -> bool:
            asked = own(epoch, metrics) if own is not None else None
            return on_epoch(epoch, metrics) or bool(asked)

        settings = {"onEpoch": both, "verbose": 0, "runName": f"trial {number}"}
        estimator = estimator.copy({estimator.getParam(name): value for name, value in settings.items()})
        spec, rows = estimator._checked(self.dataset)
        return estimator._fit_converted(spec, self.shared.of(estimator, spec, rows), self.record.open())
