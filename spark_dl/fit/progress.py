"""What the user sees while a fit runs: a bar for each epoch, or a line, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from spark_dl.redaction import redact

__all__ = ["SPEEDS", "Progress"]

# What an epoch's line and the run tell of its speed: fields of train.speed.Speed.
SPEEDS = ("rows_per_second", "step_ms", "input_wait", "collective_wait", "bytes_reduced")

_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}"


class Progress:
    """Draws the ranks' reports.

    Args:
        verbose: 0 nothing, 1 a bar, 2 a line for each epoch.
        epochs: how many there are.
        steps: steps in an epoch.
        stream: where it is drawn.

    Attributes:
        steps: steps in an epoch; another number of workers takes another number.
    """

    def __init__(self, verbose: int, epochs: int, steps: int, stream: TextIO | None = None) -> None:
        self._verbose = verbose
        self._epochs = epochs
        self.steps = steps
        self._stream = stream or sys.stderr
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def say(self, text: str) -> None:
        """One line, unless silent."""
        if self._verbose:
            self._stream.write(redact(text) + "\n")
            self._stream.flush()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """A step has been taken."""
        if self._verbose == 1:
            self._draw(epoch, step, f"loss={loss:.4f}")

    def epoch(self, epoch: int, logs: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        """An epoch has ended.

        Args:
            epoch: its number, from 0.
            logs: its metrics: numbers, or lists of them.
            speed: what SPEEDS names.
        """
        values = "  ".join(f"{name}={_number(value)}" for name, value in logs.items())
        text = f"{values}  {_shown(speed)}"
        if self._verbose == 1:
            self._draw(epoch, self.steps, text)
            self._close()
        else:
            self.say(f"Epoch {epoch + 1}/{self._epochs}  {text}")

    def _draw(self, epoch: int, step: int, text: str) -> None:
        if self._bar is None:
            name = f"Epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(total=self.steps, desc=name, file=self._stream, bar_format=_BAR, delay=1e-9)
        # tqdm's own postfix begins with a comma.
        self._bar.bar_format = f"{_BAR}  {text}"
        self._bar.n = step
        self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _number(value: Any) -> str:
    """A metric's value; of one with many, the first and the last."""
    if not isinstance(value, list):
        return f"{value:.4f}"
    return np.array2string(np.array(value), precision=4, threshold=8, edgeitems=2, separator=", ").replace("\n", "")


def _shown(speed: Mapping[str, float]) -> str:
    text = f"{speed['rows_per_second']:,.0f} rows/s, {speed['step_ms']:.1f} ms a step"
    if speed["bytes_reduced"]:
        text += f", collectives {speed['collective_wait']:.0%} ({speed['bytes_reduced'] / 1e6:,.1f} MB)"
    return f"{text}, input wait {speed['input_wait']:.0%}"
