"""What a model's losses tell of its labels and outputs."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from typing import Any

import keras

from spark_dl.errors import ModelError, explain
from spark_dl.train.model.parts import is_keras
from spark_dl.train.model.shape import ModelShape

__all__ = [
    "MARGIN_LOSSES",
    "LossFacts",
    "by_output",
    "loss_facts",
    "losses_by_output",
    "losses_of",
    "without_partial",
]

# They take the distance from a boundary at 0: neither a logit nor a probability.
MARGIN_LOSSES = ("hinge", "squared_hinge")


@dataclass(frozen=True)
class LossFacts:
    """What the loss tells about labels and outputs.

    Attributes:
        name: in snake case, such as "sparse_categorical_crossentropy".
        from_logits: whether it takes logits.
        reduction: Keras's name of it.
        known: whether it is one of Keras's own, so that its name tells what it takes.
        last_axis: whether classes are told apart along the last axis.
    """

    name: str
    from_logits: bool
    reduction: str
    known: bool = True
    last_axis: bool = True


def losses_of(loss: Any, shape: ModelShape) -> tuple[LossFacts, ...]:
    """What the losses of the model's outputs tell, in the outputs' order.

    Args:
        loss: one for all outputs, a list of one for each, or a dict by the outputs' names.
        shape: of the model.

    Raises:
        ModelError: an output has no loss, or it can't be used.
    """
    return tuple(loss_facts(one) for one in losses_by_output(loss, shape).values())


def losses_by_output(loss: Any, shape: ModelShape) -> dict[str, Any]:
    """The loss of each output, by its name.

    Args:
        loss: one for all outputs, a list of one for each, or a dict by the outputs' names.
        shape: of the model.

    Raises:
        ModelError: an output has no loss.
    """
    several = isinstance(loss, (list, tuple, dict))
    return by_output("loss", loss if several else [loss] * len(shape.outputs), shape)


def by_output(what: str, given: Any, shape: ModelShape) -> dict[str, Any]:
    """What is given for each output, by its name, in the model's order.

    Args:
        what: is given, for messages.
        given: a list in the model's order, or a dict.
        shape: of the model.

    Raises:
        ModelError: an output without one, or one of no output; or a list for a model that gives a dict.
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
        raise ModelError(
            explain(
                f"Each output of the model takes a {what}.",
                expected=f"one each for {', '.join(names)}" + (", as a dict by name" if shape.gives_dict else ""),
                received=repr(given),
            )
        )
    return {name: found[name] for name in names}


def loss_facts(loss: Any) -> LossFacts:
    """What a loss, or its name, tells.

    Raises:
        ModelError: it isn't one loss.
    """
    try:
        found = keras.losses.get(loss)
    except Exception as error:
        raise ModelError(
            explain("The loss can't be used.", expected="a Keras loss, or its name", received=f"{loss!r}: {error}")
        ) from error
    if not callable(found):
        raise ModelError(
            explain("The loss can't be used.", expected="one Keras loss, or its name", received=repr(loss))
        )
    found = without_partial(found)
    kind = found if inspect.isfunction(found) else type(found)
    logits = getattr(found, "from_logits", None)
    if logits is None and inspect.isfunction(found) and is_keras(found):
        argument = inspect.signature(found).parameters.get("from_logits")
        logits = argument.default if argument else False
    return LossFacts(
        name=re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower(),  # `found.name` is the user's to choose
        from_logits=bool(logits),
        reduction=str(getattr(found, "reduction", "sum_over_batch_size")),
        known=is_keras(kind),
        last_axis=getattr(found, "axis", -1) in (-1, None),
    )


def without_partial(loss: Any) -> Any:
    """A loss function with arguments bound by functools.partial as what Keras can save; any other loss as it is.

    Of Keras's own function it is the class of the same name, of another one a function that calls it.

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
