"""Facts about a model's losses: what they require of labels and outputs."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass, replace
from typing import Any

import keras

from spark_dl.data.label_rules import OF_ONE_HOT_ROWS
from spark_dl.errors import ModelError, explain
from spark_dl.train.model.label_trial import takes_one_hot_rows
from spark_dl.train.model.parts import is_keras
from spark_dl.train.model.shape import ModelShape

__all__ = [
    "MARGIN_LOSSES",
    "MEANS",
    "LossFacts",
    "by_output",
    "loss_facts",
    "losses_by_output",
    "losses_of",
    "without_partial",
]

# They take the distance from a decision boundary at 0: neither a logit nor a probability.
MARGIN_LOSSES = ("hinge", "squared_hinge")
# The reductions of Keras that give the mean over rows.
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


@dataclass(frozen=True)
class LossFacts:
    """Facts of a loss about its labels and outputs.

    Attributes:
        name: The name in snake case, such as "sparse_categorical_crossentropy".
        from_logits: Whether it takes logits.
        reduction: Keras's name of the reduction.
        known: Whether it is one of Keras's own, so that its name defines what it takes.
        last_axis: Whether classes lie along the last axis.
        ignored: The class index that the loss ignores; None for none.
        one_hot: Whether it takes classes as one-hot rows, not as indices.
    """

    name: str
    from_logits: bool
    reduction: str
    known: bool = True
    last_axis: bool = True
    ignored: int | None = None
    one_hot: bool = False


def losses_of(loss: Any, shape: ModelShape) -> tuple[LossFacts, ...]:
    """Return the facts of the losses, in the order of the outputs.

    Args:
        loss: One loss for all outputs, a list with one for each, or a dict by the outputs' names; None for a model
            that brings its own.
        shape: The shape of the model.

    Raises:
        ModelError: An output has no loss, or a loss can't be used.
    """
    if loss is None:  # the model brings its own
        return tuple(LossFacts("", False, "sum_over_batch_size", known=False) for _ in shape.outputs)
    shapes = [output.shape for output in shape.outputs]
    given = losses_by_output(loss, shape).values()
    return tuple(_with_output(loss_facts(one), one, output) for one, output in zip(given, shapes, strict=True))


def _with_output(facts: LossFacts, loss: Any, output: tuple[int, ...]) -> LossFacts:
    """Return the facts of a loss of an output of this shape."""
    if getattr(loss, "axis", None) == len(output):
        facts = replace(facts, last_axis=True)
    return facts if facts.known else replace(facts, one_hot=takes_one_hot_rows(without_partial(loss), output))


def losses_by_output(loss: Any, shape: ModelShape) -> dict[str, Any]:
    """Return the loss of each output, by the output's name.

    Args:
        loss: One loss for all outputs, a list with one for each, or a dict by the outputs' names.
        shape: The shape of the model.

    Raises:
        ModelError: An output has no loss.
    """
    several = isinstance(loss, (list, tuple, dict))
    return by_output("loss", loss if several else [loss] * len(shape.outputs), shape)


def by_output(what: str, given: Any, shape: ModelShape) -> dict[str, Any]:
    """Assign values to outputs: a dict by the output's name, in the model's order.

    Args:
        what: What the values are, for messages.
        given: The values: a list in the model's order, or a dict.
        shape: The shape of the model.

    Raises:
        ModelError: An output has no value, a value has no output, or a list has different values though the model
            returns a dict.
    """
    names = [output.name for output in shape.outputs]
    one_each = not isinstance(given, dict) and len({id(one) for one in given}) > 1
    found = dict(given) if isinstance(given, dict) else dict(zip(names, given, strict=False))
    if (
        set(found) != set(names)
        or len(given) != len(names)
        or None in found.values()
        or (one_each and shape.gives_dict)
    ):
        fix = f"Give one {what} for each output, by name"
        lacking = [name for name in names if found.get(name) is None]
        if 0 < len(lacking) < len(names) and set(found) <= set(names):
            rest = ", ".join(lacking)
            fix += f", or train a model of the same layers without the output {rest}: keras.Model(inputs, outputs)"
        raise ModelError(
            explain(
                f"Each output of the model takes a {what}.",
                expected=f"one each for {', '.join(names)}" + (", as a dict by name" if shape.gives_dict else ""),
                received=repr(dict(given) if isinstance(given, dict) else given),  # Keras wraps dicts
                fix=f"{fix}.",
            )
        )
    return {name: found[name] for name in names}


def loss_facts(loss: Any) -> LossFacts:
    """Return the facts of a loss or of the loss of a name.

    Raises:
        ModelError: The object isn't one Keras loss.
    """
    try:
        found = keras.losses.get(loss)
    except Exception as error:
        raise ModelError(
            explain(
                "The loss can't be used.",
                expected="a Keras loss, or its name",
                received=f"{loss!r}: {error}",
                fix="Check the name against keras.losses, or pass the function itself.",
            )
        ) from error
    if not callable(found):
        raise ModelError(
            explain(
                "The loss can't be used.",
                expected="one Keras loss, or its name",
                received=repr(loss),
                fix="Pass one loss: several are for models with several outputs.",
            )
        )
    found = without_partial(found)
    kind = found if inspect.isfunction(found) else _computing_class(found)
    logits = getattr(found, "from_logits", None)
    if logits is None and inspect.isfunction(found) and is_keras(found):
        argument = inspect.signature(found).parameters.get("from_logits")
        logits = argument.default if argument else False
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()  # users may set `found.name`
    return LossFacts(
        name=name,
        from_logits=bool(logits),
        reduction=str(getattr(found, "reduction", "sum_over_batch_size")),
        known=is_keras(kind),
        last_axis=getattr(found, "axis", -1) in (-1, None),
        ignored=getattr(found, "ignore_class", getattr(found, "no_label", None)),
        one_hot=is_keras(kind) and name in OF_ONE_HOT_ROWS,
    )


def _computing_class(loss: Any) -> type:
    """Return the class whose code computes a loss: for a subclass of Keras's that overrides nothing of it, Keras's."""
    function = getattr(loss, "fn", None)
    if function is not None and not is_keras(function):
        return type(loss)
    kinds = type(loss).__mro__
    return next(kind for kind in kinds if is_keras(kind) or kind is object or {"call", "__call__"} & vars(kind).keys())


def without_partial(loss: Any) -> Any:
    """Convert losses made with functools.partial to objects that Keras can save; return other losses unchanged.

    For Keras's own functions, this is the class of the same name; for others, a function that calls them.

    Raises:
        ModelError: Arguments are bound by position.
    """
    if isinstance(loss, dict):
        return {name: without_partial(one) for name, one in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [without_partial(one) for one in loss]
    if not isinstance(loss, functools.partial):
        return loss
    if loss.args:
        raise ModelError(
            explain(
                "The loss can't be used.",
                expected="a partial function with arguments bound by name",
                received=f"{loss!r}, with {len(loss.args)} bound by position",
                fix="Bind them by name: functools.partial(loss, delta=2.0).",
            )
        )
    name = getattr(loss.func, "__name__", type(loss.func).__name__)
    own = (
        getattr(keras.losses, "".join(part.title() for part in name.split("_")), None) if is_keras(loss.func) else None
    )
    if own is not None and set(loss.keywords) <= set(inspect.signature(own).parameters):
        return own(**loss.keywords)

    def bound(y_true: Any, y_pred: Any) -> Any:
        return loss.func(y_true, y_pred, **loss.keywords)

    bound.__name__ = f"partial_{name}"
    return bound
