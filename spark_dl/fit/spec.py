"""The checked specification of a fit, built on the driver before any Spark job."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
from pyspark.sql.types import StructField, StructType

from spark_dl.data.specs import ConversionSpec
from spark_dl.fit.augment_checks import check_augment
from spark_dl.fit.callback_checks import pickle_callbacks
from spark_dl.fit.checks import check_class, check_compiles, check_layers, check_options, scaled_rate, set_learning_rate
from spark_dl.fit.columns import (
    InputFacts,
    OutputFacts,
    check_null_policy,
    check_outputs,
    input_columns,
    output_columns,
    refuse_lists,
    shapes_of_columns,
    shapes_of_inputs,
)
from spark_dl.fit.initial_model import initial_model
from spark_dl.fit.input_plan import InputPlan, input_plan
from spark_dl.fit.label_checks import (
    broadcast_notes,
    check_broadcasts,
    check_labels,
    check_losses_take_labels,
    check_metrics_take_labels,
    check_position_weights,
    label_rule,
)
from spark_dl.fit.monitor_check import check_monitor
from spark_dl.fit.open_inputs import check_masked, check_open_outputs, open_inputs, opened
from spark_dl.fit.padding_check import check_padding
from spark_dl.fit.reconstruction import check_error_col, features_and_labels
from spark_dl.fit.row_columns import validation_column, weight_and_shape
from spark_dl.fit.worker_checks import Fitted, WorkerFacts, check_workers
from spark_dl.io.store import Store
from spark_dl.launch.pickling import Pickled, pickle_for_ranks
from spark_dl.options import ClassifierOptions, EstimatorOptions, TaggerOptions
from spark_dl.score.heads import Head
from spark_dl.train.learning_rate import LearningRate

if TYPE_CHECKING:
    import keras

    from spark_dl.train.model.losses import LossFacts
    from spark_dl.train.model.shape import ModelOutput, ModelShape

__all__ = ["FitSpec", "Task", "build_fit_spec", "shaped_model"]


@dataclass(frozen=True)
class FitSpec:
    """The specification of a checked fit, before any Spark job.

    Attributes:
        options: The estimator's options.
        name: The model's name.
        content: The compiled model's `.keras` bytes.
        model: The compiled copy of the user's model.
        given: The Keras model that the fit starts from, as the user has set or built it.
        custom_objects: The cloudpickled dict of custom objects that Keras needs to load the model.
        inputs: The model's inputs.
        outputs: The model's outputs.
        head: The meaning of the model's output.
        conversion: How rows are converted to blocks; its store is set later.
        columns: The Spark types of the columns that are read.
        plan: The mapping of columns to the model's inputs and outputs.
        learning_rate: The learning rates of the warm-up; None for no warm-up.
        callbacks: The user's callbacks, cloudpickled.
        augment: The augmentation layers, cloudpickled; empty for none.
        modules: The top-level modules that executors need to unpickle these objects.
        notes: Warnings about values that several workers compute differently from one process.
        state_rules: The join rules of the states of the user's layers, by their index in `non_trainable_variables`.
    """

    options: EstimatorOptions
    name: str
    content: bytes
    model: Any
    given: Any
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
    state_rules: tuple[tuple[int, str], ...] = ()

    @property
    def feature_columns(self) -> StructType:
        """The Spark types of the feature columns."""
        names = {column.name for spec in self.conversion.features for column in spec.columns}
        return StructType([field for field in self.columns.fields if field.name in names])


class Task(Protocol):
    """The parts of a fit that depend on the estimator's task."""

    def _check_outputs(self, shape: ModelShape) -> None:
        """Check that the model's outputs fit the task; raise a ModelError otherwise."""

    def _default_loss(self, shape: ModelShape, model: Any) -> Any:
        """Return the loss for a model that is compiled without one; None if there is no default."""

    def _default_metrics(self, shape: ModelShape, loss: Any, model: Any) -> Any:
        """Return the metrics for a model without metrics; None for no others than the model's own."""

    def _head(self, shape: ModelShape, losses: Sequence[LossFacts], model: Any = None) -> Head:
        """Return the meaning of the compiled model's outputs."""

    def _classes(self, output: ModelOutput, loss: LossFacts) -> int | None:
        """Return the number of classes if an output's labels are class indices, else None."""


def build_fit_spec(task: Task, columns: StructType, options: EstimatorOptions) -> FitSpec:
    """Check a fit and build its specification, without a Spark job.

    Args:
        task: The estimator, which knows its task.
        columns: The schema of the DataFrame.
        options: The estimator's options.

    Raises:
        OptionError: Options can't be used, or not together.
        ModelError: The model can't be trained: its outputs, its loss, or a metric.
        SavedModelError: The fitted model of warmStart can't be loaded as a Keras model.
        DataError: A column is missing, or its type or shape doesn't fit the model.
    """
    from spark_dl.train.model.losses import losses_of

    given = initial_model(options, shapes_of_columns(columns, options))
    check_class(given)
    model, shape, ragged = shaped_model(given, options, columns)
    task._check_outputs(shape)
    compiled = _compiled(task, model, shape, options)
    losses = losses_of(compiled.loss, shape)
    check_options(options, losses)
    if options.jit_compile:
        check_compiles(compiled)
    rate = scaled_rate(compiled, options)
    head = task._head(shape, losses, compiled)
    inputs = _input_facts(shape, ragged)
    outputs = _output_facts(task, shape, losses, isinstance(options, ClassifierOptions))
    if options.error_col:
        check_error_col(inputs, outputs, head)
    conversion = _conversion(columns, options, inputs, outputs)
    check_augment(options.augment, conversion)
    written = _written(options, [one.name for one in shape.outputs])
    check_outputs(written, [column.name for spec in conversion.features for column in spec.columns])
    carried = _carry(compiled, options, given)
    fitted = _fitted(compiled, shape, conversion, carried)
    workers = _checked_with_labels(fitted, conversion, ragged, options)
    return FitSpec(
        options=options,
        name=model.name,
        content=carried.content,
        model=compiled,
        given=given,
        custom_objects=carried.custom.content,
        outputs=outputs,
        inputs=inputs,
        head=head,
        conversion=conversion,
        columns=_types_of(columns, conversion),
        plan=input_plan(columns, conversion, inputs, outputs, list(filter(None, [getattr(head, "source", "")]))),
        learning_rate=rate,
        callbacks=carried.callbacks.content,
        augment=b"" if options.augment is None else carried.augment.content,
        modules=tuple(sorted({*carried.callbacks.modules, *carried.custom.modules, *carried.augment.modules})),
        notes=(*broadcast_notes(fitted.losses, fitted.examples), *workers.notes),
        state_rules=workers.state_rules,
    )


def _compiled(task: Task, model: keras.Model, shape: ModelShape, options: EstimatorOptions) -> keras.Model:
    """Return a copy of the model, compiled with the options, whose loss fits the labels."""
    from spark_dl.train.model.batch_size import check_any_batch
    from spark_dl.train.model.compiling import compiled_copy
    from spark_dl.train.model.exact_ids import check_exact_ids
    from spark_dl.train.model.losses import without_partial
    from spark_dl.train.model.recompiling import takes_loss
    from spark_dl.train.model.step_trial import has_own_step

    loss, metrics = options.loss, options.metrics
    if loss is not None:
        loss = without_partial(loss)
    elif options.labelled and takes_loss(model):
        loss = task._default_loss(shape, model)
    if metrics is None and options.labelled:
        metrics = task._default_metrics(shape, loss, model)
    brings_loss = not options.labelled or has_own_step(model)
    compiled = compiled_copy(
        model, options.optimizer, loss, metrics, options.loss_weights, options.dtype_policy, may_lack_loss=brings_loss
    )
    if options.learning_rate is not None:
        set_learning_rate(compiled, options.learning_rate)
    check_any_batch(compiled)
    check_labels(compiled, options)
    check_exact_ids(compiled)
    return compiled


def _input_facts(shape: ModelShape, ragged: Collection[str]) -> tuple[InputFacts, ...]:
    return tuple(
        InputFacts(one.name, opened(one.shape) if one.name in ragged else one.shape, one.dtype) for one in shape.inputs
    )


def _output_facts(
    task: Task, shape: ModelShape, losses: Sequence[LossFacts], predicts_class: bool
) -> tuple[OutputFacts, ...]:
    return tuple(
        OutputFacts(
            one.name,
            one.shape,
            task._classes(one, loss),
            label_rule(loss, task._classes(one, loss) is not None),
            None if predicts_class else loss.ignored,  # a classifier's labels are all classes
        )
        for one, loss in zip(shape.outputs, losses, strict=True)
    )


@dataclass(frozen=True)
class _Carried:
    """The serialized model and objects that are shipped to the ranks.

    Attributes:
        content: The compiled model's `.keras` bytes.
        custom: The custom objects that Keras needs to load the model.
        augment: The augmentation layers.
        callbacks: The user's callbacks.
    """

    content: bytes
    custom: Pickled
    augment: Pickled
    callbacks: Pickled


def shaped_model(
    given: keras.Model, options: EstimatorOptions, columns: StructType | None
) -> tuple[keras.Model, ModelShape, Mapping[str, str]]:
    """Put the layers of transformFn in front of the model.

    Args:
        given: The user's Keras model.
        options: The options of the columns and the model.
        columns: The schema of the DataFrame; None if it isn't known.

    Returns:
        The model; its shape, completed by columnShapes, and by TRIED_LENGTH for open inputs; and the columns of these.

    Raises:
        OptionError: Options don't fit the model's inputs or outputs.
        ModelError: The model's inputs or outputs can't be columns, or the transform doesn't fit.
    """
    from spark_dl.train.model.batch_size import check_stateless
    from spark_dl.train.model.examples import TRIED_LENGTH
    from spark_dl.train.model.shape import fixed_shapes, shape_of
    from spark_dl.train.model.transform import JOINT, with_joint_transform, with_transform

    check_stateless(given)
    shape = shape_of(given)
    transform = options.transform_fn
    joint = _is_joint(options, len(shape.inputs))
    refuse_lists(options, shape.takes_dict and not joint, shape.gives_dict)
    named, _ = input_columns(options, [JOINT] if joint else [one.name for one in shape.inputs])
    shapes = shapes_of_inputs(options, named)
    check_layers("transformFn", transform, list(named), functions=True)
    check_layers("augment", options.augment, list(named))
    model = given
    if transform is not None:
        model = (with_joint_transform if joint else with_transform)(given, transform, shapes)
        shape = shape_of(model)
    if joint:  # the new input may have another name
        names = [one.name for one in shape.inputs]
        shapes = dict(zip(names, shapes.values(), strict=False))
        named = dict(zip(names, named.values(), strict=True))
    ragged = open_inputs(shape.inputs, named, columns, options)
    tried = {one.name: (TRIED_LENGTH, *one.shape[1:]) for one in shape.inputs if one.name in ragged}
    fixed = fixed_shapes(model, shape, {**shapes, **tried})
    if ragged:
        check_open_outputs(model, shape, {**shapes, **tried}, fixed, ragged)
    return model, fixed, ragged


def _is_joint(options: EstimatorOptions, inputs: int) -> bool:
    """Return whether transformFn makes several of the model's inputs of one."""
    one_column = isinstance(options.input_cols, list) and len(options.input_cols) == 1
    single = options.transform_fn is not None and not isinstance(options.transform_fn, dict)
    return inputs > 1 and single and (not options.input_cols or one_column)


def _conversion(
    columns: StructType, options: EstimatorOptions, inputs: Sequence[InputFacts], outputs: Sequence[OutputFacts]
) -> ConversionSpec:
    """Describe how rows are converted to blocks; the store is set later."""
    weight, weight_shape = weight_and_shape(columns, options, outputs)
    features, labels = features_and_labels(columns, options, inputs, outputs)
    of_classes = options if isinstance(options, ClassifierOptions) else None
    conversion = ConversionSpec(
        store=Store(""),
        features=features,
        labels=labels,
        weight=weight,
        weight_shape=weight_shape,
        validation_col=validation_column(columns, options),
        validation_fraction=options.validation_fraction,
        stratified=of_classes is not None and of_classes.stratified and options.validation_fraction > 0,
        balance=of_classes.balance if of_classes else "none",
        seed=options.seed,
        counts_positions=isinstance(options, TaggerOptions) and options.class_weights == "balanced",
    )
    check_null_policy(options, [column.name for column in conversion.columns])
    padded = [column for spec in conversion.features for column in spec.columns]
    padded += [one for spec in conversion.labels for one in spec.columns]
    padded += [conversion.weight] if conversion.weight else []
    check_padding(options, [column.name for column in padded])
    return conversion


def _carry(compiled: keras.Model, options: EstimatorOptions, given: keras.Model) -> _Carried:
    """Serialize the compiled model, custom objects and callbacks; of the latter, none may hold what is trained."""
    import keras

    from spark_dl.train.model.carrying import keras_reducer
    from spark_dl.train.model.serialization import custom_objects, to_bytes

    owners, variables = (given, options.optimizer), list[Any]()
    objects = custom_objects(compiled, options.augment)
    custom = pickle_for_ranks("A custom object of the model", objects, reduce=keras_reducer(*owners, seen=variables))
    layers = pickle_for_ranks("augment", options.augment, reduce=keras_reducer(*owners))
    callbacks = pickle_callbacks(options.callbacks, *owners, variables=variables)
    with keras.saving.custom_object_scope(objects):
        return _Carried(to_bytes(compiled), custom, layers, callbacks)


def _fitted(compiled: keras.Model, shape: ModelShape, conversion: ConversionSpec, carried: _Carried) -> Fitted:
    from spark_dl.train.model.examples import examples_of
    from spark_dl.train.model.losses import losses_by_output
    from spark_dl.train.model.serialization import from_bytes

    return Fitted(
        compiled,
        {} if compiled.loss is None else losses_by_output(compiled.loss, shape),
        {one.name: (one.shape, one.dtype) for one in shape.inputs},
        examples_of(shape.outputs, conversion.tensors),
        lambda: from_bytes(carried.content, cloudpickle.loads(carried.custom.content)),
    )


def _checked_with_labels(
    fitted: Fitted, conversion: ConversionSpec, ragged: Mapping[str, str], options: EstimatorOptions
) -> WorkerFacts:
    """Check that losses and metrics take the labels, and give what one process would with any number of workers."""
    from spark_dl.train.model.one_hot_metrics import check_one_hot_metrics

    check_broadcasts(fitted.losses, fitted.examples, conversion.labels)
    check_one_hot_metrics(fitted.model, conversion.labels)
    check_losses_take_labels(fitted, conversion)
    check_position_weights(fitted.losses, conversion, options)
    check_masked(fitted, ragged, options)
    check_monitor(fitted, options)
    workers = check_workers(fitted, options)
    check_metrics_take_labels(fitted, conversion)
    return workers


def _written(options: EstimatorOptions, outputs: Sequence[str]) -> dict[str, str]:
    """Return the columns that the fitted model writes, by the field of the output."""
    if len(outputs) > 1:
        return output_columns(options, outputs)
    names = {**options.columns_by_output, "error": options.error_col or ""}
    if isinstance(options, ClassifierOptions) and options.top_k:
        names["topK"] = options.top_k_col
    if isinstance(options, TaggerOptions) and options.tag_labels:
        names["tags"] = options.tags_col
    return {field: name for field, name in names.items() if name}


def _types_of(columns: StructType, conversion: ConversionSpec) -> StructType:
    """Return the Spark types of the columns that are read, each once."""
    names = dict.fromkeys(column.name for column in conversion.columns)
    return StructType([StructField(name, columns[name].dataType) for name in names])
