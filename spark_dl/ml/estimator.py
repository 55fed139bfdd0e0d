"""The general estimator, and the steps of `fit` that all estimators share."""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pyspark.ml.base import Estimator
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession

from spark_dl import diagnosis
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.specs import ConversionSpec
from spark_dl.fit.attempts import train_on_ranks
from spark_dl.fit.callback_checks import pickle_callbacks
from spark_dl.fit.conversion import check_rows, convert_rows
from spark_dl.fit.converted import ConvertedData
from spark_dl.fit.heads import general_head
from spark_dl.fit.input_plan import InputPlan
from spark_dl.fit.label_checks import class_count
from spark_dl.fit.spec import FitSpec, build_fit_spec
from spark_dl.fit.trained import Trained
from spark_dl.fit.validation import marked, marked_schema, marking
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.io.workspace import Workspace
from spark_dl.launch.pool import RankPool
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
from spark_dl.score.heads import Head
from spark_dl.spark.row_source import RowSource
from spark_dl.spark.session import master_of
from spark_dl.track import active_record
from spark_dl.train.plan import INITIAL_MODEL, FederatedRounds, PrivateSteps, TrainPlan

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["KerasEstimator"]

_log = logging.getLogger(__name__)


@with_options(EstimatorOptions)
class KerasEstimator(SavableEstimator, Estimator["KerasModel"]):
    """Estimator that trains any Keras model with any loss on Horovod ranks in Spark's executors.

    The fitted `KerasModel` writes the model's output to `predictionCol`: a double for a single output unit, else an
    array of floats, or a Vector (`outputFormat`). It writes each of several outputs to a separate column.

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
    # Set by `spark_dl.privacy.DPSGD`: the settings of private steps for a number of training rows.
    _private_steps: Callable[[int, EstimatorOptions], PrivateSteps] | None = None
    # Set by `spark_dl.federated.fit`.
    _federated: FederatedRounds | None = None

    def plan(self, dataset: DataFrame) -> InputPlan:
        """Return the mapping of columns to the model's inputs and outputs, without a Spark job.

        Args:
            dataset: The DataFrame to pass to `fit`.

        Returns:
            A table to print: `print(estimator.plan(df))`. `fit` logs it as the run's artifact `columns.txt`.

        Raises:
            SparkDLError: `fit` would raise the same error before its first Spark job.
        """
        spec, _ = self._checked(dataset)
        return spec.plan

    @redacted_errors()
    def convert(self, dataset: DataFrame) -> ConvertedData:
        """Convert a DataFrame once for several fits by `fitOnDataset`.

        The converted rows stay in cacheDir until the result is closed.

        Args:
            dataset: The DataFrame to pass to `fit`.

        Raises:
            DataError: A column or a value can't be converted for the model.
        """
        return self._converted(*self._checked(dataset))

    def _converted(self, spec: FitSpec, rows: DataFrame) -> ConvertedData:
        spark, options = rows.sparkSession, spec.options
        settings = LaunchSettings.of(options)
        check_cluster(spark, options.num_workers, settings)
        storage = StorageOptions.of(options.storage_options)
        with redacted_errors(storage.secrets), contextlib.ExitStack() as owned:
            workspace = owned.enter_context(Workspace(options.cache_dir, master_of(spark), storage))
            diagnosis.preflight(spark, options.num_workers, [workspace], settings, spec.modules)
            converted = self._convert(rows, spec, workspace)
            return ConvertedData.of(rows, converted, spec.conversion, spec.plan, owned.pop_all())

    def fitOnDataset(self, converted: ConvertedData, params: Mapping[Param[Any], Any] | None = None) -> KerasModel:
        """Fit on rows that `convert` has converted.

        Args:
            converted: The converted rows. Several fits may read them, in sequence or in parallel.
            params: Param values that override the estimator's for this fit.

        Raises:
            DataError: The rows were converted with other columns or options, or are too few.
            StoreError: The converted rows have been removed.
        """
        estimator = self.copy(dict(params)) if params else self
        spec = build_fit_spec(estimator, converted.schema, marking(estimator._options()))
        return estimator._fit_converted(spec, converted)

    def _fit_converted(self, spec: FitSpec, converted: ConvertedData, parent: str = "") -> KerasModel:
        dataset = converted.dataset_for(spec.conversion)
        return self._train(converted.spark, spec, lambda workspace: dataset, lambda: converted.source, parent)

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Mapping[Param[Any], Any]]) -> FitMany[KerasModel]:
        """Fit one model per param map; fits that need the same conversion share the converted rows.

        Args:
            dataset: The DataFrame.
            paramMaps: The param maps, one per fit.

        Returns:
            A thread-safe iterator of (index of the param map, fitted model). The number of parallel fits is limited by
            the cluster's slots. If an MLflow run is active, each fit has a nested run below it.
        """
        estimators = [self.copy(dict(params)) for params in paramMaps]
        options = [estimator._options() for estimator in estimators]
        for one in options:  # checks the callbacks of all fits before the first one starts
            pickle_callbacks(one.callbacks, one.model, one.optimizer)
        spark = dataset.sparkSession
        fits = [
            (slots_of(master_of(spark), setting_of(spark), LaunchSettings.of(one)) or 0) // one.num_workers
            for one in options
        ]
        # Read here, in the caller's thread, as the active run is thread-local and fits may run in other threads.
        parent = active_record(self._options().tracking)
        return FitMany(estimators, dataset, max(1, min(fits, default=1)), parent)

    def _fit(self, dataset: DataFrame) -> KerasModel:
        spec, rows = self._checked(dataset)
        source = functools.partial(RowSource.of, dataset)
        return self._train(dataset.sparkSession, spec, functools.partial(self._convert, rows, spec), source)

    def _convert(self, rows: DataFrame, spec: FitSpec, workspace: Store) -> ConvertedDataset:
        factors = self._class_factors(rows, spec.conversion)
        return convert_rows(rows, replace(spec.conversion, factors=factors), workspace)

    def _checked(self, dataset: DataFrame) -> tuple[FitSpec, DataFrame]:
        """Build the specification of a fit; return it with the DataFrame, to which validationData is appended."""
        options = marking(self._options())
        spec = build_fit_spec(self, marked_schema(dataset.schema, options), options)
        return spec, marked(dataset, options, spec.conversion.columns)

    @redacted_errors()
    def _train(
        self,
        spark: SparkSession,
        spec: FitSpec,
        rows: Callable[[Store], ConvertedDataset],
        source: Callable[[], RowSource],
        parent: str = "",
        pool: RankPool | None = None,
    ) -> KerasModel:
        """Train a model by a checked specification.

        Args:
            spark: The Spark session.
            spec: The specification of the fit.
            rows: Takes the workspace and returns the converted dataset.
            source: Returns the files and tables that the DataFrame was read from.
            parent: The id of the parent record at the tracker; empty for none.
            pool: The pool of the ranks; None for ranks that end with the fit.
        """
        options, settings = spec.options, LaunchSettings.of(spec.options)
        for note in spec.notes:
            warn(note)
        check_cluster(spark, options.num_workers, settings)
        _log.info("Checked the options, the columns and the model.")
        storage = StorageOptions.of(options.storage_options)
        with (
            Workspace(options.cache_dir, master_of(spark), storage) as workspace,
            FitLog(self, spec, spark, parent, self._federated.params if self._federated else None) as log,
            redacted_errors(storage.secrets),
        ):
            own = Store.at(options.checkpoint_dir, storage) if options.checkpoint_dir else None
            checkpoints = own or workspace.child("checkpoints")
            checkpoints.make()
            log.open(resumable=bool(options.checkpoint_dir))
            diagnosis.preflight(spark, options.num_workers, [workspace, checkpoints], settings, spec.modules)
            log.fit()
            converted = rows(workspace)
            check_rows(converted, spec.conversion, options)
            log.rows(converted, source)
            plan = self._train_plan(spec, converted, workspace, checkpoints)
            trained = train_on_ranks(spark, plan, settings, spec, log.record, log.evaluation(converted), pool)
            fitted = self._fitted(workspace.read(trained.result.model_file), spec, trained, log.record.open())
            log.result(trained, fitted, workspace)
        return log.with_unlogged(fitted)

    def _train_plan(
        self, spec: FitSpec, converted: ConvertedDataset, workspace: Store, checkpoints: Store
    ) -> TrainPlan:
        """Write the initial model to the workspace, and build the training plan."""
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
            class_weights=self._class_weights(spec, converted),
            learning_rate=spec.learning_rate,
            augment=spec.augment,
            reader=spec.options.reader,
            state_rules=spec.state_rules,
            asks_driver=spec.options.on_epoch is not None,
            privacy=self._private_steps(converted.rows(validation=False), spec.options)
            if self._private_steps
            else None,
            federated=self._federated,
        )

    def _check_outputs(self, shape: ModelShape) -> None:
        """Check that the model's outputs fit the task; raise a ModelError otherwise."""

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """Return the loss for a model that is compiled without one; None if there is no default."""
        return None

    def _default_metrics(self, shape: ModelShape, loss: Any, model: Any) -> Any:
        """Return the metrics for a model without metrics; None for no others than the model's own."""
        return None

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        """Return the meaning of the model's outputs."""
        return general_head(shape)

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        """Return the number of classes if an output's labels are class indices, else None."""
        return class_count(output.shape, loss)

    def _class_factors(self, frame: DataFrame, conversion: ConversionSpec) -> tuple[float, ...]:
        """Return how often a training row of each class is written, by a Spark job; empty if each is written once."""
        return ()

    def _class_weights(self, spec: FitSpec, converted: ConvertedDataset) -> tuple[float, ...]:
        """Return the weight of each class in training; empty if all weigh 1."""
        return ()

    def _fitted(self, content: bytes, spec: FitSpec, trained: Trained, run_id: str) -> KerasModel:
        result = trained.result
        summary = TrainingSummary(
            history=result.history,
            first_epoch=spec.options.initial_epoch,
            rows=result.rows,
            validation_rows=result.validation_rows,
            seconds=result.seconds,
            rows_per_second=statistics.median([report.speed.rows_per_second for report in trained.epochs] or [0.0]),
            best_epoch=result.best_epoch,
            non_finite=result.non_finite,
            run_id=run_id,
        )
        return self._model_of(content, spec, summary)

    def _model_of(self, content: bytes, spec: FitSpec, summary: TrainingSummary) -> KerasModel:
        """Return the fitted model of a fit with this specification, with this estimator's params."""
        model = self.model_class()._with_content(
            content, spec.custom_objects, spec.inputs, spec.outputs, spec.head, spec.feature_columns, summary
        )
        model._resetUid(self.uid)
        return self._copyValues(model)
