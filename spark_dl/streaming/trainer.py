"""`StreamTrainer`: the function of `foreachBatch` that tests a model on each micro-batch, then trains it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from spark_dl._compat.spark import is_connect
from spark_dl.data.convert import append_rows
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import DataError, ModelError, OptionError, explain
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.launch.pool import RankPool
from spark_dl.ml.estimator import KerasEstimator
from spark_dl.ml.model import KerasModel
from spark_dl.ml.summary import TrainingSummary
from spark_dl.redaction import redacted_errors
from spark_dl.spark.row_source import RowSource
from spark_dl.streaming.champion import Champion
from spark_dl.streaming.checks import check_integer, check_number
from spark_dl.streaming.drift import Adwin
from spark_dl.streaming.estimator import stream_estimator
from spark_dl.streaming.publishing import Publisher
from spark_dl.streaming.replay import ReplayBuffer
from spark_dl.streaming.rows import check_columns, collected
from spark_dl.streaming.session import Session

__all__ = ["StreamTrainer"]

_log = logging.getLogger(__name__)

# Spark's name of the streaming query, in the thread that calls the function of foreachBatch.
_QUERY = "sql.streaming.queryId"
_LONGEST_IDLE_SECONDS = 86_400.0


class StreamTrainer:
    """Trainer of a model on a stream, one micro-batch after the other, each exactly once.

        trainer = StreamTrainer(classifier, "/durable/fraud", champion=Champion("fraud"))
        query = trainer.start(stream, checkpointLocation="/durable/checkpoint")
        query = stream.writeStream.foreachBatch(trainer).option("checkpointLocation", ...).start()  # the same

    For each batch, the model first predicts the rows (prequential metrics: loss and metrics of rows that it hasn't
    seen), then trains on them, and on as many of the replay buffer. Then its weights, the optimizer, the buffer and the
    number of the batch are committed together: a restarted query trains no batch twice, and loses none. A query with a
    new checkpoint continues with the model and counts its batches from 0; calls outside of a query have another count.

    A batch of at most `driverRows` rows is trained in the driver's process, as a fit by one worker trains. A larger one
    is trained by a fit on `numWorkers` ranks that begins with the model. The ranks wait for the next large batch on
    their executors for `rankIdleTimeout` seconds, and end with the query; those that were killed are started again.

    With tracking, each query is an MLflow run with the prequential metrics by the number of the batch. The query needs
    classic Spark: on Spark Connect, foreachBatch runs in a process of the server.

    Sources: Gama, Sebastião and Rodrigues: On evaluating stream learning algorithms, Machine Learning 90, 2013;
    `ReplayBuffer`, `Adwin`.

    Args:
        estimator: The estimator; or a fitted, compiled KerasModel, whose training continues.
        stateDir: The directory or URL of the trainer's state, which must outlive the driver; a URL is opened with the
            estimator's storageOptions. Only one query at a time may use it.
        buffer: The settings of the replay buffer; None to train only on the rows of each batch.
        drift: The drift detector; None for none. When it finds a change, the buffer is emptied.
        champion: The settings of the champion in the model registry; None for none.
        driverRows: The largest batch that is trained in the driver's process.
        rankIdleTimeout: The seconds for which ranks wait for the next large batch with their graphs, in memory but
            without a Spark slot; they also end with the query. 0 ends them with their batch.

    Raises:
        OptionError: A value can't be used, or the estimator has an option that streams don't have.
    """

    def __init__(
        self,
        estimator: KerasEstimator | KerasModel,
        stateDir: str,
        *,
        buffer: ReplayBuffer | None = ReplayBuffer(),  # noqa: B008 (frozen)
        drift: Adwin | None = None,
        champion: Champion | None = None,
        driverRows: int = 20_000,
        rankIdleTimeout: float = 120.0,
    ) -> None:
        check_integer("driverRows", driverRows, 1)
        check_number("rankIdleTimeout", rankIdleTimeout, 0, _LONGEST_IDLE_SECONDS)
        kinds = {"buffer": (buffer, ReplayBuffer), "drift": (drift, Adwin), "champion": (champion, Champion)}
        for name, (value, kind) in kinds.items():
            if value is not None and not isinstance(value, kind):
                raise OptionError(
                    explain(
                        f"{name} can't be used.",
                        expected=f"spark_dl.streaming.{kind.__name__}(...), or None",
                        received=f"{value!r} ({type(value).__name__})",
                        fix=f"Set another {name}.",
                    )
                )
        self._estimator, options = stream_estimator(estimator)
        self._store = Store.at(stateDir, StorageOptions.of(options.storage_options))
        self._buffer, self._drift, self._driver_rows = buffer, drift, driverRows
        facts = {"stateDir": self._store.shown, "buffer": buffer, "drift": drift, "champion": champion}
        self._publisher = Publisher(self._estimator, options, champion, facts)
        self._session: Session | None = None
        self._ranks = RankPool(rankIdleTimeout) if rankIdleTimeout else None
        if self._ranks is not None:
            weakref.finalize(self, self._ranks.close)  # a trainer without a query may be dropped without `close`
        self._watched: set[str] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise OptionError(
            explain(
                "A StreamTrainer can't be sent to another process.",
                expected="a query of classic Spark, whose foreachBatch runs in the driver",
                received="a pickled StreamTrainer, as Spark Connect makes it",
                fix="Start the query in a job on the cluster (spark-submit).",
            )
        )

    @redacted_errors()
    def start(
        self,
        stream: DataFrame,
        checkpointLocation: str,
        *,
        trigger: Mapping[str, Any] | None = None,
        queryName: str | None = None,
    ) -> StreamingQuery:
        """Start a query that trains on a stream, after checks that need no row.

        Args:
            stream: The streaming DataFrame.
            checkpointLocation: The directory of the query's checkpoint.
            trigger: Keyword arguments of `DataStreamWriter.trigger`, such as {"availableNow": True}; None for the next
                batch as soon as one is done.
            queryName: The name of the query.

        Raises:
            DataError: The DataFrame isn't a stream, or its columns can't be fed to the model, or have changed.
            ClusterError: The session is one of Spark Connect.
        """
        if not stream.isStreaming:
            raise DataError(
                explain(
                    "The DataFrame is not a stream.",
                    expected="spark.readStream...load()",
                    received="a DataFrame of all its rows",
                    fix="Call fit of the estimator, or read the rows by spark.readStream.",
                )
            )
        if is_connect(stream.sparkSession):
            self.__reduce__()
        with self._lock:
            self._session = self._opened(stream)
        writer = stream.writeStream.foreachBatch(self).option("checkpointLocation", checkpointLocation)
        if trigger:
            writer = writer.trigger(**trigger)
        if queryName:
            writer = writer.queryName(queryName)
        query = writer.start()
        self._end_with(query)
        return query

    @redacted_errors()
    def __call__(self, rows: DataFrame, batchId: int) -> None:
        """Test the model on a micro-batch, train it, and commit; a batch that has been trained is skipped.

        Args:
            rows: The rows of the batch.
            batchId: Its number, from 0.

        Raises:
            DataError: The columns have changed, or rows can't be fed to the model.
            ModelError: Training has made weights NaN or infinite.
            StoreError: The state can't be committed.
        """
        with self._lock:
            # Taken out, so that after an error the next batch begins with what is committed.
            session, self._session = self._opened(rows), None
            query = str(rows.sparkSession.sparkContext.getLocalProperty(_QUERY) or "")
            session.state.enter(query)
            if query and (active := SparkSession.getActiveSession()):
                self._end_with(active.streams.get(query))
            if batchId > session.state.batch:
                self._learn(session, rows, batchId)
            else:
                _log.info("Batch %d has been trained already.", batchId)
            self._session = session

    def model(self) -> KerasModel:
        """Return the model of the last committed batch as a Transformer.

        Raises:
            ModelError: No batch has been trained by this trainer.
        """
        with self._lock:
            if self._session is None or not self._session.state.files:
                raise ModelError(
                    explain(
                        "There is no model yet.",
                        expected="a trained micro-batch",
                        received="none by this trainer, or one that failed",
                        fix="Start the query first.",
                    )
                )
            content = self._session.learner.content()
            return self._estimator._model_of(content, self._session.spec, TrainingSummary())

    def close(self) -> None:
        """End the MLflow run, and the ranks that wait, when the query has ended for good."""
        with self._lock:
            self._publisher.close()
            if self._ranks is not None:
                self._ranks.close()

    def _end_with(self, query: StreamingQuery | None) -> None:
        """End the ranks that wait when a query ends; None for one that isn't known to the session."""
        ranks = self._ranks
        # By its run: a query that is started again from its checkpoint has the id of before.
        if ranks is None or query is None or query.runId in self._watched:
            return
        self._watched.add(query.runId)

        def wait() -> None:
            with contextlib.suppress(Exception):  # the query's own error, which its user gets from it
                query.awaitTermination()
            self._watched.discard(query.runId)
            ranks.close()

        threading.Thread(target=wait, name="spark-dl-stream-end", daemon=True).start()

    def _opened(self, rows: DataFrame) -> Session:
        """Return the session, for rows with the columns that it has been opened for."""
        if self._session is not None:
            check_columns(rows.schema, self._session.state.columns, self._store.shown)
            return self._session
        return Session.open(self._estimator, self._store, rows.schema, self._buffer, self._drift)

    def _learn(self, session: Session, rows: DataFrame, batch: int) -> None:
        began = time.monotonic()
        most, conversion = self._driver_rows, session.spec.conversion
        arrays, read = collected(rows.limit(most + 1), conversion)
        if read <= most:  # nullPolicy may have dropped some of them
            self._learn_rows(session, batch, arrays, float(len(arrays[0])), began)
            return
        own = not rows.is_cached  # a function of foreachBatch may have persisted them, and need them afterwards
        rows = rows.persist() if own else rows
        try:
            count = rows.count()
            some, _ = collected(rows.sample(min(1.0, most / count), seed=batch).limit(most), conversion)
            if not len(some[0]):
                some = [array[:most] for array in arrays]
            if len(some[0]):
                self._learn_rows(session, batch, some, float(count), began, rows)
            else:  # nearly all rows are dropped, so that the others can't be many
                arrays, _ = collected(rows, conversion)
                self._learn_rows(session, batch, arrays, float(len(arrays[0])), began)
        finally:
            if own:
                rows.unpersist()

    def _learn_rows(
        self,
        session: Session,
        batch: int,
        arrays: list[np.ndarray],
        count: float,
        began: float,
        large: DataFrame | None = None,
    ) -> None:
        """Test, train and commit; do nothing without rows.

        Args:
            session: The session.
            batch: The number of the batch.
            arrays: The rows of each tensor; of a large batch, a random part of them.
            count: The number of rows of the batch.
            began: When it began.
            large: The rows of a large batch; None if `arrays` has all rows.
        """
        if not len(arrays[0]):
            return
        self._publisher.open(session)
        state = session.state
        metrics = session.learner.test(arrays)
        self._publisher.compare(session, arrays, metrics)
        metrics["drift"] = float(session.detect(arrays))
        seed = (session.spec.options.seed, batch)
        replayed = session.replayed(arrays, self._buffer.ratio if self._buffer else 0.0, seed)
        if large is not None:
            self._train_on_ranks(session, large, replayed, batch)
        else:
            session.learner.train([np.concatenate(pair) for pair in zip(arrays, replayed, strict=True)], seed)
        _check_finite(session, batch)
        metrics["rows"] = count
        metrics["buffer_rows"] = float(len(session.sample) if session.sample is not None else 0)
        state.batch = batch
        self._publisher.decide(session)
        metrics["seconds"] = time.monotonic() - began
        state.metrics = metrics
        content = session.commit()
        self._publisher.publish(session, content)

    def _train_on_ranks(self, session: Session, rows: DataFrame, replayed: list[np.ndarray], batch: int) -> None:
        """Train on a large batch by a fit that begins with the model."""
        options = session.spec.options
        seed = (options.seed * 1_000_003 + batch) % 2**31
        spec = replace(session.spec, content=session.learner.content(), options=replace(options, seed=seed))

        def converted(workspace: Store) -> ConvertedDataset:
            dataset = self._estimator._convert(rows, spec, workspace)
            return append_rows(dataset, spec.conversion, replayed) if len(replayed[0]) else dataset

        fitted = self._estimator._train(rows.sparkSession, spec, converted, RowSource, pool=self._ranks)
        session.replace_learner(fitted._fitted_content())


def _check_finite(session: Session, batch: int) -> None:
    if variable := session.learner.not_finite():
        raise ModelError(
            explain(
                f"Training on batch {batch} has made the model unusable.",
                expected="finite weights",
                received=f"NaN or infinite values in {variable}",
                fix="Lower the learning rate, scale the features, or clip gradients (clipnorm); the state is that of "
                "the batch before.",
            )
        )
