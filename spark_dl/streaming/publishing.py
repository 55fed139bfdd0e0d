"""Publishing of a stream trainer: the MLflow run of its query, and the champion in the registry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spark_dl.errors import OptionError, SparkDLError, explain
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.fetched import fetched_model
from spark_dl.ml.logged import logged_model
from spark_dl.ml.summary import TrainingSummary
from spark_dl.options import EstimatorOptions
from spark_dl.redaction import warn
from spark_dl.streaming.champion import Champion, beats, check_metric, comparable_content, metric_of_champion
from spark_dl.streaming.session import Session
from spark_dl.streaming.state import commit, read_file
from spark_dl.track import Tracker, tracker

__all__ = ["Publisher"]


class Publisher:
    """Writer of a query's run, which also compares the model with the champion.

    Args:
        estimator: The estimator.
        options: Its options, with tracking as the user has set it.
        champion: The settings of the champion, or None.
        facts: The params of the trainer to log to the run.

    Raises:
        OptionError: There is a champion and no tracking.
    """

    def __init__(
        self, estimator: KerasEstimator, options: EstimatorOptions, champion: Champion | None, facts: Mapping[str, Any]
    ) -> None:
        if champion is not None and options.tracking is None:
            raise OptionError(
                explain(
                    "A champion is registered from the query's MLflow run.",
                    expected="an estimator with tracking='mlflow'",
                    received="tracking=None",
                    fix="Set tracking, or leave champion out.",
                )
            )
        self._estimator, self._options, self._champion = estimator, options, champion
        self._facts = {**facts, "epochs": options.epochs, "batchSize": options.batch_size}
        self._tracker: Tracker | None = None
        self._run = ""

    def open(self, session: Session) -> None:
        """Open the run of the query, or reopen its run after a restart."""
        if self._tracker is not None and self._run == session.state.run:
            return
        self.close()
        options = self._options
        self._tracker = tracker(
            options.tracking,
            experiment_name=options.experiment_name,
            run_name=options.run_name,
            registered_model_name=None,
        )
        before, params = session.state.run, {name: str(value) for name, value in self._facts.items()}
        self._run = session.state.run = self._tracker.begin(params, {"spark_dl.query": session.state.query}, before)
        if before and session.state.metrics:  # the driver may have ended after the commit and before the log
            metrics = {name: [value] for name, value in session.state.metrics.items()}
            self._tracker.history(metrics, session.state.batch)

    def compare(self, session: Session, arrays: Sequence[np.ndarray], metrics: dict[str, Any]) -> None:
        """Add a batch to the comparison: the champion's metrics on rows that neither model was trained on."""
        if self._champion is None:
            return
        name = self._champion.metric
        check_metric(name, metrics, session.learner.larger_is_better(name))
        self._follow(session)
        if session.champion is not None:
            theirs = metric_of_champion(name, session.champion.test(arrays), session.state.version)
            session.state.contest.append([float(len(arrays[0])), metrics[name], theirs])
            session.state.contest = session.state.contest[-self._champion.window :]
            metrics[f"champion_{name}"] = theirs

    def decide(self, session: Session) -> None:
        """Make the model the champion if there is none, or if it was better over the window."""
        if self._champion is None:
            return
        larger = bool(session.learner.larger_is_better(self._champion.metric))
        contest = session.state.contest
        won = len(contest) == self._champion.window and beats(contest, larger)
        if session.champion is None or won:
            session.set_champion(session.learner.content(), session.state.version, session.state.batch)

    def publish(self, session: Session, content: bytes) -> None:
        """Log the committed batch and register a new champion; retry with the next batch if the registry is down.

        Args:
            session: The session, just committed.
            content: The model's `.keras` bytes.
        """
        state = session.state
        if self._tracker is None:
            return
        self._tracker.log_metrics(state.batch, state.metrics, time.time())
        if state.metrics.get("drift"):
            self._tracker.event(f"Batch {state.batch}: the errors of the predictions have changed (drift).")
        if self._champion is None or state.unpublished < 0:
            return
        from spark_dl.track.registry import publish

        champion = read_file(session.store, state, "champion") or content
        model = self._estimator._model_of(champion, session.spec, TrainingSummary())
        names = (self._champion.registeredModelName, self._champion.alias)
        try:
            state.version = publish(logged_model(model), *names, state.run, f"batch {state.unpublished}")
        except Exception as error:  # training continues without the registry
            warn(f"The champion of batch {state.unpublished} isn't registered yet: {error}")
            return
        self._tracker.event(f"Batch {state.batch}: version {state.version} of {names[0]} is {names[1]}.")
        state.unpublished = -1
        commit(session.store, state, {})

    def close(self) -> None:
        """End the run."""
        if self._tracker is not None:
            self._tracker.finish(None)
        self._tracker, self._run = None, ""

    def _follow(self, session: Session) -> None:
        """Use the alias's version as the champion, if someone else has moved the alias."""
        from spark_dl.track.registry import aliased_version

        champion, state = self._champion, session.state
        if champion is None or state.unpublished >= 0:
            return
        try:
            version = aliased_version(champion.registeredModelName, champion.alias)
            if version and version != state.version:
                found = fetched_model(f"models:/{champion.registeredModelName}/{version}")
                session.set_champion(comparable_content(found, session.spec.inputs, version), version, -1)
        except SparkDLError:
            raise
        except Exception as error:  # the registry doesn't answer
            warn(f"Continuing with the champion {state.version or 'so far'}: {error}")
