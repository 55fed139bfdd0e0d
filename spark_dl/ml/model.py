"""The fitted model: a Transformer that scores DataFrames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.ml.base import Model
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import ModelError, OptionError, SavedModelError, explain, hint
from spark_dl.figures import history_figure
from spark_dl.fit.columns import check_outputs, feature_specs, output_columns
from spark_dl.fit.reconstruction import check_error_col, features_and_labels
from spark_dl.fit.row_columns import weight_and_shape
from spark_dl.io.payload import Payload
from spark_dl.io.storage_options import StorageOptions
from spark_dl.io.store import Store
from spark_dl.log_values import scalar_history
from spark_dl.ml.fetched import fetched_model
from spark_dl.ml.fitted_content import FittedContent
from spark_dl.ml.fixed_batch import check_saved_batch
from spark_dl.ml.from_keras import FromKeras, refuse_uncompiled
from spark_dl.ml.html import model_html, model_text
from spark_dl.ml.params import with_options
from spark_dl.ml.savable_objects import refuse_missing
from spark_dl.ml.shrinking import Shrinking
from spark_dl.ml.sql_function import sql_function
from spark_dl.options import FittedOptions
from spark_dl.redaction import redacted_errors
from spark_dl.score.bulk import Source, score_parquet
from spark_dl.score.evaluate import Evaluation, evaluate
from spark_dl.score.heads import Head, Reconstruction, SeveralOutputs, TensorOutput
from spark_dl.score.predict import check_new, score
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.score.serving import Serving
from spark_dl.spark.session import use_driver_python

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KerasModel"]

# Prefixes of MLflow's model URIs.
_OF_MLFLOW = ("models:/", "runs:/")


@with_options(FittedOptions)
class KerasModel(Shrinking, FittedContent, FromKeras, Model):
    """Keras model as a Transformer, made by `KerasEstimator.fit` or `fromKeras`, or loaded by `KerasModel.load`.

    Example:

        >>> import keras, tempfile
        >>> from pyspark.sql import SparkSession
        >>> from spark_dl import KerasEstimator
        >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
        >>> train = spark.range(100).selectExpr("array(id / 100) AS features", "id / 50 AS label")
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fitted = KerasEstimator(model=model, loss="mse", tracking=None, verbose=0).fit(train)
        >>> fitted.summary.rows
        100
        >>> fitted.keras().count_params()
        2
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     fitted.save(f"{directory}/model")
        ...     loaded = KerasModel.load(f"{directory}/model")
        >>> loaded.registerUdf(spark, "priced")
        >>> same = loaded.transform(train).where("abs(priced(features) - prediction) < 1e-6")
        >>> same.count()
        100
        >>> spark.stop()

    Attributes:
        summary: The training summary.
    """

    def __repr__(self) -> str:
        return model_text(self, self._inputs, self._outputs)

    def _repr_html_(self) -> str:
        return model_html(self, self._inputs, self._outputs, self.summary)

    @classmethod
    def load(cls, path: str) -> Any:
        """Load a saved model from a path, or from MLflow.

        Args:
            path: A path or URL that Spark can read, or an MLflow URI such as "models:/name@alias" or "runs:/run/model".

        Raises:
            SavedModelError: There is no model, or it is damaged, of another class, or of a newer release.
        """
        if not path.startswith(_OF_MLFLOW):
            return super().load(path)
        found = fetched_model(path)
        if not isinstance(found, cls):
            raise SavedModelError(
                explain(
                    f"{path} can't be loaded.",
                    expected=cls.__name__,
                    received=f"a {type(found).__name__}",
                    fix=f"Call {type(found).__name__}.load.",
                )
            )
        return found

    def keras(self) -> Any:
        """Return the trained model as a plain Keras model, compiled as in training; a new object at each call.

        Raises:
            SavedModelError: The instance holds no model, or its compile options need functions that weren't saved.
        """
        from spark_dl.train.model.serialization import from_bytes

        content, objects = self._fitted_content(), self._named_objects()
        refuse_missing(content, objects)
        return from_bytes(content, objects)

    def plotHistory(self) -> Figure:
        """Plot the loss and the metrics over the training epochs.

        Returns:
            A matplotlib Figure: a picture as a notebook cell's last line, and a file by `savefig`.

        Raises:
            ModelError: The model has no training history.
        """
        if not self.summary.history:
            raise ModelError(
                explain(
                    "There is no history to plot.",
                    expected="a model made by fit",
                    received="summary.history={}",
                    fix="Plot the model that fit returned: a Pipeline's stage, or a saved model made by fit.",
                )
            )
        return history_figure(scalar_history(self.summary.history), self.summary.first_epoch)

    def evaluate(self, dataset: DataFrame) -> dict[str, Any]:
        """Compute the loss and the metrics on a DataFrame, as `keras.Model.evaluate` does.

        Spark tasks compute them in parallel. The tasks' metric states are joined, as in training, so that the result is
        that of all rows together. A custom metric whose states can't be joined is computed by one task.

        Args:
            dataset: A DataFrame with the feature columns, the label columns, and the weight column if weightCol is set.

        Returns:
            A dict of "loss" and each metric by its name in Keras. A metric with several values, such as one per class,
            is a list.

        Raises:
            ModelError: The model isn't compiled, was saved by a release that didn't save its outputs, or a metric has
                state outside its variables.
            DataError: A column or a value can't be converted for the model, or there are no rows.
        """
        self._fitted_content()
        if not self._outputs:
            raise ModelError(
                explain(
                    "This model can't be evaluated.",
                    expected="a model that was fitted or saved by this release",
                    received="one that was saved by an older release",
                    fix="Use its keras(), or an evaluator on the columns of transform.",
                )
            )
        refuse_uncompiled(self._fitted_content())
        use_driver_python(dataset.sparkSession)
        return evaluate(dataset, self._evaluation(dataset.schema))

    def _evaluation(self, columns: StructType) -> Evaluation:
        """Return the specification of an evaluation on rows of a DataFrame with this schema."""
        options = self._options()
        weight, weight_shape = weight_and_shape(columns, options, self._outputs)
        features, labels = features_and_labels(columns, options, self._inputs, self._outputs)
        conversion = ConversionSpec(
            store=Store(""),
            features=features,
            labels=labels,
            weight=weight,
            weight_shape=weight_shape,
        )
        refuse_missing(self._fitted_content(), self._named_objects())
        custom = self._carried_objects()
        return Evaluation(Payload(self._fitted_content()), custom, conversion, options.score_batch_size)

    def registerUdf(self, spark: SparkSession, name: str, output: str = "prediction") -> None:
        """Register the model as a Spark SQL function: `SELECT name(features) FROM ...`.

        The function's arguments are the feature columns in the order of featuresCol or inputCols. A Vector is passed
        as a dense array.

        Args:
            spark: The Spark session.
            name: The name of the function.
            output: The field of `transform`'s result to return, such as "prediction" (a double, or an array of
                numbers), "probability" (an array of doubles), "error" (a double, with errorCol), or the name of one of
                several outputs.

        Raises:
            OptionError: The model has no such field.
        """
        content, head = self._scored()
        if output not in head.fields():
            raise OptionError(
                explain(
                    f"The model doesn't give {output!r}.",
                    expected=f"one of {', '.join(head.fields())}",
                    received=output,
                    fix=hint(output, head.fields()),
                )
            )
        use_driver_python(spark)
        options = self._options()
        model = self._scoring_model(content, head, ())
        spark.udf.register(name, sql_function(model.ship(spark), options, self._inputs, output))

    def scoreParquet(self, inputPath: str, outputPath: str, overwrite: bool = False) -> int:
        """Score Parquet files into Parquet files, as `transform` and a write do, but without rows passing the JVM.

        Args:
            inputPath: A directory or URL of Parquet files with the feature columns; driver and executors share it.
            outputPath: A new directory or URL for all columns of the input and the output columns. Spark reads a Vector
                from it as a Vector.
            overwrite: Whether to replace an existing outputPath, after all rows are scored.

        Returns:
            The number of rows.

        Raises:
            StoreError: inputPath can't be read, or outputPath exists.
            DataError: A column or a value can't be scored; outputPath is unchanged then.
        """
        spark = SparkSession.active()
        use_driver_python(spark)
        storage = StorageOptions.of(self._options().storage_options)
        with redacted_errors(storage.secrets):
            source = Source.at(spark, inputPath, storage)
            outputs = self._output_columns()
            check_new(spark, source.schema.names, outputs.values())
            return score_parquet(spark, source, outputPath, self._scoring(source.schema), outputs, overwrite)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        use_driver_python(dataset.sparkSession)
        return score(dataset, self._scoring(dataset.schema), self._output_columns())

    def _scoring(self, columns: StructType) -> ScoringModel:
        """Return the model that scores rows of a DataFrame with this schema."""
        content, head = self._scored()
        return self._scoring_model(content, head, feature_specs(columns, self._options(), self._inputs))

    def _serving(self) -> tuple[Serving, bytes]:
        """Return the serving record, for the feature columns of the fit, and the file of what is served, as bytes."""
        if self._columns is None:
            raise ModelError(
                explain(
                    "It isn't known what columns this model takes.",
                    expected="a model that was fitted by this release, or made by fromKeras with its schema",
                    received="one that was saved by an older release, or a model of images without a schema",
                    fix="Call fromKeras with schema=..., or use transform.",
                )
            )
        content, head = self._scored()
        options = self._options()
        features = feature_specs(self._columns, options, self._inputs)
        outputs, nulls = self._output_columns(), options.score_null_policy
        serving = Serving(features, head, outputs, options.score_batch_size, nulls, options.score_engine)
        return serving, self._served_file(content, features)

    def _scored(self) -> tuple[bytes, Head]:
        """Return the `.keras` bytes of the model that transform calls, cut at outputLayer, and its output's meaning."""
        options, content, head = self._options(), self._fitted_content(), self._fitted_head()
        check_saved_batch(content, self.keras)
        if layer := options.output_layer:
            import keras

            from spark_dl.train.model.keras_settings import apply_settings
            from spark_dl.train.model.serialization import from_bytes, settings_of
            from spark_dl.train.model.shape import up_to_layer

            with apply_settings(settings_of(content)), keras.saving.custom_object_scope(self._named_objects()):
                content, shape = up_to_layer(from_bytes(content, compiled=False), layer)
            head = TensorOutput.of(shape)
        if options.output_format == "vector" and isinstance(head, (TensorOutput, SeveralOutputs)):
            head = replace(head, vectors=True)
        if options.error_col and not options.output_layer:
            check_error_col(self._inputs, self._outputs, head)
            content, head = self._with_error(), Reconstruction(head)
        return content, head

    def _with_error(self) -> bytes:
        """Return the `.keras` bytes of the model with the error of each row as its last output."""
        import keras

        from spark_dl.train.model.keras_settings import apply_settings
        from spark_dl.train.model.reconstruction import with_error
        from spark_dl.train.model.serialization import settings_of

        content, objects = self._fitted_content(), self._named_objects()
        with apply_settings(settings_of(content)), keras.saving.custom_object_scope(objects):
            return with_error(content, self._inputs[0].shape)

    def _check_scoring(self) -> None:
        self._output_columns()
        if self._options().output_layer or self._options().error_col:
            self._scored()

    def _output_columns(self) -> dict[str, str]:
        """Return the output columns by the fields of the head."""
        options, head = self._options(), self._fitted_head()
        if options.output_layer:
            names = {"prediction": options.prediction_col}
        elif isinstance(head, SeveralOutputs):
            names = output_columns(options, list(head.fields()))
        else:
            names = {**options.columns_by_output, "error": options.error_col or ""}
        written = {field: name for field, name in names.items() if name}
        check_outputs(written, [])
        return written
