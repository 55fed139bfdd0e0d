"""The trials of a search, in threads of the driver: each takes its values, trains, and reports to the study."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pyspark import InheritableThread
from pyspark.sql import DataFrame

from spark_dl.fit.attempts import ends_training
from spark_dl.fit.code_digest import digest_of_text
from spark_dl.fit.converted import comparable
from spark_dl.fit.fingerprint import rows_digest
from spark_dl.fit.progress import Progress
from spark_dl.ml.model import KerasModel
from spark_dl.ml.shared_rows import SharedRows
from spark_dl.spark.session import cancel, tag_jobs
from spark_dl.track import Record
from spark_dl.tune.objective import Objective
from spark_dl.tune.space import Space
from spark_dl.tune.study import check_rows, finished, tell

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
        spark, tag = self.dataset.sparkSession, f"spark-dl-search-{uuid.uuid4().hex}"
        threads = [
            InheritableThread(target=self._work, args=(tag,), session=spark, name=f"spark-dl-trial-{number}")
            for number in range(min(at_once, self.left))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C
            self._fail(error, tag)
            for thread in threads:
                thread.join()
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

    def _fail(self, error: BaseException, tag: str) -> None:
        """End the search with an error: cancel the jobs of all trials."""
        self.failed = self.failed or error
        cancel(self.dataset.sparkSession, tag)

    def _work(self, tag: str) -> None:
        trial = None
        try:
            tag_jobs(self.dataset.sparkSession, tag)
            while (trial := self._next()) is not None:
                self._try(trial)
        except BaseException as error:
            self._fail(error, tag)
            if trial is not None:
                tell(self.study, trial, None, TrialState.FAIL)

    def _next(self) -> optuna.Trial | None:
        with self.lock:
            if self.failed is not None or self.left <= 0 or time.monotonic() >= self.until:
                return None
            self.left -= 1
            return self.study.ask()

    def _try(self, trial: optuna.Trial) -> None:
        values = self.space.suggest(trial)
        pruned = threading.Event()

        def on_epoch(epoch: int, metrics: dict[str, Any]) -> bool:
            if self.objective.evaluator is None:
                trial.report(self.objective.of_epoch(metrics), epoch)
                if trial.should_prune():
                    pruned.set()
            return pruned.is_set()

        model = self._fitted(values, trial.number, on_epoch)
        best_epoch = self.space.estimator(values).getOrDefault("restoreBestWeights")
        value = None if pruned.is_set() else self.objective.value(model, best_epoch)
        with self.lock:
            goes_on = tell(self.study, trial, value, TrialState.PRUNED if value is None else None)
            self.left = self.left if goes_on else 0
            if value is not None and math.isfinite(value):
                self.record.tracker.log_metrics(trial.number, {self.objective.name: value}, time.time())
                if self.study.best_trial.number == trial.number:
                    self.best = trial.number, model
        text = "pruned" if value is None else f"{self.objective.name}={value:.6g}"
        self.progress.show(f"Trial {trial.number}: {text}  {trial.params}")

    def _fitted(
        self, values: dict[str, Any], number: int, on_epoch: Callable[[int, dict[str, Any]], bool]
    ) -> KerasModel:
        estimator = self.space.estimator(values)
        own = estimator.getOrDefault("onEpoch")

        def both(epoch: int, metrics: dict[str, Any]) -> bool:
            stops = own is not None and ends_training(own, epoch, metrics)
            return on_epoch(epoch, metrics) or stops

        spec, rows = estimator._checked(self.dataset)
        # Not as params, so that the run has the estimator as it is without a search.
        spec = replace(spec, options=replace(spec.options, on_epoch=both, verbose=0, run_name=f"trial {number}"))
        converted = self.shared.of(estimator, spec, rows)
        if spec.conversion.balance == "none":  # else the draws of the rows to repeat depend on the rows' order
            with self.lock:
                conversion = comparable(spec.conversion)
                digest = rows_digest(converted.dataset_for(spec.conversion))
                check_rows(self.study, digest_of_text(repr(conversion))[:16], digest)
        return estimator._fit_converted(spec, converted, self.record.open())
