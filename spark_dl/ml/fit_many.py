"""Fits of one DataFrame by several param maps, with shared converted rows and a limit on parallel fits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from pyspark.sql import DataFrame

from spark_dl.ml.shared_rows import SharedRows, StepwiseEstimator

__all__ = ["FitMany"]

M_co = TypeVar("M_co", covariant=True)


class FitMany(Iterator[tuple[int, M_co]], Generic[M_co]):
    """Thread-safe iterator of (index of the estimator, fitted model), in any order.

    CrossValidator calls it from several threads. The converted rows are removed after the last fit, or when a fit
    fails; later calls then raise the same error. Callers that don't take all models call `close()` or use a `with`.
    Otherwise, the rows are removed with the last reference to this object, or when the process ends.

    Args:
        estimators: The estimators, one per fit.
        dataset: The DataFrame.
        at_once: The number of fits that may run in parallel.
        parent: The id of the parent record at the tracker; empty for none.
    """

    def __init__(
        self,
        estimators: Sequence[StepwiseEstimator[M_co]],
        dataset: DataFrame,
        at_once: int,
        parent: str,
    ) -> None:
        self._estimators = estimators
        self._dataset = dataset
        self._parent = parent
        self._slots = threading.Semaphore(at_once)
        self._lock = threading.Lock()
        self._rows = SharedRows()
        self._next = self._running = 0
        self._closed = False
        self._failed: BaseException | None = None

    def __next__(self) -> tuple[int, M_co]:
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._closed or self._next == len(self._estimators):
                raise StopIteration
            index, self._next, self._running = self._next, self._next + 1, self._running + 1
        try:
            estimator = self._estimators[index]
            with self._slots:
                spec, rows = estimator._checked(self._dataset)
                return index, estimator._fit_converted(spec, self._rows.of(estimator, spec, rows), self._parent)
        except BaseException as error:
            self._failed = error
            raise
        finally:
            with self._lock:
                self._running -= 1
            self._remove_if_ended()

    def close(self) -> None:
        """End the iteration; remove the converted rows now, or after the last running fit."""
        with self._lock:
            self._closed = True
        self._remove_if_ended()

    def __enter__(self) -> FitMany[M_co]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _remove_if_ended(self) -> None:
        with self._lock:
            none_follows = self._closed or self._failed is not None or self._next == len(self._estimators)
            ended = none_follows and not self._running
        if ended:
            self._rows.close()
