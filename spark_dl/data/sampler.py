"""Which rows are for validation, and how often one for training is written: by seed, partition and label."""

from __future__ import annotations

import numpy as np

__all__ = ["RowSampler"]


class RowSampler:
    """The draws of one partition: the same for the same rows in the same order.

    Args:
        seed: of the draws.
        partition: the partition's number.
        fraction: part of the rows for validation.
        by_class: draw that part from each class: it is kept to a row for each class in each partition.
        factors: how often a row for training is written, by its class, on average; empty where each is written once.
    """

    def __init__(
        self, seed: int, partition: int, fraction: float = 0.0, by_class: bool = False, factors: tuple[float, ...] = ()
    ) -> None:
        self._random = np.random.default_rng([seed, partition])
        # Of its own, so that what is written more often changes nothing about the rows for validation.
        self._repeating = np.random.default_rng([seed, partition, 1])
        self._fraction = fraction
        self._by_class = by_class
        self._factors = np.array(factors)
        self._seen: dict[int, float] = {}

    def validation(self, classes: np.ndarray) -> np.ndarray:
        """Which rows of a batch are for validation.

        Args:
            classes: class index of each row, shape (rows,); only counted where they aren't drawn by class.

        Returns:
            boolean, shape (rows,).
        """
        if not self._by_class:
            return self._random.random(len(classes)) < self._fraction
        chosen = np.zeros(len(classes), bool)
        for index in np.unique(classes).tolist():
            rows = self._random.permutation(np.flatnonzero(classes == index))
            # What the class has had so far, in rows for validation; it begins anywhere below one.
            had = self._seen[index] if index in self._seen else self._random.random()
            ends = had + self._fraction * np.arange(len(rows) + 1)
            chosen[rows] = np.diff(np.floor(ends)) > 0
            self._seen[index] = float(ends[-1])
        return chosen

    def resample(self, classes: np.ndarray, validation: np.ndarray) -> np.ndarray | None:
        """The rows of a batch as they are written: their places, some more than once, some not at all.

        None stands for all of them, as they are.

        Args:
            classes: class index of each row, shape (rows,).
            validation: which are for validation: they are written once.
        """
        if not len(self._factors):
            return None
        often = np.where(validation, 1.0, self._factors[classes])
        times = np.floor(often + self._repeating.random(len(classes))).astype(np.int64)
        return np.repeat(np.arange(len(classes)), times)
