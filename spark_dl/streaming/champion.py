"""The comparison of the learning model with the champion, the version of a registry alias."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spark_dl.errors import OptionError, explain, hint
from spark_dl.fit.columns import InputFacts
from spark_dl.ml.model import KerasModel
from spark_dl.streaming.checks import check_integer
from spark_dl.train.model.archive import config_text

__all__ = ["Champion", "beats", "check_metric", "comparable_content", "metric_of_champion"]


@dataclass(frozen=True)
class Champion:
    """Settings of the champion: the registered version that scoring streams use, by its alias.

    Both models predict each micro-batch before the model trains on it. When the metric of the learning model over the
    last `window` batches is better than the champion's, the model is registered as a new version, and the alias is
    moved to it. Without such an alias, the model of the first batch is registered.

    Attributes:
        registeredModelName: The name of the registered model.
        alias: The alias.
        window: The number of batches, counted from 1 after each new champion.
        metric: The metric that is compared, by its name in the model's metrics.

    Raises:
        OptionError: A value can't be used.
    """

    registeredModelName: str
    alias: str = "champion"
    window: int = 10
    metric: str = "loss"

    def __post_init__(self) -> None:
        check_integer("window", self.window, 1)
        for name in ("registeredModelName", "alias", "metric"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise OptionError(
                    explain(f"{name} can't be used.", expected="a name", received=repr(value), fix=f"Set {name}.")
                )


def beats(contest: Sequence[Sequence[float]], larger_is_better: bool) -> bool:
    """Return whether the learning model is better than the champion over a window.

    Args:
        contest: For each batch its rows, the metric of the learning model, and that of the champion.
        larger_is_better: Whether larger values of the metric are better.
    """
    rows = sum(one[0] for one in contest)
    challenger, champion = (sum(one[0] * one[index] for one in contest) / rows for index in (1, 2))
    if math.isnan(challenger):
        return False
    return math.isnan(champion) or (challenger > champion if larger_is_better else challenger < champion)


def comparable_content(found: Any, inputs: Sequence[InputFacts], version: str) -> bytes:
    """Return the `.keras` bytes of a version that the alias names, which can be compared with the learning model.

    Args:
        found: The registered model.
        inputs: The inputs of the learning model.
        version: The version in the registry.

    Raises:
        OptionError: It isn't a KerasModel, isn't compiled, or has inputs of other shapes.
    """
    if not isinstance(found, KerasModel):
        received = f"a {type(found).__name__}"
    elif not json.loads(config_text(found._fitted_content())).get("compile_config"):
        received = "a model that isn't compiled"
    elif [one.shape for one in found._inputs] != [one.shape for one in inputs]:
        received = f"inputs of the shapes {[one.shape for one in found._inputs]}"
    else:
        return found._fitted_content()
    raise OptionError(
        explain(
            f"The champion can't be compared: the alias names version {version}, which can't be tested on the stream.",
            expected=f"a KerasModel that is compiled with a loss, of the input shapes {[one.shape for one in inputs]}",
            received=received,
            fix="Point the alias to another version, or leave champion out.",
        )
    )


def metric_of_champion(metric: str, metrics: Mapping[str, Any], version: str) -> float:
    """Return the champion's value of the metric that is compared.

    Args:
        metric: The name of the metric.
        metrics: The champion's metrics.
        version: Its version in the registry.

    Raises:
        OptionError: It hasn't the metric, as when another program has registered it.
    """
    value = metrics.get(metric)
    if not isinstance(value, float):
        raise OptionError(
            explain(
                f"The champion can't be compared: version {version} has no metric {metric!r} with one value.",
                expected="a version that was compiled with the metric of Champion",
                received=f"the metrics {', '.join(metrics)}",
                fix="Point the alias to another version, or compare by a metric that both models have, such as loss.",
            )
        )
    return value


def check_metric(metric: str, metrics: Mapping[str, Any], larger_is_better: bool | None) -> bool:
    """Check that two models can be compared by a metric; return whether larger values are better.

    Raises:
        OptionError: There is no such metric with one value, or its direction is unknown.
    """
    numbers = [name for name, value in metrics.items() if isinstance(value, float)]
    if metric not in numbers:
        raise OptionError(
            explain(
                f"The model has no metric {metric!r} with one value.",
                expected=f"one of {', '.join(numbers)}",
                received=f"Champion(metric={metric!r})",
                fix=hint(metric, numbers),
            )
        )
    if larger_is_better is None:
        raise OptionError(
            explain(
                f"It isn't known whether larger values of {metric!r} are better.",
                expected="a metric with a known direction, such as loss or accuracy",
                received=f"Champion(metric={metric!r})",
                fix="Set another metric.",
            )
        )
    return larger_is_better
