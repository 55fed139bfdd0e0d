"""Metrics as users write them: sums, extremes, means, last values, and states outside variables."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops


def flat(tensor: Any) -> Any:
    return ops.reshape(ops.cast(tensor, "float32"), (-1,))


def distance(y_true: Any, y_pred: Any) -> Any:
    return ops.abs(flat(y_true) - flat(y_pred))


class Greatest(keras.metrics.Metric):
    def __init__(self, name: str = "greatest", least: bool = False, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.least = least
        self.kept = self.add_weight(name="kept", initializer=keras.initializers.Constant(1e9 if least else 0.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "least": self.least}

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        apart = distance(y_true, y_pred)
        kept = ops.minimum(self.kept, ops.min(apart)) if self.least else ops.maximum(self.kept, ops.max(apart))
        self.kept.assign(kept)

    def reset_state(self) -> None:
        self.kept.assign(1e9 if self.least else 0.0)

    def result(self) -> Any:
        return self.kept * 1.0


class Smoothed(keras.metrics.Metric):
    """Begins at 1, as counts that are smoothed do."""

    def __init__(self, name: str = "smoothed", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="ones")
        self.rows = self.add_weight(name="rows", initializer="ones")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        apart = distance(y_true, y_pred)
        self.total.assign_add(ops.sum(apart))
        self.rows.assign_add(ops.cast(ops.size(apart), "float32"))

    def reset_state(self) -> None:
        self.total.assign(1.0)
        self.rows.assign(1.0)

    def result(self) -> Any:
        return self.total / self.rows


class ResetToZero(Smoothed):
    """Begins at 1 in the first epoch and at 0 in those after it: Keras's own reset."""

    reset_state = keras.metrics.Metric.reset_state

    def result(self) -> Any:
        return ops.divide_no_nan(self.total.value, self.rows.value)


class OfEachClass(keras.metrics.Metric):
    """Makes its variable when it is first used."""

    def __init__(self, name: str = "of_each_class", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.kept: Any = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if self.kept is None:
            self.kept = self.add_weight(name="kept", shape=(y_pred.shape[-1],), initializer="zeros")
        self.kept.assign(ops.maximum(self.kept, ops.max(ops.cast(y_pred, "float32"), axis=0)))

    def result(self) -> Any:
        return self.kept * 1.0


class Several(keras.metrics.Metric):
    """Holds others, and gives a dict."""

    def __init__(self, name: str = "several", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.mean, self.greatest = keras.metrics.Mean(), Greatest()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.mean.update_state(distance(y_true, y_pred))
        self.greatest.update_state(y_true, y_pred)

    def reset_state(self) -> None:
        self.mean.reset_state()
        self.greatest.reset_state()

    def result(self) -> Any:
        return {"mean_distance": self.mean.result(), "greatest_distance": self.greatest.result()}


class Ever(keras.metrics.Metric):
    """A state that is true or false."""

    def __init__(self, name: str = "ever", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.seen = self.add_weight(name="seen", dtype="bool", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.seen.assign(ops.logical_or(self.seen, ops.any(distance(y_true, y_pred) > 0.9)))

    def result(self) -> Any:
        return ops.cast(self.seen, "float32")


class RunningMean(keras.metrics.Metric):
    def __init__(self, name: str = "running_mean", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.rows = self.add_weight(name="rows", initializer="zeros")
        self.mean = self.add_weight(name="mean", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        apart = distance(y_true, y_pred)
        more = ops.cast(ops.size(apart), "float32")
        self.rows.assign_add(more)
        self.mean.assign_add((ops.mean(apart) - self.mean) * more / self.rows)

    def result(self) -> Any:
        return self.mean * 1.0


class Merged(RunningMean):
    """Says itself how it joins, as metrics of tf.keras do."""

    def merge_state(self, metrics: list[Any]) -> None:
        everyone = [self, *metrics]
        rows = sum(float(one.rows) for one in everyone)
        self.mean.assign(sum(float(one.mean) * float(one.rows) for one in everyone) / max(rows, 1.0))
        self.rows.assign(rows)


class Last(keras.metrics.Metric):
    def __init__(self, name: str = "last", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.kept = self.add_weight(name="kept", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.kept.assign(ops.mean(distance(y_true, y_pred)))

    def result(self) -> Any:
        return self.kept * 1.0


class Smoothing(Last):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.kept.assign(0.9 * self.kept + 0.1 * ops.mean(distance(y_true, y_pred)))


class InPython(keras.metrics.Metric):
    def __init__(self, name: str = "in_python", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.kept: list[float] = []

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.kept.append(float(ops.max(distance(y_true, y_pred))))

    def reset_state(self) -> None:
        self.kept = []

    def result(self) -> Any:
        return max(self.kept, default=0.0)


class TakesOtherThings(Greatest):
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if tf.executing_eagerly():  # as a metric that looks at the labels' values
            raise RuntimeError("other labels")
        super().update_state(y_true, y_pred, sample_weight)


class Subclass(keras.metrics.MeanSquaredError):
    def result(self) -> Any:
        return ops.sqrt(super().result())


def rooted(y_true: Any, y_pred: Any) -> Any:
    return ops.sqrt(ops.mean(ops.square(y_true - y_pred)))


def of_rows(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class Least(keras.metrics.Metric):
    """Begins at a large number in the first epoch and at 0 in those after it: Keras's own reset."""

    def __init__(self, name: str = "least_ever", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.kept = self.add_weight(name="kept", initializer=keras.initializers.Constant(1e9))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.kept.assign(ops.minimum(self.kept, ops.min(distance(y_true, y_pred))))

    def result(self) -> Any:
        return self.kept * 1.0


class Range(keras.metrics.Metric):
    """Holds metrics with different rules, one of them reset by Keras."""

    def __init__(self, name: str = "range", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.least, self.greatest = Least(), Greatest()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.least.update_state(y_true, y_pred)
        self.greatest.update_state(y_true, y_pred)

    def reset_state(self) -> None:
        self.least.reset_state()
        self.greatest.reset_state()

    def result(self) -> Any:
        return self.greatest.result() - self.least.result()


class Capped(keras.metrics.Metric):
    """Counts rows up to a limit, or the remainder of their number, or those of the first rows."""

    def __init__(self, name: str = "capped", limit: float = 1e5, how: str = "cap", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.limit, self.how = limit, how
        self.rows = self.add_weight(name="rows", initializer="zeros")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "limit": self.limit, "how": self.how}

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        more = self.rows + ops.cast(ops.shape(y_pred)[0], "float32")
        if self.how == "cap":
            more = ops.minimum(more, self.limit)
        elif self.how == "remainder":
            more = more % self.limit
        else:
            more = ops.where(self.rows >= self.limit, self.rows, more)
        self.rows.assign(more)

    def result(self) -> Any:
        return self.rows * 1.0


class FullBatches(Greatest):
    """Skips batches of few rows."""

    def __init__(self, name: str = "full_batches", rows: int = 12, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.rows = rows

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows}

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if y_pred.shape[0] >= self.rows:
            super().update_state(y_true, y_pred)
