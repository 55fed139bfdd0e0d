"""What all estimators share: `fit` as a list of named steps."""

from __future__ import annotations

import functools
import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
from pyspark.ml.base import Estimator
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import DataFrame, SparkSession

from spark_dl import diagnosis, options
from spark_dl.data import schema
from spark_dl.data.convert import Packing, convert
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import DataError, ModelError, OptionError, SavedModelError, explain
from spark_dl.estimators.io import Reader, Writer
from spark_dl.estimators.model import KerasModel, TrainingSummary
from spark_dl.estimators.params import OptionParams, with_options
from spark_dl.estimators.progress import Progress
from spark_dl.launch.launcher import LaunchSettings, run_ranks
from spark_dl.launch.slots import check_cluster
from spark_dl.score.heads import Head, Regression, TensorOutput
from spark_dl.store import Store
from spark_dl.track import Tracker, tracker
from spark_dl.train.plan import INITIAL_MODEL, TrainPlan, TrainResult
from spark_dl.workspace import Workspace

if TYPE_CHECKING:
    from spark_dl.launch.rank_main import Rank
    from spark_dl.train.model_bytes import LossFacts, ModelShape

__all__ = ["KerasEstimator"]

# Options whose values are Keras objects: not JSON, and logged by their names.
_OBJECTS = ("model", "optimizer", "loss", "metrics", "callbacks")


@dataclass(frozen=True)
class _Job:
    """A checked fit, before any Spark job.

    Attributes:
        content: the compiled model's bytes.
        shape: of the model.
        head: what the output will mean.
        packing: how rows become blocks; its store is set later.
    """

    content: bytes
    shape: ModelShape
    head: Head
    packing: Packing


@with_options(
    options.MODEL,
    options.OPTIMIZER,
    options.LOSS,
    options.METRICS,
    options.CALLBACKS,
    options.FEATURES_COL,
    options.INPUT_COLS,
    options.LABEL_COL,
    options.WEIGHT_COL,
    options.PREDICTION_COL,
    options.VALIDATION_COL,
    options.VALIDATION_FRACTION,
    options.NULL_POLICY,
    options.NUM_WORKERS,
    options.BATCH_SIZE,
    options.EPOCHS,
    options.SHUFFLE,
    options.SEED,
    options.RESTORE_BEST_WEIGHTS,
    options.MONITOR,
    options.MONITOR_MODE,
    options.THREADS_PER_WORKER,
    options.SLOT_TIMEOUT,
    options.CACHE_DIR,
    options.CHECKPOINT_DIR,
    options.TRACKING,
    options.EXPERIMENT_NAME,
    options.RUN_NAME,
    options.VERBOSE,
    options.SCORE_BATCH_SIZE,
)
class KerasEstimator(OptionParams, Estimator["KerasModel"], MLWritable, MLReadable["KerasEstimator"]):
    """Trains a Keras model on a DataFrame, on Horovod ranks in Spark's executors.

    The general form: any model with one input and one output, any loss. The fitted `KerasModel` writes the
    model's output to `predictionCol`: a double where the model has one output unit, else an array of floats.

    Example:

        estimator = KerasEstimator(model=model, optimizer="adam", loss="mse", labelCol="y", numWorkers=2)
        scored = estimator.fit(train).transform(test)
    """

    model_class: ClassVar[type[KerasModel]] = KerasModel

    def _fit(self, dataset: DataFrame) -> KerasModel:
        values = self._values()
        spark = dataset.sparkSession
        job = self._check(dataset, values)
        check_cluster(spark, values["numWorkers"])
        record = tracker(values["tracking"], experiment_name=values["experimentName"], run_name=values["runName"])
        with Workspace(values["cacheDir"], _master(spark)) as workspace, _recorded(record, self._facts(spark, values)):
            checkpoints = _checkpoints(values["checkpointDir"], workspace)
            diagnosis.quick(spark, values["numWorkers"], [workspace, checkpoints], values["slotTimeout"])
            converted = _convert(dataset, job.packing, workspace, values)
            workspace.write(INITIAL_MODEL, job.content)
            result = _train(spark, converted, workspace, checkpoints, values, record)
            content = workspace.read(result.model_file)
            fitted = self._fitted(content, job, result)
            _try_to_log(functools.partial(record.model, fitted.keras, result.history))
        return fitted

    def _check(self, frame: DataFrame, values: Mapping[str, Any]) -> _Job:
        """Everything that can be known without a Spark job."""
        from spark_dl.train import model_bytes

        shape = model_bytes.shape_of(values["model"])
        loss = values["loss"] if values["loss"] is not None else self._default_loss(shape, values["model"])
        compiled = model_bytes.compiled_copy(values["model"], values["optimizer"], loss, values["metrics"])
        facts = model_bytes.loss_facts(compiled.loss)
        _check_distributed(values, facts)
        head = self._head(shape, facts)
        features = schema.feature_spec(
            frame.schema, *_features(values["featuresCol"], values["inputCols"]), shape.input_shape, shape.input_dtype
        )
        classes = self._classes(shape, facts)
        label = schema.label_spec(frame.schema, values["labelCol"], shape.output_shape, classes)
        weight, validation = values["weightCol"], values["validationCol"]
        if validation and values["validationFraction"]:
            raise OptionError(
                explain(
                    "validationCol and validationFraction exclude each other.",
                    expected="one of them",
                    received=f"validationCol={validation!r}, validationFraction={values['validationFraction']}",
                )
            )
        packing = Packing(
            store=Store(""),
            features=features,
            label=label,
            weight=schema.weight_column(frame.schema, weight) if weight else None,
            validation_col=schema.boolean_column(frame.schema, validation) if validation else None,
            validation_fraction=values["validationFraction"],
            seed=values["seed"],
            drop_missing=values["nullPolicy"] == "drop",
        )
        return _Job(model_bytes.to_bytes(compiled), shape, head, packing)

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """The loss for a model that has none; None where only the user can say."""
        return None

    def _head(self, shape: ModelShape, loss: LossFacts) -> Head:
        """What the model's output means."""
        width = functools.reduce(lambda a, b: a * b, shape.output_shape, 1)
        return Regression() if width == 1 else TensorOutput(width)

    def _classes(self, shape: ModelShape, loss: LossFacts) -> int | None:
        """The number of classes where labels are class indices."""
        sparse = loss.name == "sparse_categorical_crossentropy" and len(shape.output_shape) == 1
        return shape.output_shape[-1] if sparse else None

    def _facts(self, spark: SparkSession, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """What the tracker is told at the beginning: params, and tags."""
        params = {name: value for name, value in values.items() if name not in _OBJECTS and value is not None}
        for name in _OBJECTS:
            if values[name] is not None and name != "model":
                params[name] = _named(values[name])
        tags = {
            "spark_dl.uid": self.uid,
            "spark_dl.estimator": type(self).__name__,
            "spark_dl.spark": spark.version,
            "spark_dl.master": _master(spark),
            "spark_dl.model": str(values["model"].name),
        }
        return params, tags

    def _fitted(self, content: bytes, job: _Job, result: TrainResult) -> KerasModel:
        summary = TrainingSummary(
            history=result.history,
            rows=result.rows,
            validation_rows=result.validation_rows,
            seconds=result.seconds,
            best_epoch=result.best_epoch,
        )
        model = self.model_class()._with_content(content, job.shape, job.head, summary)
        model._resetUid(self.uid)
        return self._copyValues(model)

    def write(self) -> Writer:
        """A writer for this estimator, its model and its params; callbacks can't be saved."""
        return Writer(self)

    @classmethod
    def read(cls) -> Reader:
        """A reader for what `write` has saved."""
        return Reader(cls)

    def _to_saved(self) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
        """What `Writer` writes: facts, the model's bytes, and the params that are JSON."""
        import keras

        from spark_dl.train import model_bytes

        if self.getOrDefault("callbacks"):
            raise SavedModelError(
                explain(
                    "An estimator with callbacks can't be saved.",
                    expected="no callbacks: they are code, and nothing is pickled",
                    received=_named(self.getOrDefault("callbacks")),
                    fix="Save it without them (setCallbacks([])), and set them again after loading.",
                )
            )
        given = {name: self.getOrDefault(name) for name in ("optimizer", "loss", "metrics")}
        facts = {name: keras.saving.serialize_keras_object(v) for name, v in given.items() if v is not None}
        model = self.getOrDefault("model")
        params = {p.name: value for p, value in self._paramMap.items() if p.name not in _OBJECTS}
        return {"objects": facts}, None if model is None else model_bytes.to_bytes(model), params

    @classmethod
    def _from_saved(cls, facts: dict[str, Any], content: bytes | None) -> Any:
        """The estimator from what `_to_saved` gave; its params are set by `Reader`."""
        import keras

        from spark_dl.train import model_bytes

        objects = {
            name: keras.saving.deserialize_keras_object(value, safe_mode=True)
            for name, value in facts.get("objects", {}).items()
        }
        if content is not None:
            objects["model"] = model_bytes.from_bytes(content)
        return cls(**objects)


def _check_distributed(values: Mapping[str, Any], loss: LossFacts) -> None:
    """Refuse what would not mean the same on several ranks as on one."""
    import keras

    if values["numWorkers"] > 1 and loss.reduction not in ("sum_over_batch_size", "mean"):
        raise ModelError(
            explain(
                "Gradients of several workers are joined as means over rows.",
                expected="a loss with reduction 'sum_over_batch_size'",
                received=f"{loss.name} with reduction {loss.reduction!r} and numWorkers={values['numWorkers']}",
                fix="Change the loss's reduction, or set numWorkers=1.",
            )
        )
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in values["callbacks"] or []):
        raise OptionError(
            explain(
                "BackupAndRestore would restore one rank and not the others.",
                expected="other callbacks",
                received="BackupAndRestore",
                fix="Leave it out: set checkpointDir to keep each epoch's checkpoint.",
            )
        )


def _features(features_col: str, input_cols: list[str] | None) -> tuple[list[str], str]:
    """The feature columns, and the option that names them."""
    return (input_cols, "inputCols") if input_cols else ([features_col], "featuresCol")


def _named(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_named, value))
    return value if isinstance(value, str) else getattr(value, "name", None) or type(value).__name__


def _master(spark: SparkSession) -> str:
    return spark.conf.get("spark.master", "") or ""


@contextmanager
def _recorded(record: Tracker, facts: tuple[dict[str, Any], dict[str, str]]) -> Iterator[None]:
    """The tracker's record, open while the `with` lasts, and ended with what went wrong, if anything did."""
    try:
        record.begin(*facts)
        yield
    except BaseException as error:
        _try_to_log(functools.partial(record.end, error))
        raise
    _try_to_log(functools.partial(record.end, None))


def _try_to_log(write: Callable[[], None]) -> None:
    """Write to the tracker. Once training runs, a tracker that fails costs what it would have logged, and no more."""
    try:
        write()
    except Exception as error:
        warnings.warn(f"Not logged: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


def _checkpoints(directory: str | None, workspace: Store) -> Store:
    """A directory of its own for this fit's checkpoints: earlier ones stay untouched."""
    if directory is None:
        store = workspace.child("checkpoints")
    else:
        store = Store.at(directory).child(f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    store.make()
    return store


def _convert(frame: DataFrame, packing: Packing, workspace: Store, values: Mapping[str, Any]) -> ConvertedDataset:
    """The DataFrame's rows as blocks in the workspace, enough of them.

    Raises:
        DataError: no rows, or too few.
    """
    store = workspace.child("data")
    store.make()
    converted = convert(frame, Packing(**{**vars(packing), "store": store}))
    rows, held_out = converted.rows(validation=False), converted.rows(validation=True)
    if rows + held_out == 0:
        raise DataError(
            explain(
                "The DataFrame has no rows to train on.",
                expected="at least one row for each worker",
                received="0 rows" + (" after rows with nulls were dropped" if packing.drop_missing else ""),
                fix="Check the filters before fit.",
            )
        )
    if rows < values["numWorkers"]:
        raise DataError(
            explain(
                "There are fewer training rows than workers.",
                expected=f"at least {values['numWorkers']} training rows (numWorkers={values['numWorkers']})",
                received=f"{rows} training and {held_out} validation rows",
                fix="Lower numWorkers or the part for validation.",
            )
        )
    if (values["validationCol"] or values["validationFraction"]) and not held_out:
        raise DataError(
            explain(
                "No row was chosen for validation.",
                expected="at least one",
                received=f"{rows} rows, validationCol={values['validationCol']!r}, "
                f"validationFraction={values['validationFraction']}",
                fix="Raise validationFraction, change the seed, or mark rows in validationCol.",
            )
        )
    return converted


def _train(
    spark: SparkSession,
    converted: ConvertedDataset,
    workspace: Store,
    checkpoints: Store,
    values: Mapping[str, Any],
    record: Tracker,
) -> TrainResult:
    """Train on the ranks, and show and log their progress."""
    import keras

    validated = converted.rows(validation=True) > 0
    plan = TrainPlan.of_options(
        {**values, "monitor": values["monitor"] or ("val_loss" if validated else "loss")},
        dataset=converted,
        workspace=workspace,
        checkpoints=checkpoints,
        custom_objects=cloudpickle.dumps(dict(keras.saving.get_custom_objects())),
        callbacks=cloudpickle.dumps(values["callbacks"] or []),
        reader="petastorm",
    )
    workers = values["numWorkers"]
    rows = converted.rows(validation=False)
    steps = math.ceil(math.ceil(rows / workers) / values["batchSize"])
    settings = LaunchSettings(threads=values["threadsPerWorker"], slot_timeout=values["slotTimeout"])
    with Progress(values["verbose"], values["epochs"], steps) as progress:
        progress.say(f"Training on {rows:,} rows ({converted.bytes / 1e6:,.1f} MB) with {workers} workers")

        def on_report(content: dict[str, Any]) -> None:
            if content["kind"] == "step":
                progress.step(content["epoch"], content["step"], content["loss"])
            else:
                progress.epoch(content["epoch"], content["logs"], content["rows_per_second"])
                speed = {"rows_per_second": content["rows_per_second"]}
                _try_to_log(functools.partial(record.epoch, content["epoch"], {**content["logs"], **speed}))

        results: list[TrainResult] = run_ranks(spark, functools.partial(_rank, plan), workers, settings, on_report)
    return results[0]


def _rank(plan: TrainPlan, rank: Rank) -> TrainResult:
    """What each rank runs."""
    from spark_dl.collectives import join
    from spark_dl.train.loop import train

    return train(plan, join(rank.world), rank.report)
