"""Learning rate for many workers: scaled with their number, and warmed up.

Goyal et al., Accurate, Large Minibatch SGD (2017): with k times the batch, k times the learning rate, reached
gradually.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LearningRate", "scaling"]

_FACTORS: dict[str, Callable[[int], float]] = {"none": lambda n: 1.0, "linear": float, "sqrt": lambda n: n**0.5}


@dataclass(frozen=True)
class LearningRate:
    """Learning rate schedule of the warm-up.

    Attributes:
        target: The learning rate after the warm-up.
        first: The learning rate that the warm-up starts from.
        warmup_epochs: The length of the warm-up in epochs.
    """

    target: float
    first: float
    warmup_epochs: float

    def at(self, step: int, steps: int) -> float:
        """Return the learning rate of a training step.

        Args:
            step: The number of the step in the whole training, from 0.
            steps: The number of steps in an epoch.
        """
        length = self.warmup_epochs * steps
        part = min((step + 1) / length, 1.0) if length else 1.0
        return self.first + (self.target - self.first) * part


def scaling(rate: float, rule: str, workers: int, warmup_epochs: float) -> LearningRate:
    """Scale a learning rate for a number of workers.

    >>> scaling(0.1, "linear", 4, 5.0)
    LearningRate(target=0.4, first=0.1, warmup_epochs=5.0)
    >>> scaling(0.1, "none", 4, 2.0)
    LearningRate(target=0.1, first=0.0, warmup_epochs=2.0)
    """
    factor = _FACTORS[rule](workers)
    return LearningRate(rate * factor, rate if factor > 1 else 0.0, warmup_epochs)
