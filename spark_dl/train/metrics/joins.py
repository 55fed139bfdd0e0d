"""Rules that join a metric's state over ranks or tasks, found by trying the metric on synthetic labels and outputs.

All of Keras's metrics keep sums. A custom metric may keep a maximum, a mean, the last value, or a Python object: each
of its state variables is joined by the rule that gives the state of a single process, if there is one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from spark_dl._compat.keras import compile_metrics, copied_value, is_compile_metrics, wrapped_function
from spark_dl.train.model.constants import rows_near
from spark_dl.train.model.examples import Example
from spark_dl.train.model.parts import is_keras, leaves

__all__ = [
    "MERGE",
    "RULES",
    "MetricJoin",
    "copy_of",
    "is_summed",
    "leaf_metrics",
    "metric_joins",
    "user_metrics",
    "values_of",
]

# Rules by name: (the initial state, the states of several processes, shape (processes, numbers)) -> the state of all
# rows.
RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum": lambda initial, states: initial + (states - initial).sum(axis=0),
    "max": lambda initial, states: states.max(axis=0),
    "min": lambda initial, states: states.min(axis=0),
}
# Method of metrics that join states themselves, as in tf.keras.
MERGE = "merge_state"
_ROWS = ((3, 5), (4, 2))
# Repetitions of a batch after which a sum is tried once more: it may have an upper limit, or start again.
_MANY = (1e3, 1e6)
# Pairs of batches, each the arguments of `update_state`.
_Trials = list[tuple[Any, ...]]


@dataclass(frozen=True)
class MetricJoin:
    """Join rules of one metric.

    Attributes:
        metric: The metric's name and class, for messages.
        thing: The compiled object: the metric, its class, its name, or a function.
        kind: The metric's class.
        rules: The name of a rule in RULES for each of its variables, or "" if no rule fits; ("merge_state",) if the
            metric joins its states itself.
        outside: Whether it keeps state outside its variables.
        per_batch: Whether its value depends on how rows are divided into batches.
        tried: Whether it could be tried, and a state changed; if not, its states are assumed to be sums.
    """

    metric: str
    thing: Any
    kind: type
    rules: tuple[str, ...] = ()
    outside: bool = False
    per_batch: bool = False
    tried: bool = True

    @property
    def joins(self) -> bool:
        """Whether the joined states of several processes equal the state of a single one."""
        return not self.outside and "" not in self.rules


def leaf_metrics(model: keras.Model) -> list[keras.Metric]:
    """Return the model's metrics in the order of its `metrics_variables`, compiled metrics one by one."""
    found: list[keras.Metric] = []
    for metric in model.metrics:
        found += metric.metrics if is_compile_metrics(metric) else [metric]
    return found


def user_metrics(model: keras.Model) -> list[Any]:
    """Return all metrics that may be custom: those passed to `compile`, built or not, and those that layers hold."""
    given = leaves(compile_metrics(model))
    held = [metric for metric in model.metrics if not is_compile_metrics(metric)]
    return list({id(thing): thing for thing in [*given, *held] if thing is not None}.values())


def is_summed(metric: Any) -> bool:
    """Return whether a metric's states are sums because Keras's own code updates them."""
    if isinstance(metric, str):
        try:
            metric = keras.metrics.get(metric)
        except ValueError:  # a name that Keras resolves once it knows the outputs
            return True
    if not isinstance(metric, keras.Metric):
        return is_keras(metric)
    wrapped, _ = wrapped_function(metric)
    own = wrapped is not None and not is_keras(wrapped if hasattr(wrapped, "__name__") else type(wrapped))
    return is_keras(type(metric).update_state) and not _merges(metric) and not own


def _merges(metric: keras.Metric) -> bool:
    return callable(getattr(type(metric), MERGE, None))


def metric_joins(
    model: keras.Model, examples: Callable[[], Sequence[Example]], weighted: bool = False
) -> list[MetricJoin]:
    """Find the join rules of custom metrics; the states of Keras's own are sums.

    Args:
        model: The compiled Keras model.
        examples: The function that returns example labels and outputs; called only if a metric must be tried.
        weighted: Whether rows have weights, which metrics in `weighted_metrics` take.
    """
    unknown = [thing for thing in user_metrics(model) if not is_summed(thing)]
    if not unknown:
        return []
    try:
        like = list(examples())
    except Exception:  # the outputs of a subclassed model may be unknown
        like = []
    of_weights = {id(thing) for thing in leaves(compile_metrics(model)[1])} if weighted else set()
    return [_tried(thing, like, id(thing) in of_weights) for thing in unknown]


def _as_metric(thing: Any) -> keras.Metric:
    """Return the metric that Keras makes of an object passed to `compile`."""
    found = keras.metrics.get(thing) if not isinstance(thing, keras.Metric) else thing
    if isinstance(found, keras.Metric):
        return found
    name = getattr(thing, "__name__", None) or getattr(thing, "name", None) or type(thing).__name__
    return keras.metrics.MeanMetricWrapper(found, name=name)


def values_of(model: keras.Model, examples: Sequence[Example]) -> dict[str, int]:
    """Return the number of values per epoch of each metric, by name; metrics that can't be tried are left out."""
    found: dict[str, int] = {}
    for thing in user_metrics(model):
        for example in examples:
            try:
                metric = copy_of(_as_metric(thing))
                metric.update_state(*next(example.pairs(3, np.random.default_rng(0))))
                name = thing if isinstance(thing, str) else metric.name
                found[name] = max(int(np.size(value)) for value in keras.tree.flatten(metric.result()))
            except Exception:  # noqa: S112 - the metric belongs to another output
                continue
    return found


def copy_of(metric: keras.Metric) -> keras.Metric:
    """Return a metric of the same class and config with separate state."""
    kind = type(metric)
    if isinstance(metric, keras.metrics.MeanMetricWrapper) and is_keras(kind) and kind.__name__ == "MeanMetricWrapper":
        function, arguments = wrapped_function(metric)
        return kind(function, name=metric.name, dtype=metric.dtype, **arguments)
    return kind.from_config(metric.get_config())


def _tried(thing: Any, examples: Sequence[Example], weighted: bool) -> MetricJoin:
    metric = _as_metric(thing)
    untried = MetricJoin(f"{metric.name!r} ({type(metric).__name__})", thing, type(metric), tried=False)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wrapped, _ = wrapped_function(metric)
        sizes = (*_ROWS, *rows_near(metric if wrapped is None else wrapped))
        for trials in _all_trials(examples, weighted, sizes):
            try:
                return _Trial(metric, trials).join(untried)
            except Exception:  # noqa: S112 - the metric takes other labels and outputs
                continue
    return untried


def _all_trials(examples: Sequence[Example], weighted: bool, sizes: Sequence[tuple[int, int]]) -> Iterator[_Trials]:
    """Yield pairs of batches as arguments of `update_state`: labels, outputs, weights; or values only as for Mean."""
    random = np.random.default_rng(0)
    for trials in _label_trials(examples, random, sizes):
        if weighted:
            yield [
                tuple((*batch, random.uniform(0.2, 3.0, len(batch[0])).astype(np.float32)) for batch in pair)
                for pair in trials
            ]
        yield trials
    yield [tuple((random.normal(1.0, 2.0, n).astype(np.float32),) for n in rows) for rows in sizes]


def _label_trials(
    examples: Sequence[Example], random: np.random.Generator, sizes: Sequence[tuple[int, int]]
) -> Iterator[_Trials]:
    for example in examples:
        pairs = [zip(*(example.pairs(n, random) for n in rows), strict=True) for rows in sizes]
        whole = [pair for both in pairs for pair in both]
        yield whole
        # A metric may take labels of one kind only.
        kinds = len(whole) // len(sizes)
        for kind in range(kinds) if kinds > 1 else ():
            yield whole[kind::kinds]


class _Trial:
    """Trial of one metric on pairs of batches; it uses copies, so that the user's metric is unchanged."""

    def __init__(self, metric: keras.Metric, trials: _Trials) -> None:
        self._metric = copy_of(metric)
        self._other = copy_of(metric)
        self._trials = trials
        built = {id(variable): copied_value(variable) for variable in self._metric.variables}
        first, second = trials[0]
        self._metric.update_state(*first)  # some create their variables on first use
        self._other.update_state(*second)
        reset = self._states()
        # Keras's own reset sets 0, whatever the initial value: the first epoch begins with other states than the rest.
        variables = self._metric.variables
        fresh = [
            np.asarray(built.get(id(v), state)).astype(np.float64) for v, state in zip(variables, reset, strict=True)
        ]
        self._starts: list[list[np.ndarray]] = [reset] if all(map(_same, fresh, reset)) else [reset, fresh]

    def join(self, untried: MetricJoin) -> MetricJoin:
        """Return the join rules that hold in all trials."""
        merges = _merges(self._metric)
        fitting: list[set[str]] = [set(RULES) for _ in self._metric.variables]
        outside = per_batch = moved = False
        for start in self._starts:
            for one, other in self._trials:
                both = self._fit_rules(fitting, start, one, other)
                result = self._result(self._metric)
                moved |= not all(map(_same, both, start))
                outside |= not self._results_from(both, result)
                self._states(tuple(np.concatenate(pair) for pair in zip(one, other, strict=True)), start=start)
                per_batch |= not _same(self._result(self._metric), result)
        for index in () if merges else self._limited(fitting, *self._trials[0]):
            fitting[index].clear()
        rules = (MERGE,) if merges else tuple(next((name for name in RULES if name in fit), "") for fit in fitting)
        return replace(untried, rules=rules, outside=outside, per_batch=per_batch, tried=moved or outside)

    def _fit_rules(
        self,
        fitting: Sequence[set[str]],
        start: Sequence[np.ndarray],
        one: tuple[Any, ...],
        other: tuple[Any, ...],
    ) -> list[np.ndarray]:
        """Remove the rules that don't give the states of both batches, and return these."""
        # Sums and maxima don't depend on the order of batches, so both orders are tried.
        orders = ((one,), (other,), (other, one), (one, other))
        first, second, turned, both = (self._states(*batches, start=start) for batches in orders)
        for index, possible in enumerate(fitting):
            parts = np.stack([first[index], second[index]])
            joined = {name: rule(start[index], parts) for name, rule in RULES.items()}
            expected = (both[index], turned[index])
            possible -= {name for name, state in joined.items() if not all(_same(state, e) for e in expected)}
        return both

    def _limited(self, fitting: Sequence[set[str]], one: tuple[Any, ...], other: tuple[Any, ...]) -> list[int]:
        """Return the indices of sums that change otherwise after many rows than after few."""
        initial, first, second = (self._states(*given) for given in ((), (one,), (other,)))
        found: set[int] = set()
        for times in _MANY:
            many = [
                begin + (times if "sum" in fit else 1) * (state - begin)
                for fit, begin, state in zip(fitting, initial, first, strict=True)
            ]
            if not all(map(_holds, self._metric.variables, many)):
                break
            after = self._states(other, start=many)
            for index, fit in enumerate(fitting):
                change, expected = after[index] - many[index], second[index] - initial[index]
                rounding = 1e-6 + 1e-6 * np.abs(many[index])
                if "sum" in fit and not np.all(np.abs(change - expected) <= rounding + 0.3 * np.abs(expected)):
                    found.add(index)
        return sorted(found)

    def _states(self, *batches: tuple[Any, ...], start: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Return the states after updates with batches, from the initial states or from others."""
        self._metric.reset_state()
        for variable, state in zip(self._metric.variables, start, strict=False):
            variable.assign(state.astype(str(variable.dtype)))
        for batch in batches:
            self._metric.update_state(*batch)
        return [np.asarray(variable).astype(np.float64) for variable in self._metric.variables]

    def _results_from(self, states: list[np.ndarray], expected: np.ndarray) -> bool:
        """Return whether another metric with these states gives the same result, so that variables hold all state."""
        if len(self._other.variables) != len(states):
            return False
        for variable, state in zip(self._other.variables, states, strict=True):
            variable.assign(state.astype(str(variable.dtype)))
        return _same(self._result(self._other), expected)

    def _result(self, metric: keras.Metric) -> np.ndarray:
        values = keras.tree.flatten(metric.result())
        return np.concatenate([np.asarray(value, np.float64).ravel() for value in values] or [np.zeros(0)])


def _holds(variable: Any, state: np.ndarray) -> bool:
    """Return whether a variable's dtype holds the numbers of a state."""
    dtype = str(variable.dtype)
    if "float" not in dtype and "int" not in dtype:
        return True
    greatest = 3e38 if "float" in dtype and dtype != "float16" else 6e4 if "float" in dtype else np.iinfo(dtype).max
    return bool(np.all(np.abs(state) <= greatest))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
