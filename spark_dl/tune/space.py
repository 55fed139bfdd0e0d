"""The space of a search: which options of an estimator vary, and over which values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spark_dl.errors import OptionError, explain, hint
from spark_dl.fit.code_digest import code_digest
from spark_dl.fit.initial_model import display_name
from spark_dl.options import declared

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FixedTrial

    from spark_dl.ml.estimator import KerasEstimator

__all__ = ["Space", "SpaceLike"]

# What users write: values by option, or a function that asks a trial for them.
SpaceLike = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]

_MODEL_PARAMS = "modelParams"
# Options that the search itself sets or uses.
_OF_THE_SEARCH = (
    "onEpoch",
    "registeredModelName",
    "runName",
    "tracking",
    "experimentName",
    "verbose",
    "validationData",
)
_PLAIN = (type(None), bool, int, float, str)


class Space:
    """Space of options, checked against an estimator.

    Args:
        space: A dict whose keys are options, and whose values are an Optuna distribution or a list of choices. The key
            `modelParams` has a dict of them by the parameters of modelFn. Or a function that takes an `optuna.Trial`
            and returns a dict of values by option.
        estimator: The estimator.

    Raises:
        OptionError: The estimator has no such option, or the option can't have a value of its distribution.
    """

    def __init__(self, space: SpaceLike, estimator: KerasEstimator) -> None:
        self._space, self._estimator = space, estimator
        self._function = space if callable(space) else None
        self._distributions: dict[str, BaseDistribution] = {}
        self._choices: dict[str, dict[str, Any]] = {}
        if isinstance(space, Mapping):
            if not space:
                raise _no_space(space)
            for name, values in space.items():
                self._add(name, values)
            self._check_model_params("modelFn" in space)
        elif self._function is None:
            raise _no_space(space)

    def __str__(self) -> str:
        """Describe the space; equal spaces have equal descriptions."""
        if self._function is not None:
            return f"{display_name(self._function)} {code_digest(self._function)[:12]}"
        return ", ".join(f"{name}: {distribution}" for name, distribution in sorted(self._distributions.items()))

    def of(self, estimator: KerasEstimator) -> Space:
        """Return the same space over another estimator."""
        return Space(self._space, estimator)

    @property
    def names(self) -> set[str]:
        """The options that vary; empty for a function."""
        return {name.partition(".")[0] for name in self._distributions}

    @property
    def fewest_workers(self) -> int:
        """The smallest numWorkers of a trial, as far as it is known before."""
        own = int(self._estimator.getOrDefault("numWorkers"))
        match self._distributions.get("numWorkers"):
            case IntDistribution(low=low):
                return int(low)
            case CategoricalDistribution(choices=choices):
                return min(int(choice) for choice in choices if isinstance(choice, int))
        return own

    def suggest(self, trial: Trial | FixedTrial) -> dict[str, Any]:
        """Ask a trial for its values, by option.

        Args:
            trial: The trial, which gets its params here.

        Raises:
            OptionError: The function doesn't return a dict of values of the estimator's options.
        """
        if self._function is not None:
            found = self._function(trial)
            if not isinstance(found, Mapping):
                raise _no_space(found)
            for name, value in found.items():
                self._check_value(name, value)
            return dict(found)
        values: dict[str, Any] = {}
        for name, distribution in self._distributions.items():
            value = _suggested(trial, name, distribution)
            value = self._choices[name][value] if name in self._choices else value
            option, _, parameter = name.partition(".")
            if parameter:
                values.setdefault(option, {})[parameter] = value
            else:
                values[option] = value
        return values

    def estimator(self, values: Mapping[str, Any]) -> KerasEstimator:
        """Return a copy of the estimator with a trial's values; modelParams that it doesn't name stay as they are."""
        changed = dict(values)
        if _MODEL_PARAMS in changed:
            changed[_MODEL_PARAMS] = {**(self._estimator.getOrDefault(_MODEL_PARAMS) or {}), **changed[_MODEL_PARAMS]}
        return self._estimator.copy({self._estimator.getParam(name): value for name, value in changed.items()})

    def _add(self, name: str, values: Any) -> None:
        if name == _MODEL_PARAMS and isinstance(values, Mapping):
            for parameter, inner in values.items():
                self._distributions[f"{name}.{parameter}"] = self._distribution(f"{name}.{parameter}", inner)
            return
        distribution = self._distribution(name, values)
        self._distributions[name] = distribution
        match distribution:
            case CategoricalDistribution(choices=choices):
                for choice in choices:
                    self._check_value(name, self._choices[name][str(choice)] if name in self._choices else choice)
            case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
                self._check_value(name, low)
                self._check_value(name, high)
                if isinstance(distribution, FloatDistribution) and distribution.step is None:
                    self._check_value(name, low + 0.618 * (high - low))  # an option that takes whole numbers only

    def _check_model_params(self, varied: bool) -> None:
        """Check that modelFn takes the modelParams that vary; `varied` says whether the space has the functions."""
        parameters = [name.partition(".")[2] for name in self._distributions if name.partition(".")[0] == _MODEL_PARAMS]
        function = self._estimator.getOrDefault("modelFn")
        if not parameters or varied:
            return
        if function is None:
            raise OptionError(
                explain(
                    "modelParams need a modelFn.",
                    expected="an estimator with modelFn, a function that builds the model by these parameters",
                    received=f"{', '.join(self._distributions)}, and no modelFn",
                    fix="Set modelFn in place of model, or leave modelParams out of the space.",
                )
            )
        taken = inspect.signature(function).parameters
        open_ended = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        for parameter in parameters:
            if parameter and parameter not in taken and not open_ended:
                raise OptionError(
                    explain(
                        f"modelFn has no parameter {parameter!r}.",
                        expected="its parameters below modelParams",
                        received=f"modelParams.{parameter}",
                        fix=hint(parameter, taken),
                    )
                )

    def _distribution(self, name: str, values: Any) -> BaseDistribution:
        if isinstance(values, BaseDistribution):
            return values
        if isinstance(values, Sequence) and not isinstance(values, str):
            if not len(values):
                raise OptionError(
                    explain(
                        f"The space has no choices for {name}.",
                        expected="at least one choice",
                        received=repr(values),
                        fix=f"Add choices, or leave {name} out.",
                    )
                )
            if all(isinstance(value, _PLAIN) for value in values):
                return CategoricalDistribution(tuple(values))
            # A storage holds plain values only.
            self._choices[name] = {f"{place}: {display_name(value)}": value for place, value in enumerate(values)}
            return CategoricalDistribution(tuple(self._choices[name]))
        raise OptionError(
            explain(
                f"The space can't take these values of {name}.",
                expected="a list of choices, or a distribution such as optuna.distributions.FloatDistribution(1e-4, "
                "1e-1, log=True)",
                received=f"{values!r} ({type(values).__name__})",
                fix=f"Write [{values!r}] for one choice, or leave {name} out and set it on the estimator.",
            )
        )

    def _check_value(self, name: str, value: Any) -> None:
        names = [param.name for param in self._estimator.params]
        if name in _OF_THE_SEARCH:
            raise OptionError(
                explain(
                    f"{name} belongs to the search, not to its trials.",
                    expected="options that change the model or its training",
                    received=name,
                    fix=f"Set {name} on the estimator, or leave it out.",
                )
            )
        if name not in names:
            raise OptionError(
                explain(
                    f"The space has {name!r}, which is no option of the {type(self._estimator).__name__}.",
                    expected="options of the estimator; parameters of modelFn go below modelParams",
                    received=name,
                    fix=hint(name, names),
                )
            )
        declared(name).check(value)


def _suggested(trial: Trial | FixedTrial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{distribution} is no distribution of Optuna")


def _no_space(received: Any) -> OptionError:
    return OptionError(
        explain(
            "There is no space to search.",
            expected="a dict of distributions or choices by option, or a function of an optuna.Trial that returns "
            "values by option",
            received=f"{received!r} ({type(received).__name__})",
            fix="Write space={'learningRate': FloatDistribution(1e-4, 1e-1, log=True)}.",
        )
    )
