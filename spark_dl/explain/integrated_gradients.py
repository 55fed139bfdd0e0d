"""`IntegratedGradients`: a Transformer that adds each row's attributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.base import Transformer
from pyspark.sql import DataFrame

from spark_dl.data.columns import OPEN
from spark_dl.errors import ModelError, OptionError, explain, hint
from spark_dl.explain.checks import check_baseline, check_count, check_target
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.ml.model import KerasModel
from spark_dl.score.heads import Head, SeveralOutputs, TensorOutput
from spark_dl.score.predict import score
from spark_dl.score.scoring_model import ScoringModel
from spark_dl.spark.session import use_driver_python

if TYPE_CHECKING:
    from spark_dl.explain.attribution_model import AttributionModel

__all__ = ["IntegratedGradients"]


class IntegratedGradients(Transformer):
    """Transformer that adds the attribution of each input value to the model's output, by integrated gradients.

    The attributions of a row sum to the difference between the explained output for the row and for the baseline, up to
    the error of the quadrature. They don't depend on how rows are distributed among tasks. Indices and texts that go
    into Embedding layers have one attribution for each index; their baseline is masked where the row is. Inputs that
    the output doesn't depend on have zeros. For a quantized model the sums are some percent off, as its layers also
    round their inputs. It can be a stage of a PipelineModel, but can't be saved.

    Source: Sundararajan, Taly and Yan: Axiomatic Attribution for Deep Networks, ICML 2017 (arXiv:1703.01365).

    Args:
        model: The fitted model.
        outputCol: The new column, an array of floats, nested as the model's input is. A model with several inputs has
            a column for each, whose name is outputCol with _ and the input's name; an input of one number has a double.
        target: The index of the explained output unit; None for each row's largest, a classifier's predicted class.
        output: The name of the explained output of a model with several; "" for the first.
        baseline: The values that represent the absence of an input: one number for all inputs, or a dict by input name;
            for inputs that go into Embedding layers an index. 0 by default.
        steps: The number of gradients per row; more are more exact.
        batchSize: The number of rows that are explained at once.

    Raises:
        ModelError: The gradient isn't defined for an input, or there is no such input or output unit.
        OptionError: The model is no KerasModel, there is no such output, steps or batchSize is no integer from 1 on, or
            a value of the baseline is no finite number.
    """

    def __init__(
        self,
        model: KerasModel,
        *,
        outputCol: str = "attributions",
        target: int | None = None,
        output: str = "",
        baseline: float | Mapping[str, float] = 0.0,
        steps: int = 50,
        batchSize: int = 256,
    ) -> None:
        super().__init__()
        if not isinstance(model, KerasModel):
            raise OptionError(
                explain(
                    "The model can't be explained.",
                    expected="a fitted KerasModel; of a PipelineModel or a search's result that stage",
                    received=type(model).__name__,
                    fix="Fit the estimator first, make a KerasModel.fromKeras, or pass the Pipeline's Keras stage.",
                )
            )
        check_count("steps", steps)
        check_count("batchSize", batchSize)
        check_target(target)
        check_baseline(baseline)
        self._fitted, self._column, self._batch = model, outputCol, batchSize
        self._model = self._explained(target, output, baseline, steps)
        self._shapes = self._check()

    def _explained(
        self, target: int | None, output: str, baseline: float | Mapping[str, float], steps: int
    ) -> AttributionModel:
        from spark_dl.explain.attribution_model import AttributionModel  # late import: loads Keras
        from spark_dl.train.model.shape import shape_of

        model = self._fitted.keras()
        shape = shape_of(model)
        inputs, outputs = [one.name for one in shape.inputs], [one.name for one in shape.outputs]
        baselines = dict(baseline) if isinstance(baseline, Mapping) else dict.fromkeys(inputs, baseline)
        if output and output not in outputs:
            raise OptionError(
                explain(
                    f"The model has no output {output!r}.",
                    expected=f"one of {', '.join(outputs)}",
                    received=output,
                    fix=hint(output, outputs),
                )
            )
        index = outputs.index(output) if output else 0
        return AttributionModel(model, target=target, output=index, baselines=baselines, steps=steps)

    def _check(self) -> dict[str, tuple[int, ...]]:
        """Explain one row of zeros, which finds layers without a gradient; return the shape of each attribution."""
        import tensorflow as tf

        given, names = [], []
        for one in self._fitted._inputs:
            if OPEN in one.shape:
                raise ModelError(
                    explain(
                        f"The attributions of the input {one.name!r} have no fixed shape.",
                        expected="rows of one length",
                        received="padding without a length",
                        fix="Set the length of a row in columnShapes of the fit.",
                    )
                )
            given.append(
                tf.fill((1, *one.shape), "") if one.dtype == "string" else tf.zeros((1, *one.shape), one.dtype)
            )
            names.append(one.name)
        rows = dict(zip(names, given, strict=True)) if len(given) > 1 else given[0]
        try:
            found = self._model(rows)
        except ModelError:
            self._model.call(rows)  # the same error, to which Keras doesn't add the values of all arguments
            raise
        return {name: tuple(np.shape(one)[1:]) for name, one in zip(names, found, strict=True)}

    def _transform(self, dataset: DataFrame) -> DataFrame:
        from spark_dl.train.model.serialization import custom_objects, to_bytes

        use_driver_python(dataset.sparkSession)
        from spark_dl.train.model.carrying import keras_reducer

        objects = custom_objects(self._model)
        custom = pickle_for_ranks("A custom object of the model", objects, reduce=keras_reducer()).content
        features = self._fitted._scoring(dataset.schema).features
        nulls = self._fitted._options().score_null_policy
        scoring = ScoringModel.of(to_bytes(self._model), custom, features, self._head(), self._batch, nulls)
        return score(dataset, scoring, self._columns())

    def _head(self) -> Head:
        if len(self._shapes) == 1:
            return TensorOutput.of(next(iter(self._shapes.values())))
        return SeveralOutputs.of(self._shapes)

    def _columns(self) -> dict[str, str]:
        if len(self._shapes) == 1:
            return {"prediction": self._column}
        return {name: f"{self._column}_{name}" for name in self._shapes}

    def copy(self, extra: Any = None) -> IntegratedGradients:
        """Return itself: it has no params that a copy could change."""
        return self
