"""The content of a fitted model from any Keras model, without a fit, by the same checks as a fit's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import types as T

from spark_dl.data.label_rules import OF_CLASS_INDICES
from spark_dl.data.schema import spark_type
from spark_dl.errors import DataError, ModelError
from spark_dl.fit.checks import check_class
from spark_dl.fit.columns import InputFacts, OutputFacts, check_null_policy, feature_specs, input_columns
from spark_dl.fit.label_checks import class_count, label_rule
from spark_dl.fit.open_inputs import opened
from spark_dl.fit.padding_check import check_padding
from spark_dl.fit.spec import shaped_model
from spark_dl.launch.pickling import pickle_for_ranks
from spark_dl.options import EstimatorOptions
from spark_dl.score.heads import Classification, Head, Tagging

if TYPE_CHECKING:
    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["ImportedModel", "MakeHead", "import_model"]

# Numbers of a row's last axis that an image has.
_CHANNELS = (1, 3, 4)

# Takes the model's shape, the facts of its loss (None for a model without one), the model and the options.
MakeHead = Callable[["ModelShape", "LossFacts | None", Any, Any], Head]


@dataclass(frozen=True)
class ImportedModel:
    """The content of a fitted model that was made without a fit.

    Attributes:
        content: The `.keras` bytes, with the layers of transformFn in front.
        custom_objects: The cloudpickled dict of custom objects that Keras needs by name.
        inputs: The model's inputs.
        outputs: The model's outputs.
        head: The meaning of the model's outputs.
        columns: The Spark types of the feature columns; None if they don't follow from the model's inputs.
    """

    content: bytes
    custom_objects: bytes
    inputs: tuple[InputFacts, ...]
    outputs: tuple[OutputFacts, ...]
    head: Head
    columns: T.StructType | None


def import_model(options: EstimatorOptions, make_head: MakeHead, schema: T.StructType | None = None) -> ImportedModel:
    """Check a Keras model as a fit does, and make a fitted model's content of it, without a Spark job.

    Args:
        options: The options; `model`, the columns, columnShapes, transformFn and those of the output are read.
        make_head: Checks the outputs and returns their meaning.
        schema: A schema with the feature columns; None for types that follow from the model's inputs.

    Raises:
        OptionError: Options can't be used, or don't fit the model.
        ModelError: The model can't score columns, or its outputs don't fit the task.
        DataError: A column of the schema is missing, or its type or shape doesn't fit the model.
    """
    import keras

    from spark_dl.train.model.batch_size import check_any_batch
    from spark_dl.train.model.carrying import keras_reducer
    from spark_dl.train.model.round_trip import refuse_forgotten
    from spark_dl.train.model.serialization import custom_objects, from_bytes, to_bytes

    check_class(options.model, trained=False)
    model, shape, ragged = shaped_model(options.model, options, schema)
    objects = custom_objects(model)
    with keras.saving.custom_object_scope(objects):
        content = to_bytes(model)
        copy = from_bytes(content)
        refuse_forgotten(model, copy)
        check_any_batch(copy)
    _check_columns(copy, shape, ragged, options)
    losses = _losses(copy, shape)
    head = make_head(shape, losses[0], copy, options)
    inputs = tuple(
        InputFacts(one.name, opened(one.shape) if one.name in ragged else one.shape, one.dtype) for one in shape.inputs
    )
    return ImportedModel(
        content,
        pickle_for_ranks("A custom object of the model", objects, reduce=keras_reducer(options.model)).content,
        inputs,
        tuple(_facts(one, loss, head) for one, loss in zip(shape.outputs, losses, strict=True)),
        head,
        _usual_columns(options, inputs) if schema is None else _columns(schema, options, inputs),
    )


def _check_columns(model: Any, shape: ModelShape, ragged: Mapping[str, str], options: EstimatorOptions) -> None:
    """Check what a fit checks of options that name columns: that they feed inputs, and that padding is masked."""
    named, _ = input_columns(options, [one.name for one in shape.inputs])
    columns = list(dict.fromkeys(name for names in named.values() for name in names))
    check_padding(options, columns)
    check_null_policy(options, columns)
    if ragged:
        from spark_dl.train.model.open_lengths import check_padding_is_masked

        pads = {name: (options.padding or {})[column] for name, column in ragged.items()}
        check_padding_is_masked(model, {one.name: (one.shape, one.dtype) for one in shape.inputs}, pads, ragged)


def _losses(model: Any, shape: ModelShape) -> Sequence[LossFacts | None]:
    """Return the facts of the losses that the model was compiled with; None for each output if they aren't known."""
    from spark_dl.train.model.losses import losses_of

    unknown = [None] * len(shape.outputs)
    if not model.compiled or getattr(model, "loss", None) is None:
        return unknown
    try:
        return losses_of(model.loss, shape)
    except ModelError:  # such as no loss for one of the outputs, which only a fit refuses
        return unknown


def _facts(output: ModelOutput, loss: LossFacts | None, head: Head) -> OutputFacts:
    """Return an output, with what evaluate needs to know of its labels."""
    classes = None
    if isinstance(head, Tagging):
        classes = head.classes
    elif isinstance(head, Classification) and loss is not None:
        classes = head.classes if loss.name in OF_CLASS_INDICES or output.shape == (1,) else None
    elif loss is not None:
        classes = class_count(output.shape, loss)
    name = "" if loss is None else label_rule(loss, isinstance(head, (Classification, Tagging)))
    return OutputFacts(output.name, output.shape, classes, name, None if loss is None else loss.ignored)


def _columns(schema: T.StructType, options: EstimatorOptions, inputs: Sequence[InputFacts]) -> T.StructType:
    """Return the feature columns of a schema, each once."""
    specs = feature_specs(schema, options, inputs)
    names = dict.fromkeys(column.name for spec in specs for column in spec.columns)
    return T.StructType([T.StructField(name, schema[name].dataType) for name in names])


def _usual_columns(options: EstimatorOptions, inputs: Sequence[InputFacts]) -> T.StructType | None:
    """Return columns of the types that the inputs take as they are; None if an input also takes others.

    These are images, which come as files or as arrays, and several columns for one input of which one is an array.
    """
    columns, _ = input_columns(options, [one.name for one in inputs])
    types = [(name, _usual_type(one, len(columns[one.name]))) for one in inputs for name in columns[one.name]]
    schema = T.StructType([T.StructField(name, kind) for name, kind in dict(types).items() if kind is not None])
    if len(schema) < len(dict(types)):
        return None
    try:
        return _columns(schema, options, inputs)
    except DataError:
        return None


def _usual_type(given: InputFacts, columns: int) -> T.DataType | None:
    """Return the Spark type of each of the columns of an input; None if it isn't certain."""
    if given.dtype == "string":
        return T.StringType() if math.prod(given.shape) == 1 else T.ArrayType(T.StringType())
    number = spark_type(_signed(given.dtype))
    if columns > 1 or math.prod(given.shape) == 1:
        return number
    if len(given.shape) == 3 and given.shape[-1] in _CHANNELS:
        return None
    kind: T.DataType = number
    for _ in given.shape:
        kind = T.ArrayType(kind)
    return kind


def _signed(dtype: str) -> str:
    """Return the smallest dtype of Spark's numbers that holds all numbers of a dtype, or the greatest there is."""
    known = ("int8", "int16", "int32", "int64") if np.dtype(dtype).kind in "iu" else ("float32", "float64")
    return next((name for name in known if np.can_cast(dtype, name)), known[-1])
