"""Checks of several options together, before any Spark job; each option's own check is in `options`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.data.readers import check_reader
from spark_dl.errors import ModelError, OptionError, explain
from spark_dl.options import EstimatorOptions
from spark_dl.redaction import warn
from spark_dl.train.learning_rate import LearningRate, scaling

if TYPE_CHECKING:
    import keras

    from spark_dl.train.model.losses import LossFacts

__all__ = [
    "check_class",
    "check_compiles",
    "check_layers",
    "check_options",
    "check_reductions",
    "scaled_rate",
    "set_learning_rate",
]


def check_options(options: EstimatorOptions, losses: Sequence[LossFacts]) -> None:
    """Check for options that exclude each other, and for losses that several ranks can't compute as one process.

    Args:
        options: The estimator's options.
        losses: The losses of the model's outputs.

    Raises:
        OptionError: Options exclude or contradict each other, or the reader isn't installed.
        ModelError: Gradients are averaged over workers or steps, and a loss isn't a mean over rows.
    """
    check_reductions(options, losses)
    every, together = options.checkpoint_steps, options.gradient_accumulation
    if every is not None and every % together:
        raise OptionError(
            explain(
                "A checkpoint can't be written while gradients are accumulated.",
                expected=f"checkpointSteps that is a multiple of gradientAccumulation={together}",
                received=f"checkpointSteps={every}",
                fix=f"Set checkpointSteps={max(together, every // together * together)}.",
            )
        )
    if options.profile and options.tracking is None:
        raise OptionError(
            explain(
                "The trace of profile=True is written into the MLflow run.",
                expected="tracking='mlflow'",
                received="tracking=None",
                fix="Set tracking='mlflow', or profile=False.",
            )
        )
    if options.validation_col and options.validation_fraction:
        raise OptionError(
            explain(
                "validationCol and validationFraction exclude each other.",
                expected="one of them",
                received=f"validationCol={options.validation_col!r} and "
                f"validationFraction={options.validation_fraction}",
                fix="Set one of them to None or 0.",
            )
        )
    rated = options.optimizer is not None or options.learning_rate is not None
    if options.warm_start is not None and options.learning_rate_scaling != "none" and not rated:
        raise OptionError(
            explain(
                "A fitted model's learning rate may have been scaled before.",
                expected="optimizer or learningRate set, or learningRateScaling='none'",
                received=f"warmStart with learningRateScaling={options.learning_rate_scaling!r}",
                fix="Set learningRate=... or optimizer=..., or learningRateScaling='none'.",
            )
        )
    check_reader(options.reader, options.cache_dir)
    _check_counts(options)


def _check_counts(options: EstimatorOptions) -> None:
    """Check for numbers of epochs and workers that contradict each other."""
    if options.initial_epoch >= options.epochs:
        raise OptionError(
            explain(
                "There is no epoch to train.",
                expected=f"initialEpoch < epochs={options.epochs}",
                received=f"initialEpoch={options.initial_epoch}",
                fix="epochs is the number of the last one, not of those that are added.",
            )
        )
    least = options.min_workers
    if least is not None and least > options.num_workers:
        raise OptionError(
            explain(
                "minWorkers is more than numWorkers.",
                expected=f"minWorkers <= {options.num_workers}",
                received=f"minWorkers={least}, numWorkers={options.num_workers}",
                fix="Lower minWorkers, or raise numWorkers.",
            )
        )


def check_reductions(options: EstimatorOptions, losses: Sequence[LossFacts]) -> None:
    """Check that losses are means over rows where gradients of several workers or steps are averaged.

    Args:
        options: The estimator's options.
        losses: The losses of the model's outputs.

    Raises:
        ModelError: A loss has another reduction.
    """
    from spark_dl.train.model.losses import MEANS

    counts = {"numWorkers": options.num_workers, "gradientAccumulation": options.gradient_accumulation}
    several = [name for name, count in counts.items() if count > 1]
    for loss in losses:
        if several and loss.reduction not in MEANS:
            raise ModelError(
                explain(
                    "Gradients of several workers or steps are averaged over rows.",
                    expected="a loss with reduction 'sum_over_batch_size'",
                    received=f"{loss.name} with reduction {loss.reduction!r} and "
                    + " and ".join(f"{name}={counts[name]}" for name in several),
                    fix=f"Change the loss's reduction, or set {' and '.join(f'{name}=1' for name in several)}.",
                )
            )


def check_class(model: Any, trained: bool = True) -> None:
    """Check the methods that the user's class of a model overrides.

    Args:
        model: What the user has given as the model.
        trained: Whether the model is to be trained, not only to score.

    Raises:
        ModelError: It is to be trained, and copies can't be compiled as it is.
    """
    import keras

    from spark_dl.train.model.recompiling import refuse_lost_compile

    if not isinstance(model, keras.Model):  # an error of its own later
        return
    if trained:
        refuse_lost_compile(model)
    kind = type(model)
    if kind.predict_step is not keras.Model.predict_step:
        warn(f"transform returns the output of {kind.__name__}.call: only keras.Model.predict uses its predict_step.")


def check_compiles(model: keras.Model) -> None:
    """Check that XLA can compile the whole training step.

    Raises:
        ModelError: A layer has supports_jit=False, the model has a custom train_step (which may do more than compute
            gradients), or run_eagerly is set.
    """
    import keras

    from spark_dl._compat.keras import all_layers

    unfit = [f"{part.name} ({type(part).__name__})" for part in all_layers(model) if not part.supports_jit]
    unfit += ["a custom train_step"] if type(model).train_step is not keras.Model.train_step else []
    unfit += ["run_eagerly=True"] if model.run_eagerly else []
    if unfit:
        raise ModelError(
            explain(
                "XLA can't compile the whole model.",
                expected="layers that support it, and Keras's own train_step, with jitCompile=True",
                received=", ".join(unfit),
                fix="Leave jitCompile off, or change the model.",
            )
        )


def check_layers(param: str, layers: Any, inputs: Sequence[str], functions: bool = False) -> None:
    """Check the preprocessing layers of an option.

    Args:
        param: The option's name, for error messages.
        layers: A Keras layer, a dict of Keras layers by input name (for several inputs), or None.
        inputs: The names of the model's inputs.
        functions: Whether functions of tensors are taken as layers are.

    Raises:
        OptionError: The value is neither a Keras layer nor, for several inputs, a dict of Keras layers by input name.
    """
    import keras

    if layers is None:
        return
    named = dict(layers) if isinstance(layers, dict) else {}
    several = list(named.values()) if named else [layers]
    fits = len(inputs) > 1 and set(named) <= set(inputs) if named else len(inputs) == 1
    kinds = all(
        isinstance(layer, keras.layers.Layer) or (functions and callable(layer) and not isinstance(layer, type))
        for layer in several
    )
    if not fits or not kinds:
        raise OptionError(
            explain(
                f"{param} can't change the model's features.",
                expected="a Keras layer" if len(inputs) == 1 else f"a dict of Keras layers for {', '.join(inputs)}",
                received=repr(layers),
                fix=f"Set {param} to a layer, such as keras.layers.RandomFlip(), or to None.",
            )
        )


def scaled_rate(compiled: keras.Model, options: EstimatorOptions) -> LearningRate | None:
    """Scale the learning rate of the compiled copy by the number of workers.

    Args:
        compiled: The compiled copy of the user's model; its optimizer is changed.
        options: The estimator's options.

    Returns:
        The learning rates of the warm-up; None for no warm-up.

    Raises:
        OptionError: globalBatchSize is set together with learningRateScaling, or the learning rate follows a schedule.
    """
    rule, warmup = options.learning_rate_scaling, options.warmup_epochs
    if rule == "none" and not warmup:
        return None
    if rule != "none" and options.global_batch_size is not None:
        raise OptionError(
            explain(
                "With globalBatchSize, the batch doesn't grow with the workers, and the learning rate isn't scaled.",
                expected="learningRateScaling='none' with globalBatchSize",
                received=f"learningRateScaling={rule!r}, globalBatchSize={options.global_batch_size}",
                fix="Set learningRateScaling='none', or batchSize instead of globalBatchSize.",
            )
        )
    optimizer = _innermost(compiled)
    base_rate = optimizer.get_config()["learning_rate"]
    if others := _others(compiled, optimizer):
        raise OptionError(
            explain(
                "The learning rates of several optimizers can't be scaled or warmed up.",
                expected="one optimizer",
                received=", ".join(type(one).__name__ for one in (optimizer, *others)),
                fix="Set learningRateScaling='none' and warmupEpochs=0, and scale the rates yourself.",
            )
        )
    if not isinstance(base_rate, (int, float)):
        raise OptionError(
            explain(
                "A learning rate that follows a schedule can't be scaled or warmed up.",
                expected="an optimizer whose learning rate is a number",
                received=f"{type(optimizer).__name__} with {base_rate['class_name']}",
                fix="Put the scaling and the warm-up into the schedule.",
            )
        )
    rate = scaling(float(base_rate), rule, options.num_workers, warmup)
    optimizer.learning_rate = rate.target
    return rate if warmup else None


def set_learning_rate(compiled: keras.Model, rate: float) -> None:
    """Set the learning rate of the compiled copy's optimizer.

    Args:
        compiled: The compiled copy of the user's model; its optimizer is changed.
        rate: The learning rate.

    Raises:
        OptionError: The optimizer's learning rate follows a schedule or a function, or there are several optimizers.
    """
    optimizer = _innermost(compiled)
    others = _others(compiled, optimizer)
    found = optimizer.get_config().get("learning_rate")
    if others or not isinstance(found, (int, float)):
        received = (
            f"several optimizers: {', '.join(type(one).__name__ for one in (optimizer, *others))}"
            if others
            else f"{type(optimizer).__name__} with {_kind_of_rate(found)}"
        )
        raise OptionError(
            explain(
                "learningRate can't be set for this model.",
                expected="one optimizer whose learning rate is a number",
                received=f"learningRate={rate:g} and {received}",
                fix="Unset learningRate, or give the optimizer a number in place of its schedule.",
            )
        )
    optimizer.learning_rate = rate


def _kind_of_rate(rate: Any) -> str:
    return str(rate.get("class_name", rate)) if isinstance(rate, dict) else type(rate).__name__


def _others(compiled: keras.Model, optimizer: Any) -> list[Any]:
    """Return the model's optimizers besides its own one."""
    from spark_dl.train.model.optimizers import optimizers_of

    return [one for one in optimizers_of(compiled) if one is not optimizer and one is not compiled.optimizer]


def _innermost(compiled: keras.Model) -> Any:
    """Return the model's optimizer, which mixed precision wraps in a LossScaleOptimizer."""
    return getattr(compiled.optimizer, "inner_optimizer", compiled.optimizer)
