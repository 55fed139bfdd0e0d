"""Keras metrics of a DataFrame, computed over the cluster by merging the tasks' metric states, not their results."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from spark_dl.data.batches import keras_batch
from spark_dl.data.convert import convert_batches
from spark_dl.data.projection import arrow_projection
from spark_dl.data.row_errors import describe
from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import DataError, ModelError, explain
from spark_dl.io.payload import Payload
from spark_dl.log_values import plain_logs, plain_value
from spark_dl.redaction import warn
from spark_dl.score.own_logs import LOG, OwnLogs, joined_logs
from spark_dl.score.scoring_model import import_keras, prepare_worker, rows_at_once
from spark_dl.spark.job import SparkJob
from spark_dl.spark.python_worker import purge_zipimport_cache

if TYPE_CHECKING:
    from spark_dl.train.metrics.joins import MetricJoin

__all__ = ["Evaluation", "evaluate"]

_RESULT = "kind string, name string, detail string, rows long, states array<double>"


@dataclass(frozen=True)
class Evaluation:
    """Specification of an evaluation, which the driver sends to every Spark task.

    Attributes:
        content: The `.keras` file of the compiled model, as bytes.
        custom_objects: The cloudpickled dict of Keras custom objects by name.
        conversion: The conversion of columns to batches, whose store isn't used.
        batch_size: The maximum number of rows in a batch.
    """

    content: Payload = field(repr=False)
    custom_objects: bytes = field(repr=False)
    conversion: ConversionSpec
    batch_size: int

    def load(self) -> tuple[Any, dict[str, Any]]:
        """Load the Keras model and build its metrics.

        Returns:
            The model, and the Keras settings of its training.
        """
        import_keras()
        from spark_dl.train.model.keras_settings import apply_settings
        from spark_dl.train.model.serialization import from_file, settings_of
        from spark_dl.train.step import build_state

        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "model.keras")
            self.content.write(path)
            settings = settings_of(path)
            model = from_file(path, cloudpickle.loads(self.custom_objects))
        model.jit_compile = False  # XLA would compile for each of many batch sizes
        tensors = self.conversion.tensors
        with apply_settings(settings):
            build_state(model, keras_batch(tensors, [np.zeros((0, *t.shape), t.stored) for t in tensors]))
        return model, settings


def evaluate(frame: DataFrame, evaluation: Evaluation) -> dict[str, Any]:
    """Compute the loss and the metrics over all rows of a DataFrame.

    Args:
        frame: The DataFrame, with the feature, label and weight columns.
        evaluation: The specification of the evaluation.

    Returns:
        The values by the names of `keras.Model.evaluate`; lists for metrics with several values.

    Raises:
        ModelError: A metric's result depends on state outside its variables.
        DataError: Rows can't be fed to the model, counted by column in the message; or there are no rows.
    """
    from spark_dl.train.metrics.divided_losses import DividedLosses
    from spark_dl.train.metrics.states import MetricStates, assign_states
    from spark_dl.train.model.one_hot_metrics import check_one_hot_metrics

    model, _ = evaluation.load()
    check_one_hot_metrics(model, evaluation.conversion.labels)
    losses = DividedLosses(model)
    joins = _joins(model, evaluation.conversion)
    _warn_of_losses(model, evaluation.conversion)
    packed = frame.select(arrow_projection(evaluation.conversion.columns))
    if not all(join.joins for join in joins):
        packed = packed.coalesce(1)  # some states can't be merged, so that one task evaluates all rows
    table, own = _results_of_tasks(packed, evaluation)
    states, sums = np.split(table, [table.shape[1] - losses.size], axis=1)
    joined = MetricStates(model, joins)
    joined.begin()
    assign_states(model, joined.joined(states))
    losses.correct(sums.sum(axis=0))
    logs = joined_logs(model, plain_logs(model.get_metrics_result()), own)
    return {name: plain_value(value) for name, value in logs.items()}


def _joins(model: Any, conversion: ConversionSpec) -> Sequence[MetricJoin]:
    """Find how the states of the model's metrics merge, with a warning for metrics whose result may be inexact.

    Raises:
        ModelError: A metric's result depends on state outside its variables.
    """
    from spark_dl.train.metrics.joins import metric_joins
    from spark_dl.train.model.examples import examples_of_model

    joins = metric_joins(
        model, lambda: examples_of_model(model, conversion.tensors), weighted=conversion.weight is not None
    )
    for join in joins:
        if join.outside:
            raise ModelError(
                explain(
                    f"The metric {join.metric} can't be computed over the cluster.",
                    expected="a metric that keeps all that it needs in variables, made with add_weight",
                    received="one whose result follows from more than its variables",
                    fix="Keep it in variables, or use keras().evaluate on the driver.",
                )
            )
        if not join.tried:
            _warn(f"The states of {join.metric} are summed over the tasks: whether they are sums could not be tried.")
        elif join.per_batch:
            _warn(f"The metric {join.metric} depends on which rows share a batch: each task makes its own batches.")
    return joins


def _warn_of_losses(model: Any, conversion: ConversionSpec) -> None:
    """Warn of losses whose value depends on which rows share a batch."""
    from spark_dl.train.model.batch_dependence import OTHER, SUM, loss_kind
    from spark_dl.train.model.examples import examples_of_model
    from spark_dl.train.model.losses import MEANS, loss_facts, losses_by_output
    from spark_dl.train.model.shape import shape_of
    from spark_dl.train.model.step_trial import has_own_step

    if model.loss is None or has_own_step(model):
        return
    losses = losses_by_output(model.loss, shape_of(model))
    facts = {name: loss_facts(loss) for name, loss in losses.items()}
    if all(one.known and one.reduction in MEANS for one in facts.values()):
        return
    for example in examples_of_model(model, conversion.tensors):
        loss = losses[example.output]
        if loss_kind(loss, example, conversion.weight is not None) in (OTHER, SUM):
            _warn(
                f"The loss {facts[example.output].name} of {example.output!r} depends on which rows share a batch: "
                "each task makes its own batches."
            )


def _warn(text: str) -> None:
    warn(text)


def _results_of_tasks(packed: DataFrame, evaluation: Evaluation) -> tuple[np.ndarray, list[Any]]:
    """Evaluate in Spark tasks.

    Returns:
        What each task with rows has summed, float64, (tasks, numbers): the metric states, then the sums of
        `DividedLosses`; and the records of `OwnLogs`.
    """
    shipped = replace(evaluation, content=evaluation.content.ship(packed.sparkSession))
    with SparkJob(packed.mapInArrow(functools.partial(_evaluate_partition, shipped), _RESULT)) as job:
        rows = job.rows()
    faults = [row for row in rows if row["kind"] not in ("states", LOG)]
    if faults:
        raise DataError(describe(faults, evaluation.conversion.columns, evaluation.conversion.labels))
    states = [row["states"] for row in rows if row["kind"] == "states" and row["rows"]]
    if not states:
        raise DataError(
            explain(
                "There are no rows to evaluate.",
                expected="at least one row",
                received="0 rows",
                fix="Check the filter or the path of the rows.",
            )
        )
    return np.array(states, np.float64), [row for row in rows if row["kind"] == LOG]


def _in_a_graph(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compile the model's step to a graph, as `keras.Model.evaluate` does; `test_on_batch` would reset the metrics."""
    import tensorflow as tf

    # Every model's step is the same code: TensorFlow would take further models for one that is traced again, and warn.
    own = functools.partial(step)
    graph: Callable[[Any], Any] = tf.function(own, reduce_retracing=True, autograph=False)
    return graph


def _evaluate_partition(evaluation: Evaluation, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    purge_zipimport_cache()
    prepare_worker()
    faults, arrays = convert_batches(evaluation.conversion, batches)
    model, losses, step, own, rows = None, None, None, None, 0
    settings: dict[str, Any] = {}
    at_once = rows_at_once(evaluation.conversion.features, evaluation.batch_size)
    for whole in arrays:
        if model is None or step is None:
            model, settings = evaluation.load()
            from spark_dl.train.metrics.divided_losses import DividedLosses  # after the import of Keras was prepared
            from spark_dl.train.model.keras_settings import apply_settings
            from spark_dl.train.step import has_own_test_logs

            losses = DividedLosses(model)
            own = OwnLogs(model) if has_own_test_logs(model) else None
            step = model.test_step if model.run_eagerly else _in_a_graph(model.test_step)
        with apply_settings(settings):
            for start in range(0, len(whole[0]), at_once):
                part = [array[start : start + at_once] for array in whole]
                logs = step(keras_batch(evaluation.conversion.tensors, part))
                rows += len(part[0])
                if own:
                    own.add(logs, len(part[0]))
    states = [np.asarray(variable, np.float64).ravel() for variable in model.metrics_variables] if model else []
    states += [losses.sums()] if losses else []
    records: list[dict[str, Any]] = [
        {"kind": "states", "rows": rows, "states": np.concatenate(states) if states else np.empty(0)}
    ]
    records += [{"kind": kind, "name": n, "detail": d, "rows": count} for (kind, n, d), count in faults.counts.items()]
    records += own.records() if own else []
    schema = pa.schema(
        [
            ("kind", pa.string()),
            ("name", pa.string()),
            ("detail", pa.string()),
            ("rows", pa.int64()),
            ("states", pa.list_(pa.float64())),
        ]
    )
    yield pa.RecordBatch.from_pylist(records, schema=schema)
