"""What all estimators share: `fit` as a list of named steps."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyspark.ml.base import Estimator
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession

from spark_dl import diagnosis
from spark_dl.data.convert import Packing
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.label_rules import OF_CLASS_INDICES
from spark_dl.estimators.callback_checks import pickle_callbacks
from spark_dl.estimators.converted import ConvertedData
from spark_dl.estimators.fit_many import FitMany
from spark_dl.estimators.fit_record import log_fit, log_result, log_rows
from spark_dl.estimators.input_plan import InputPlan
from spark_dl.estimators.job import Job, check
from spark_dl.estimators.model import KerasModel, TrainingSummary
from spark_dl.estimators.params import with_options
from spark_dl.estimators.saving import OBJECTS, SavableEstimator, named
from spark_dl.estimators.steps import check_rows, convert_rows
from spark_dl.estimators.training import Trained, train_on_ranks
from spark_dl.estimators.validation import marked, marked_schema, marking
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import check_cluster, setting_of, slots_of, task_gpus
from spark_dl.options import EstimatorOptions, TrainingOptions
from spark_dl.redaction import redacted_errors, warn
from spark_dl.score.assess import can_assess
from spark_dl.score.heads import Head, Regression, SeveralOutputs, TensorOutput
from spark_dl.store import Store
from spark_dl.track import Record, active_record, tracker
from spark_dl.train.plan import INITIAL_MODEL, PROFILE, TrainPlan
from spark_dl.workspace import Workspace

if TYPE_CHECKING:
    from spark_dl.train.losses import LossFacts
    from spark_dl.train.model_shape import ModelOutput, ModelShape

__all__ = ["KerasEstimator"]

# Where TensorBoard looks for a trace.
_PROFILE_ARTIFACT = f"profile/plugins/profile/fit/{PROFILE}"


@with_options(EstimatorOptions)
class KerasEstimator(SavableEstimator, Estimator["KerasModel"]):
    """Trains a Keras model on a DataFrame, on Horovod ranks in Spark's executors.

    The general form: any model, any loss. The fitted `KerasModel` writes the model's output to `predictionCol`: a
    double where the model has one output unit, else an array of floats, or a Vector (`outputFormat`); several outputs
    each to a column of its own.

    Example:

        >>> import keras
        >>> from pyspark.sql import SparkSession
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> books = spark.range(100)
        >>> train = books.selectExpr("id % 5 AS reader", "id / 100 AS price", "id % 6 AS stars", "id % 2 AS sold")
        >>> reader, book = keras.Input((1,), name="reader"), keras.Input((1,), name="book")
        >>> hidden = keras.layers.Dense(4, "relu")(keras.layers.Concatenate()([reader, book]))
        >>> outputs = {"rating": keras.layers.Dense(1)(hidden), "sold": keras.layers.Dense(1, "sigmoid")(hidden)}
        >>> estimator = KerasEstimator(
        ...     model=keras.Model([reader, book], outputs),
        ...     inputCols={"reader": "reader", "book": "price"},
        ...     labelCols={"rating": "stars", "sold": "sold"},
        ...     loss={"rating": "mse", "sold": "binary_crossentropy"},
        ...     numWorkers=2, tracking=None, verbose=0,
        ... )
        >>> fitted = estimator.fit(train)
        >>> fitted.transform(train).columns
        ['reader', 'price', 'stars', 'sold', 'prediction_rating', 'prediction_sold']
        >>> sorted(fitted.summary.history)
        ['loss', 'rating_loss', 'sold_loss']
        >>> spark.stop()
    """

    model_class: ClassVar[type[KerasModel]] = KerasModel

    def plan(self, dataset: DataFrame) -> InputPlan:
        """Which column becomes what and feeds which input or output of the model, without a Spark job.

        Args:
            dataset: what `fit` would be given.

        Returns:
            a table: `print(estimator.plan(df))`. `fit` logs it as the run's artifact `columns.txt`.

        Raises:
            SparkDLError: what `fit` would refuse before its first job.
        """
        job, _ = self._checked(dataset)
        return job.plan

    def packing(self, dataset: DataFrame) -> Packing:
        """How a DataFrame's rows are packed: where it is the same, so are the converted rows."""
        job, _ = self._checked(dataset)
        return job.packing

    @redacted_errors()
    def convert(self, dataset: DataFrame) -> ConvertedData:
        """Convert a DataFrame once, for several fits by `fitOnDataset`. Its rows lie in cacheDir until they are closed.

        Args:
            dataset: what `fit` would be given.

        Raises:
            DataError: columns or rows that can't be fed.
        """
        job, rows = self._checked(dataset)
        spark, options = dataset.sparkSession, job.options
        settings = LaunchSettings.of(options)
        check_cluster(spark, options.num_workers, settings)
        with contextlib.ExitStack() as owned:
            workspace = owned.enter_context(Workspace(options.cache_dir, _master(spark)))
            diagnosis.quick(spark, options.num_workers, [workspace], settings, job.modules)
            converted = self._convert(rows, job, workspace)
            return ConvertedData.of(rows, converted, job.packing, job.plan, owned.pop_all())

    def fitOnDataset(self, converted: ConvertedData, params: Mapping[Param[Any], Any] | None = None) -> KerasModel:
        """`fit` on rows that `convert` has converted.

        Args:
            converted: the rows; several fits may read them, one after the other or at once.
            params: values for this fit alone.

        Raises:
            DataError: the rows were converted for other columns or options, or are too few.
        """
        estimator = self.copy(dict(params)) if params else self
        return estimator._fit_converted(converted)

    def _fit_converted(self, converted: ConvertedData, parent: str = "") -> KerasModel:
        job = check(self, converted.schema, marking(self._options()))
        dataset = converted.dataset_for(job.packing)
        return self._train(converted.spark, job, lambda workspace: dataset, lambda: converted.files, parent)

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Mapping[Param[Any], Any]]) -> FitMany:
        """Fit by each of several param maps; the rows are converted once for those that pack them alike.

        Args:
            dataset: the rows.
            paramMaps: one for each fit.

        Returns:
            a thread-safe iterator of (index, fitted model). No more fits run at the same time than have slots. Where an
            MLflow run is active, each has a run of its own below it.
        """
        options = [self.copy(dict(params))._options() for params in paramMaps]
        for one in options:  # the later fits' as well, before the first
            pickle_callbacks(one.callbacks)
        spark = dataset.sparkSession
        fits = [
            (slots_of(_master(spark), setting_of(spark), LaunchSettings.of(one)) or 0) // one.num_workers
            for one in options
        ]
        # Here, where the caller's run is active: fits may run in other threads.
        parent = active_record(self._options().tracking)
        return FitMany(self, dataset, paramMaps, max(1, min(fits, default=1)), parent)

    def _fit(self, dataset: DataFrame) -> KerasModel:
        job, rows = self._checked(dataset)
        return self._train(dataset.sparkSession, job, functools.partial(self._convert, rows, job), dataset.inputFiles)

    def _convert(self, rows: DataFrame, job: Job, workspace: Store) -> ConvertedDataset:
        factors = self._class_factors(rows, job.packing)
        return convert_rows(rows, replace(job.packing, factors=factors), workspace)

    def _checked(self, dataset: DataFrame) -> tuple[Job, DataFrame]:
        """A fit, checked; and its rows, those of validationData among them."""
        options = marking(self._options())
        job = check(self, marked_schema(dataset.schema, options), options)
        return job, marked(dataset, options, job.packing.columns)

    @redacted_errors()
    def _train(
        self,
        spark: SparkSession,
        job: Job,
        rows: Callable[[Store], ConvertedDataset],
        files: Callable[[], Sequence[str]],
        parent: str = "",
    ) -> KerasModel:
        """Train a checked fit.

        Args:
            spark: the session.
            job: the fit.
            rows: converts them into the workspace that it is given, if they aren't converted.
            files: tells what they were read from.
            parent: the id of the tracker's record below which this fit's is opened; empty for none.
        """
        options = job.options
        for note in job.notes:
            warn(note, 2)
        settings = LaunchSettings.of(options)
        check_cluster(spark, options.num_workers, settings)
        told = tracker(
            options.tracking,
            experiment_name=options.experiment_name,
            run_name=options.run_name,
            registered_model_name=options.registered_model_name,
            parent=parent,
        )
        facts = self._facts(spark, job.name, options, settings)
        with Workspace(options.cache_dir, _master(spark)) as workspace, Record(told, *facts) as record:
            if options.checkpoint_dir:
                kept = Store.at(options.checkpoint_dir)
            else:
                kept = workspace.child("checkpoints")
                record.open()  # there is no other fit that this one goes on with
            kept.make()
            diagnosis.quick(spark, options.num_workers, [workspace, kept], settings, job.modules)
            if record.written:
                log_fit(record, job, self)
            converted = rows(workspace)
            check_rows(converted, job.packing, options)
            if record.written:
                log_rows(record, converted, job, files)
            workspace.write(INITIAL_MODEL, job.content)
            validated = converted.rows(validation=True) > 0
            plan = TrainPlan(
                options=options.part(TrainingOptions),
                monitor=options.monitor or ("val_loss" if validated else "loss"),
                dataset=converted,
                workspace=workspace,
                checkpoints=kept,
                custom_objects=job.custom_objects,
                callbacks=job.callbacks,
                class_weights=self._class_weights(converted),
                learning_rate=job.learning_rate,
                augment=job.augment,
                reader="petastorm",
            )
            assessed = job.head if record.written and validated and can_assess(job.head) else None
            trained = train_on_ranks(spark, plan, settings, job, record, assessed)
            fitted = self._fitted(workspace.read(trained.result.model_file), job, trained)
            if record.written:
                more = {_PROFILE_ARTIFACT: lambda: workspace.read(PROFILE)} if options.profile else {}
                log_result(record, trained, fitted, job, more)
        return _with_unlogged(fitted, told.unlogged)

    def _check_outputs(self, shape: ModelShape) -> None:
        """Refuse a model whose outputs aren't those of the task, with a ModelError."""

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """The loss for a model that has none; None where only the user can say."""
        return None

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        """What the model's outputs mean."""
        widths = [(output.name, math.prod(output.shape)) for output in shape.outputs]
        if len(widths) > 1:
            return SeveralOutputs(tuple(widths))
        return Regression() if widths[0][1] == 1 else TensorOutput(widths[0][1])

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        """The number of classes where an output's labels are class indices."""
        sparse = loss.name in OF_CLASS_INDICES and len(output.shape) == 1
        return output.shape[-1] if sparse else None

    def _class_factors(self, frame: DataFrame, packing: Packing) -> tuple[float, ...]:
        """How often a row of each class is written for training, which takes a Spark job; empty where each is once."""
        return ()

    def _class_weights(self, converted: ConvertedDataset) -> tuple[float, ...]:
        """The weight of each class in training; empty where they all weigh 1."""
        return ()

    def _facts(
        self, spark: SparkSession, model: str, options: EstimatorOptions, settings: LaunchSettings
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What the tracker is told at the beginning: params, and tags."""
        import tensorflow as tf

        params = {
            name: named(value) if name in OBJECTS else value
            for name, value in options.by_name().items()
            if value is not None and name not in ("model", "validationData")
        }
        tags = {
            "uid": self.uid,
            "estimator": type(self).__name__,
            "model": model,
            "spark": spark.version,
            "master": _master(spark),
            "application": spark.conf.get("spark.app.id", "") or "",
            "gpus": f"{options.num_workers * task_gpus(setting_of(spark), settings):g}",
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("spark_dl", "keras", "horovod")},
            "tensorflow": tf.__version__,
        }
        return params, {f"spark_dl.{name}": value for name, value in tags.items()}

    def _fitted(self, content: bytes, job: Job, trained: Trained) -> KerasModel:
        result = trained.result
        summary = TrainingSummary(
            history=result.history,
            first_epoch=job.options.initial_epoch,
            rows=result.rows,
            validation_rows=result.validation_rows,
            seconds=result.seconds,
            rows_per_second=statistics.median([one["rows_per_second"] for one in trained.epochs] or [0.0]),
            best_epoch=result.best_epoch,
            non_finite=result.non_finite,
        )
        model = self.model_class()._with_content(
            content, job.custom_objects, job.inputs, job.outputs, job.head, job.feature_columns, summary
        )
        model._resetUid(self.uid)
        return self._copyValues(model)


def _with_unlogged(fitted: KerasModel, unlogged: list[dict[str, Any]]) -> KerasModel:
    """The model, with what could not be logged kept beside it, and said."""
    if unlogged:
        fitted.summary = replace(fitted.summary, unlogged=unlogged)
        warn(f"Not logged: {len(unlogged)} entries; they are in the fitted model's summary.unlogged.", 2)
    return fitted


def _master(spark: SparkSession) -> str:
    return spark.conf.get("spark.master", "") or ""
