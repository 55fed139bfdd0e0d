"""Random draws of a conversion: the validation rows, and the resampling of training rows to balance classes."""

from __future__ import annotations

import numpy as np

from spark_dl.data.ragged import Values

__all__ = ["RowSampler"]


class RowSampler:
    """Random draws for one partition, reproducible for the same rows in the same order.

    Args:
        seed: The seed of the draws.
        partition: The partition's number.
        fraction: The fraction of rows for validation.
        by_class: Whether to draw that fraction from each class, exact to one row per class and partition.
        factors: How often a training row is written on average, by class index; empty where each row is written once.
    """

    def __init__(
        self, seed: int, partition: int, fraction: float = 0.0, by_class: bool = False, factors: tuple[float, ...] = ()
    ) -> None:
        self._random = np.random.default_rng([seed, partition])
        # A separate generator, so that resampling doesn't change the validation rows.
        self._repeating = np.random.default_rng([seed, partition, 1])
        self._fraction = fraction
        self._by_class = by_class
        self._factors = np.array(factors)
        self._seen: dict[int, float] = {}

    def validation(self, classes: Values) -> np.ndarray:
        """Draw the validation rows of a batch.

        Args:
            classes: The class index of each row, shape (rows,); only its length matters unless `by_class` is set.

        Returns:
            A boolean mask of shape (rows,).
        """
        if not self._by_class:
            return self._random.random(len(classes)) < self._fraction
        classes, chosen = np.asarray(classes), np.zeros(len(classes), bool)
        for index in np.unique(classes).tolist():
            rows = self._random.permutation(np.flatnonzero(classes == index))
            # The class's expected number of validation rows so far, with a random start in [0, 1).
            had = self._seen[index] if index in self._seen else self._random.random()
            ends = had + self._fraction * np.arange(len(rows) + 1)
            chosen[rows] = np.diff(np.floor(ends)) > 0
            self._seen[index] = float(ends[-1])
        return chosen

    def resample(self, classes: Values, validation: np.ndarray) -> np.ndarray | None:
        """Draw how often each row of a batch is written.

        Args:
            classes: The class index of each row, shape (rows,).
            validation: The boolean mask of the validation rows, which are written once.

        Returns:
            The indices of the rows to write, with repetitions and omissions; None to write each row once.
        """
        if not len(self._factors):
            return None
        often = np.where(validation, 1.0, self._factors[np.asarray(classes)])
        times = np.floor(often + self._repeating.random(len(classes))).astype(np.int64)
        return np.repeat(np.arange(len(classes)), times)
