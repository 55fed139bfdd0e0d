"""The progress display of a fit: a bar per epoch, a line per epoch, or nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from spark_dl.redaction import redact
from spark_dl.train.reports import Speed

__all__ = ["Progress"]

_log = logging.getLogger(__name__)

_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}"


class Progress:
    """Display of training progress, which is logged, too.

    Args:
        verbose: 0 for no output, 1 for a bar per epoch, 2 for a line per epoch.
        epochs: The number of epochs.
        steps: The number of steps in an epoch.
        stream: The stream to write to; stderr by default.

    Attributes:
        steps: The number of steps in an epoch; it changes with the number of workers.
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

    def show(self, text: str, level: int = logging.INFO) -> None:
        """Log a text, and write it as a line unless verbose is 0. Credentials are redacted.

        Args:
            text: The text.
            level: The level of the log record.
        """
        _log.log(level, "%s", redact(text))
        if self._verbose:
            self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(redact(text) + "\n")
        self._stream.flush()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Show the progress after a step.

        Args:
            epoch: The current epoch, from 0.
            step: The number of steps done in the epoch.
            loss: The current loss.
        """
        if self._verbose == 1:
            self._draw(epoch, step, f"loss={loss:.4f}")

    def epoch(self, epoch: int, logs: Mapping[str, Any], speed: Speed) -> None:
        """Show the metrics of a finished epoch.

        Args:
            epoch: The epoch, from 0.
            logs: The epoch's metrics: numbers, or lists of numbers.
            speed: The epoch's throughput.
        """
        values = "  ".join(f"{name}={_number(value)}" for name, value in logs.items())
        text = f"{values}  {_shown(speed)}"
        line = f"Epoch {epoch + 1}/{self._epochs}  {text}"
        throughput = {name: value for name, value in vars(speed).items() if name != "ranks"}
        fields = {"event": "epoch", "epoch": epoch + 1, "metrics": dict(logs), "speed": throughput}
        _log.info("%s", redact(line), extra=fields)
        if self._verbose == 1:
            self._draw(epoch, self.steps, text)
            self._close()
        elif self._verbose:
            self._write(line)

    def _draw(self, epoch: int, step: int, text: str) -> None:
        if self._bar is None:
            name = f"Epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(total=self.steps, desc=name, file=self._stream, bar_format=_BAR, delay=1e-9)
        # The text is in the format, as tqdm's postfix begins with a comma.
        self._bar.bar_format = f"{_BAR}  {text}"
        self._bar.n = step
        self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _number(value: Any) -> str:
    """Format a metric's value; of a long list, only the first and the last values."""
    if not isinstance(value, list):
        return f"{value:.4f}"
    return np.array2string(np.array(value), precision=4, threshold=8, edgeitems=2, separator=", ").replace("\n", "")


def _shown(speed: Speed) -> str:
    text = f"{speed.rows_per_second:,.0f} rows/s, {speed.step_ms:.1f} ms a step"
    if speed.bytes_reduced:
        text += f", collectives {speed.collective_wait:.0%} ({speed.bytes_reduced / 1e6:,.1f} MB)"
    return f"{text}, input wait {speed.input_wait:.0%}"
