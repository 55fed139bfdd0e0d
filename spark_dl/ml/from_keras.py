"""`fromKeras`: a Transformer from any Keras model, without a fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from spark_dl.errors import ModelError, OptionError, explain, hint
from spark_dl.fit.heads import general_head
from spark_dl.fit.imported import import_model
from spark_dl.ml.params.option_params import OptionParams
from spark_dl.ml.summary import TrainingSummary
from spark_dl.options import EstimatorOptions, options_of
from spark_dl.redaction import redacted_errors
from spark_dl.score.heads import Head
from spark_dl.train.model.archive import config_text

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelShape

__all__ = ["FromKeras", "refuse_uncompiled"]


class FromKeras(OptionParams):
    """Base of fitted models that can be made from a Keras model without a fit."""

    # The record of an estimator's options of the same task, and which of its options fromKeras takes besides the
    # model's own: those that a fit puts into the model, so that the fitted model doesn't have them.
    _fit_options: ClassVar[type[EstimatorOptions]] = EstimatorOptions
    _only_fit: ClassVar[tuple[str, ...]] = ("columnShapes", "transformFn")

    @classmethod
    @redacted_errors()
    def fromKeras(cls, model: Any, schema: DataFrame | StructType | None = None, **options: Any) -> Self:
        """Make a Transformer from any Keras model, without a fit: a pretrained net, a generator, a tower, a part.

        The result scores, saves, logs and serves as a fitted model does, and `warmStart` takes it. The Keras model is
        copied. It needn't be compiled; `evaluate` needs its loss and metrics, and for a classifier the loss may tell
        logits from probabilities.

        Args:
            model: The Keras model, built. It is never changed.
            schema: A DataFrame or schema with the feature columns, whose types are checked now and become the inputs
                of the served model. Without it, the types follow from the model's inputs: numbers, arrays of the
                input's shape, or strings. Needed to log a model of images, which come as files, structs or arrays.
            options: Params of this class, such as featuresCol, inputCols, outputLayer or topK, and `columnShapes` and
                `transformFn`, as an estimator has them; of a classifier also `outputKind`.

        Raises:
            OptionError: Options can't be used, or don't fit the model.
            ModelError: The model can't score columns, or its outputs don't fit the task.
            DataError: A column of the schema is missing, or its type or shape doesn't fit the model.

        Example:

            >>> import keras
            >>> from pyspark.sql import SparkSession
            >>> from spark_dl import KerasModel
            >>> spark = SparkSession.builder.master("local[2]").getOrCreate()
            >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
            >>> rows = spark.range(4).selectExpr("array(float(id), float(1)) AS features")
            >>> KerasModel.fromKeras(net).transform(rows).columns
            ['features', 'prediction']
            >>> spark.stop()
        """
        own, for_fit = cls._split(options)
        fitted = cls(**own)
        record = cls._record({**fitted._options().by_name(), **for_fit, "model": model})
        columns = schema.schema if isinstance(schema, DataFrame) else schema
        if columns is not None and not isinstance(columns, StructType):
            raise OptionError(
                explain(
                    "schema can't be used.",
                    expected="a DataFrame or a pyspark StructType",
                    received=f"{schema!r} ({type(schema).__name__})",
                    fix="Pass the DataFrame, or its schema.",
                )
            )
        found = import_model(record, cls._made_head, columns)
        fitted._with_content(  # type: ignore[attr-defined]
            found.content,
            found.custom_objects,
            found.inputs,
            found.outputs,
            found.head,
            found.columns,
            TrainingSummary(),
        )
        fitted._check_scoring()
        return fitted

    @classmethod
    def _made_head(cls, shape: ModelShape, loss: LossFacts | None, model: Any, options: Any) -> Head:
        """Check that the model's outputs fit the task, and return their meaning."""
        return general_head(shape)

    def _check_scoring(self) -> None:
        """Check the options of the output, on the driver."""

    @classmethod
    def _split(cls, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split options into the params of this class and those that only a fit has."""
        names = [option.name for option in cls.options]
        for name in options:
            if name not in (*names, *cls._only_fit):
                raise OptionError(
                    explain(
                        f"{cls.__name__}.fromKeras has no option {name!r}.",
                        expected=f"a param of {cls.__name__}, {' or '.join(cls._only_fit)}",
                        received=name,
                        fix=hint(name, (*names, *cls._only_fit)),
                    )
                )
        of_fit = {name: value for name, value in options.items() if name not in names}
        return {name: value for name, value in options.items() if name in names}, of_fit

    @classmethod
    def _record(cls, values: Mapping[str, Any]) -> Any:
        """Return the options as an estimator of the same task has them."""
        known = {option.name: option.field for option in options_of(cls._fit_options)}
        given = {known[name]: value for name, value in values.items() if name in known}
        return cls._fit_options(**given).checked()


def refuse_uncompiled(content: bytes) -> None:
    """Check that a model has a loss and metrics to evaluate.

    Args:
        content: The `.keras` bytes.

    Raises:
        ModelError: The model isn't compiled.
    """
    if not json.loads(config_text(content)).get("compile_config"):
        raise ModelError(
            explain(
                "The model can't be evaluated: it isn't compiled.",
                expected="a model that was compiled with a loss and metrics",
                received="fromKeras with an uncompiled model",
                fix="Compile the Keras model before fromKeras, or use an evaluator on the columns of transform.",
            )
        )
