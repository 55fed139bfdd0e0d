"""What all estimators share: `fit` as a list of named steps."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyspark.ml.base import Estimator
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession

from spark_dl import diagnosis
from spark_dl.data.convert import ConversionSpec
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.label_rules import OF_CLASS_INDICES
from spark_dl.fit.attempts import Trained, train_on_ranks
from spark_dl.fit.callback_checks import pickle_callbacks
from spark_dl.fit.conversion import check_rows, convert_rows
from spark_dl.fit.converted import ConvertedData
from spark_dl.fit.input_plan import InputPlan
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.fit.validation import marked, marked_schema, marking
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import check_cluster, setting_of, slots_of
from spark_dl.ml.fit_log import FitLog
from spark_dl.ml.fit_many import FitMany
from spark_dl.ml.model import KerasModel
from spark_dl.ml.params import with_options
from spark_dl.ml.savable_estimator import SavableEstimator
from spark_dl.ml.summary import TrainingSummary
from spark_dl.options import EstimatorOptions, TrainingOptions
from spark_dl.redaction import redacted_errors, warn
from spark_dl.score.heads import Head, Regression, SeveralOutputs, TensorOutput
from spark_dl.spark.session import master_of
from spark_dl.track import active_record
from spark_dl.train.plan import INITIAL_MODEL, PROFILE, TrainPlan

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

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
        spec, _ = self._checked(dataset)
        return spec.plan

    @redacted_errors()
    def convert(self, dataset: DataFrame) -> ConvertedData:
        """Convert a DataFrame once, for several fits by `fitOnDataset`. Its rows lie in cacheDir until they are closed.

        Args:
            dataset: what `fit` would be given.

        Raises:
            DataError: columns or rows that can't be fed.
        """
        return self._converted(*self._checked(dataset))

    def _converted(self, spec: FitSpec, rows: DataFrame) -> ConvertedData:
        spark, options = rows.sparkSession, spec.options
        settings = LaunchSettings.of(options)
        check_cluster(spark, options.num_workers, settings)
        with contextlib.ExitStack() as owned:
            workspace = owned.enter_context(Workspace(options.cache_dir, master_of(spark)))
            diagnosis.preflight(spark, options.num_workers, [workspace], settings, spec.modules)
            converted = self._convert(rows, spec, workspace)
            return ConvertedData.of(rows, converted, spec.conversion, spec.plan, owned.pop_all())

    def fitOnDataset(self, converted: ConvertedData, params: Mapping[Param[Any], Any] | None = None) -> KerasModel:
        """`fit` on rows that `convert` has converted.

        Args:
            converted: the rows; several fits may read them, one after the other or at once.
            params: values for this fit alone.

        Raises:
            DataError: the rows were converted for other columns or options, or are too few.
        """
        estimator = self.copy(dict(params)) if params else self
        spec = build_fit_spec(estimator, converted.schema, marking(estimator._options()))
        return estimator._fit_converted(spec, converted)

    def _fit_converted(self, spec: FitSpec, converted: ConvertedData, parent: str = "") -> KerasModel:
        dataset = converted.dataset_for(spec.conversion)
        return self._train(converted.spark, spec, lambda workspace: dataset, lambda: converted.files, parent)

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
            (slots_of(master_of(spark), setting_of(spark), LaunchSettings.of(one)) or 0) // one.num_workers
            for one in options
        ]
        # Here, where the caller's run is active: fits may run in other threads.
        parent = active_record(self._options().tracking)
        return FitMany(self, dataset, paramMaps, max(1, min(fits, default=1)), parent)

    def _fit(self, dataset: DataFrame) -> KerasModel:
        spec, rows = self._checked(dataset)
        return self._train(dataset.sparkSession, spec, functools.partial(self._convert, rows, spec), dataset.inputFiles)

    def _convert(self, rows: DataFrame, spec: FitSpec, workspace: Store) -> ConvertedDataset:
        factors = self._class_factors(rows, spec.conversion)
        return convert_rows(rows, replace(spec.conversion, factors=factors), workspace)

    def _checked(self, dataset: DataFrame) -> tuple[FitSpec, DataFrame]:
        """A fit, checked; and its rows, those of validationData among them."""
        options = marking(self._options())
        spec = build_fit_spec(self, marked_schema(dataset.schema, options), options)
        return spec, marked(dataset, options, spec.conversion.columns)

    @redacted_errors()
    def _train(
        self,
        spark: SparkSession,
        spec: FitSpec,
        rows: Callable[[Store], ConvertedDataset],
        files: Callable[[], Sequence[str]],
        parent: str = "",
    ) -> KerasModel:
        """Train a checked fit.

        Args:
            spark: the session.
            spec: the fit.
            rows: converts them into the workspace that it is given, if they aren't converted.
            files: tells what they were read from.
            parent: the id of the tracker's record below which this fit's is opened; empty for none.
        """
        options, settings = spec.options, LaunchSettings.of(spec.options)
        for note in spec.notes:
            warn(note, 2)
        check_cluster(spark, options.num_workers, settings)
        with Workspace(options.cache_dir, master_of(spark)) as workspace, FitLog(self, spec, spark, parent) as log:
            checkpoints = Store.at(options.checkpoint_dir) if options.checkpoint_dir else workspace.child("checkpoints")
            checkpoints.make()
            log.open(resumable=bool(options.checkpoint_dir))
            diagnosis.preflight(spark, options.num_workers, [workspace, checkpoints], settings, spec.modules)
            log.fit()
            converted = rows(workspace)
            check_rows(converted, spec.conversion, options)
            log.rows(converted, files)
            plan = self._train_plan(spec, converted, workspace, checkpoints)
            trained = train_on_ranks(spark, plan, settings, spec, log.record, log.assessed(converted))
            fitted = self._fitted(workspace.read(trained.result.model_file), spec, trained)
            log.result(trained, fitted, workspace)
        return log.with_unlogged(fitted)

    def _train_plan(
        self, spec: FitSpec, converted: ConvertedDataset, workspace: Store, checkpoints: Store
    ) -> TrainPlan:
        """Write the initial model to the workspace, and put together what every rank gets."""
        workspace.write(INITIAL_MODEL, spec.content)
        validated = converted.rows(validation=True) > 0
        return TrainPlan(
            options=spec.options.part(TrainingOptions),
            monitor=spec.options.monitor or ("val_loss" if validated else "loss"),
            dataset=converted,
            workspace=workspace,
            checkpoints=checkpoints,
            custom_objects=spec.custom_objects,
            callbacks=spec.callbacks,
            class_weights=self._class_weights(converted),
            learning_rate=spec.learning_rate,
            augment=spec.augment,
            reader="petastorm",
        )

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

    def _class_factors(self, frame: DataFrame, conversion: ConversionSpec) -> tuple[float, ...]:
        """How often a row of each class is written for training, which takes a Spark job; empty where each is once."""
        return ()

    def _class_weights(self, converted: ConvertedDataset) -> tuple[float, ...]:
        """The weight of each class in training; empty where they all weigh 1."""
        return ()

    def _fitted(self, content: bytes, spec: FitSpec, trained: Trained) -> KerasModel:
        result = trained.result
        summary = TrainingSummary(
            history=result.history,
            first_epoch=spec.options.initial_epoch,
            rows=result.rows,
            validation_rows=result.validation_rows,
            seconds=result.seconds,
            rows_per_second=statistics.median([one["rows_per_second"] for one in trained.epochs] or [0.0]),
            best_epoch=result.best_epoch,
            non_finite=result.non_finite,
        )
        model = self.model_class()._with_content(
            content, spec.custom_objects, spec.inputs, spec.outputs, spec.head, spec.feature_columns, summary
        )
        model._resetUid(self.uid)
        return self._copyValues(model)
