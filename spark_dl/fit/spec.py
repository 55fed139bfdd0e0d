"""A fit that has been checked: all that is known of it before any Spark job, and how that is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
from pyspark.sql.types import StructField, StructType

from spark_dl.data.convert import ConversionSpec
from spark_dl.fit.callback_checks import pickle_callbacks
from spark_dl.fit.checks import check_compiles, check_layers, check_options, scaled_rate
from spark_dl.fit.columns import (
    InputFacts,
    OutputFacts,
    check_null_policy,
    check_outputs,
    feature_specs,
    input_columns,
    label_specs,
    optional_columns,
    output_columns,
    refuse_lists,
    shapes_of_inputs,
)
from spark_dl.fit.initial_model import initial_model
from spark_dl.fit.input_plan import InputPlan, input_plan
from spark_dl.fit.worker_checks import Fitted, check_workers
from spark_dl.io.store import Store
from spark_dl.launch.pickling import Pickled, pickle_for_ranks
from spark_dl.options import ClassifierOptions, EstimatorOptions
from spark_dl.score.heads import Classification, Head
from spark_dl.train.learning_rate import LearningRate

if TYPE_CHECKING:
    import keras

    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["FitSpec", "Task", "build_fit_spec"]


@dataclass(frozen=True)
class FitSpec:
    """A checked fit, before any Spark job.

    Attributes:
        options: the estimator's.
        name: the model's.
        content: the compiled model's bytes.
        model: the compiled model.
        custom_objects: cloudpickled dict of what Keras needs by name to load it.
        inputs: the model's.
        outputs: the model's.
        head: what the output will mean.
        conversion: how rows become blocks; its store is set later.
        columns: Spark's types of the columns that are read.
        plan: which column feeds what.
        learning_rate: of the warm-up; None where there is none.
        callbacks: the user's, cloudpickled.
        augment: layers that change features in training, cloudpickled; empty for none.
        modules: top-level modules that executors must have to load what is pickled.
        notes: what several workers compute otherwise than one process.
    """

    options: EstimatorOptions
    name: str
    content: bytes
    model: Any
    custom_objects: bytes
    inputs: tuple[InputFacts, ...]
    outputs: tuple[OutputFacts, ...]
    head: Head
    conversion: ConversionSpec
    columns: StructType
    plan: InputPlan
    learning_rate: LearningRate | None
    callbacks: bytes
    augment: bytes
    modules: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def feature_columns(self) -> StructType:
        """Spark's types of the columns that feed the model."""
        names = {column.name for spec in self.conversion.features for column in spec.columns}
        return StructType([field for field in self.columns.fields if field.name in names])


class Task(Protocol):
    """What an estimator knows of its task."""

    def _check_outputs(self, shape: ModelShape) -> None:
        """Refuse a model whose outputs aren't those of the task, with a ModelError."""

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """The loss for a model that has none; None where only the user can say."""

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        """What the outputs of the compiled model mean."""

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        """The number of classes where an output's labels are class indices."""


def build_fit_spec(task: Task, columns: StructType, options: EstimatorOptions) -> FitSpec:
    """Everything of a fit that can be known without a Spark job.

    Args:
        task: what the estimator trains for.
        columns: the DataFrame's.
        options: the estimator's.

    Raises:
        SparkDLError: what can't be trained.
    """
    from spark_dl.train.model.batch_size import check_any_batch
    from spark_dl.train.model.compiling import compiled_copy
    from spark_dl.train.model.losses import losses_of, without_partial

    callbacks = pickle_callbacks(options.callbacks)
    given = initial_model(options)
    model, shape = _shaped_model(given, options)
    task._check_outputs(shape)
    loss = without_partial(options.loss) if options.loss is not None else task._default_loss(shape, model)
    compiled = compiled_copy(
        model, options.optimizer, loss, options.metrics, options.loss_weights, options.dtype_policy
    )
    check_any_batch(compiled)
    losses = losses_of(compiled.loss, shape)
    check_options(options, losses)
    if options.jit_compile:
        check_compiles(compiled)
    rate = scaled_rate(compiled, options)
    head = task._head(shape, losses, compiled)
    inputs = tuple(InputFacts(one.name, one.shape, one.dtype) for one in shape.inputs)
    outputs = tuple(
        OutputFacts(one.name, one.shape, task._classes(one, loss), loss.name if loss.known and loss.last_axis else "")
        for one, loss in zip(shape.outputs, losses, strict=True)
    )
    conversion = _conversion(columns, options, inputs, outputs)
    written = _written(options, [one.name for one in shape.outputs])
    check_outputs(written, [column.name for spec in conversion.features for column in spec.columns])
    carried = _carry(compiled, given, options.augment)
    return FitSpec(
        options=options,
        name=model.name,
        content=carried.content,
        model=compiled,
        custom_objects=carried.custom.content,
        outputs=outputs,
        inputs=inputs,
        head=head,
        conversion=conversion,
        columns=_types_of(columns, conversion),
        plan=input_plan(
            columns, conversion, inputs, outputs, [head.source] if isinstance(head, Classification) else []
        ),
        learning_rate=rate,
        callbacks=callbacks.content,
        augment=b"" if options.augment is None else carried.augment.content,
        modules=tuple(sorted({*callbacks.modules, *carried.custom.modules, *carried.augment.modules})),
        notes=check_workers(_fitted(compiled, shape, conversion, carried), options),
    )


@dataclass(frozen=True)
class _Carried:
    """What goes to the ranks.

    Attributes:
        content: the compiled model's bytes.
        custom: what Keras needs by name to load it.
        augment: the layers of the option.
    """

    content: bytes
    custom: Pickled
    augment: Pickled


def _shaped_model(given: keras.Model, options: EstimatorOptions) -> tuple[keras.Model, ModelShape]:
    """The model with the transform of its features in front, and its shape with what columnShapes says."""
    from spark_dl.train.model.batch_size import check_stateless
    from spark_dl.train.model.shape import fixed_shapes, shape_of
    from spark_dl.train.model.transform import with_transform

    check_stateless(given)
    shape = shape_of(given)
    refuse_lists(options, shape.takes_dict, shape.gives_dict)
    named, _ = input_columns(options, [one.name for one in shape.inputs])
    shapes = shapes_of_inputs(options, named)
    check_layers("transformFn", options.transform_fn, list(named))
    check_layers("augment", options.augment, list(named))
    if options.transform_fn is None:
        return given, fixed_shapes(given, shape, shapes)
    model = with_transform(given, options.transform_fn, shapes)
    return model, fixed_shapes(model, shape_of(model), shapes)


def _conversion(
    columns: StructType, options: EstimatorOptions, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts]
) -> ConversionSpec:
    """How rows become blocks; its store is set later."""
    weight, validation = optional_columns(columns, options)
    of_classes = options if isinstance(options, ClassifierOptions) else None
    conversion = ConversionSpec(
        store=Store(""),
        features=feature_specs(columns, options, inputs),
        labels=label_specs(columns, options, outputs),
        weight=weight,
        validation_col=validation,
        validation_fraction=options.validation_fraction,
        stratified=of_classes is not None and of_classes.stratified and options.validation_fraction > 0,
        balance=of_classes.balance if of_classes else "none",
        seed=options.seed,
    )
    check_null_policy(options, conversion.columns)
    return conversion


def _carry(compiled: keras.Model, given: keras.Model, augment: Any) -> _Carried:
    """Serialize the model and the user's objects; the user's own model is the one that none of them may hold."""
    import keras

    from spark_dl.train.model.carrying import keras_reducer
    from spark_dl.train.model.serialization import custom_objects, to_bytes

    objects = custom_objects(compiled, augment)
    custom = pickle_for_ranks("A custom object of the model", objects, reduce=keras_reducer(given))
    layers = pickle_for_ranks("augment", augment, reduce=keras_reducer(given))
    with keras.saving.custom_object_scope(objects):
        return _Carried(to_bytes(compiled), custom, layers)


def _fitted(compiled: keras.Model, shape: ModelShape, conversion: ConversionSpec, carried: _Carried) -> Fitted:
    from spark_dl.train.model.examples import examples_of
    from spark_dl.train.model.losses import losses_by_output
    from spark_dl.train.model.serialization import from_bytes

    return Fitted(
        compiled,
        losses_by_output(compiled.loss, shape),
        {one.name: (one.shape, one.dtype) for one in shape.inputs},
        examples_of(shape.outputs, conversion.tensors),
        lambda: from_bytes(carried.content, cloudpickle.loads(carried.custom.content)),
    )


def _written(options: EstimatorOptions, outputs: Sequence[str]) -> dict[str, str]:
    """What the fitted model will write -> the name of its column."""
    if len(outputs) > 1:
        return output_columns(options, outputs)
    names = options.columns_by_output
    if isinstance(options, ClassifierOptions) and options.top_k:
        names["topK"] = options.top_k_col
    return {field: name for field, name in names.items() if name}


def _types_of(columns: StructType, conversion: ConversionSpec) -> StructType:
    """The types of the columns that are read, each once."""
    names = dict.fromkeys(column.name for column in conversion.columns)
    return StructType([StructField(name, columns[name].dataType) for name in names])
