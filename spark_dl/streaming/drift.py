"""ADWIN: a window over numbers that shrinks when their mean has changed.

Source: Bifet and Gavaldà: Learning from Time-Changing Data with Adaptive Windowing, SIAM SDM 2007.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from spark_dl.streaming.checks import check_integer, check_number

__all__ = ["Adwin"]

# The paper's M: buckets of one size before two of them are merged.
_MOST_BUCKETS = 5
# Values in a window, and in each of its parts, below which nothing is compared.
_LEAST_WINDOW, _LEAST_PART = 10, 5


@dataclass
class Adwin:
    """Adaptive window over numbers within [0, 1], such as the errors of predictions.

    The window is kept as an exponential histogram, whose size grows with the logarithm of the number of values. It is
    cut where the means of its older and its newer part differ significantly (ADWIN2, with the bound of the paper's
    equation 3.1 and delta' = delta / ln n).

    Attributes:
        delta: The confidence: roughly the false positive rate of a comparison.
        every: The number of values between two comparisons.

    Raises:
        OptionError: A value can't be used.

    Example:

        >>> window = Adwin()
        >>> window.update([0.0] * 200)
        False
        >>> window.update([1.0] * 200), window.mean > 0.9
        (True, True)
    """

    delta: float = 0.002
    every: int = 32
    _rows: list[list[tuple[float, float]]] = field(default_factory=list, init=False, repr=False, compare=False)
    _values: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("delta", self.delta, 0, 1, positive=True)
        check_integer("every", self.every, 1)

    @property
    def width(self) -> int:
        """The number of values in the window."""
        return sum(len(row) << level for level, row in enumerate(self._rows))

    @property
    def mean(self) -> float:
        """The mean of the values in the window; 0 without values."""
        return sum(total for row in self._rows for total, _ in row) / max(1, self.width)

    def update(self, values: Iterable[float]) -> bool:
        """Add values in their order.

        Args:
            values: The values, within [0, 1].

        Returns:
            Whether the window was cut: the values of before the change have left it.
        """
        cut = False
        for value in values:
            self._add(float(value))
            self._values += 1
            if self._values % self.every == 0:
                cut |= self._shrink()
        return cut

    def state(self) -> dict[str, Any]:
        """Return the window as a JSON-compatible dict, which `restored` takes."""
        return {"rows": [[list(bucket) for bucket in row] for row in self._rows], "values": self._values}

    def restored(self, state: dict[str, Any] | None) -> Adwin:
        """Return a window of the same settings with the values of a state; empty for None."""
        made = Adwin(self.delta, self.every)
        if state:
            made._rows = [[(float(total), float(spread)) for total, spread in row] for row in state["rows"]]
            made._values = int(state["values"])
        return made

    def _add(self, value: float) -> None:
        """Add a value as a new bucket, and merge the two oldest buckets of each size that has too many."""
        if not self._rows:
            self._rows.append([])
        self._rows[0].append((value, 0.0))
        for level, row in enumerate(self._rows):
            if len(row) <= _MOST_BUCKETS:
                break
            if level + 1 == len(self._rows):
                self._rows.append([])
            size = 1 << level
            merged = _joined((size, *row[0]), (size, *row[1]))
            del row[:2]
            self._rows[level + 1].append(merged[1:])

    def _shrink(self) -> bool:
        """Drop the oldest bucket as long as an older and a newer part differ; return whether one was dropped."""
        cut = False
        while self.width >= _LEAST_WINDOW and self._differs():
            oldest = len(self._rows) - 1
            del self._rows[oldest][0]
            while self._rows and not self._rows[-1]:
                self._rows.pop()
            cut = True
        return cut

    def _differs(self) -> bool:
        buckets = [
            (1 << level, *bucket) for level in range(len(self._rows) - 1, -1, -1) for bucket in self._rows[level]
        ]
        whole = (0, 0.0, 0.0)
        for bucket in buckets:
            whole = _joined(whole, bucket)
        rows, total, spread = whole
        variance, log = spread / rows, math.log(2 * math.log(rows) / self.delta)
        older, sum_of_older = 0, 0.0
        for size, part, _ in buckets[:-1]:
            older, sum_of_older = older + size, sum_of_older + part
            newer = rows - older
            if min(older, newer) < _LEAST_PART:
                continue
            inverse = 1 / older + 1 / newer  # of the paper's m
            bound = math.sqrt(2 * inverse * variance * log) + 2 / 3 * inverse * log
            if abs(sum_of_older / older - (total - sum_of_older) / newer) > bound:
                return True
        return False


def _joined(one: tuple[int, float, float], other: tuple[int, float, float]) -> tuple[int, float, float]:
    """Join two parts, each as its number of values, their sum, and the sum of squared deviations from their mean."""
    rows = one[0] + other[0]
    if not one[0] or not other[0]:
        return rows, one[1] + other[1], one[2] + other[2]
    apart = one[1] / one[0] - other[1] / other[0]
    return rows, one[1] + other[1], one[2] + other[2] + apart * apart * one[0] * other[0] / rows
