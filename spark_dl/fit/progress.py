"""The progress of a fit: a bar on a terminal, one output in a notebook, a line per epoch in a log, or nothing."""

from __future__ import annotations

import html
import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

import numpy as np
from tqdm import tqdm

from spark_dl.notebook.kernel import LiveOutput, in_notebook
from spark_dl.redaction import redact
from spark_dl.train.reports import Speed

__all__ = ["Progress"]

_log = logging.getLogger(__name__)

_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}"


class Progress:
    """Display of training progress, which is logged, too.

    With verbose=1, a terminal shows a bar per epoch and a notebook one output that is updated in place. Elsewhere, such
    as in the log of a job, there is a line per epoch, as with verbose=2.

    Args:
        verbose: 0 for no output, 1 for a bar where it can be shown, 2 for a line per epoch.
        epochs: The number of epochs.
        steps: The number of steps in an epoch.
        stream: The stream to write to; by default, the notebook's cell or stderr.

    Attributes:
        steps: The number of steps in an epoch; it changes with the number of workers.
    """

    def __init__(self, verbose: int, epochs: int, steps: int, stream: TextIO | None = None) -> None:
        self._epochs = epochs
        self.steps = steps
        self._display = _display(verbose, stream)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._display.end()

    def show(self, text: str, level: int = logging.INFO) -> None:
        """Log a text, and write it as a line unless verbose is 0. Credentials are redacted.

        Args:
            text: The text.
            level: The level of the log record.
        """
        _log.log(level, "%s", redact(text))
        self._display.line(redact(text))

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Show the progress after a step.

        Args:
            epoch: The current epoch, from 0.
            step: The number of steps done in the epoch.
            loss: The current loss.
        """
        self._display.step(self._name(epoch), step, self.steps, f"loss={loss:.4f}")

    def epoch(self, epoch: int, logs: Mapping[str, Any], speed: Speed) -> None:
        """Show the metrics of a finished epoch.

        Args:
            epoch: The epoch, from 0.
            logs: The epoch's metrics: numbers, or lists of numbers.
            speed: The epoch's throughput.
        """
        values = "  ".join(f"{name}={_number(value)}" for name, value in logs.items())
        text = f"{values}  {_shown(speed)}"
        throughput = {name: value for name, value in vars(speed).items() if name != "ranks"}
        fields = {"event": "epoch", "epoch": epoch + 1, "metrics": dict(logs), "speed": throughput}
        _log.info("%s", redact(f"{self._name(epoch)}  {text}"), extra=fields)
        self._display.epoch(self._name(epoch), self.steps, text)

    def _name(self, epoch: int) -> str:
        return f"Epoch {epoch + 1}/{self._epochs}"


class _Display(Protocol):
    """One way to show progress; texts hold no credentials."""

    def line(self, text: str) -> None:
        """Show a line."""

    def step(self, name: str, step: int, steps: int, text: str) -> None:
        """Show the steps done of the epoch with this name."""

    def epoch(self, name: str, steps: int, text: str) -> None:
        """Show a finished epoch."""

    def end(self) -> None:
        """End the display, also in the middle of an epoch."""


class _Silent:
    """No display."""

    def line(self, text: str) -> None:
        pass

    def step(self, name: str, step: int, steps: int, text: str) -> None:
        pass

    def epoch(self, name: str, steps: int, text: str) -> None:
        pass

    def end(self) -> None:
        pass


class _Lines(_Silent):
    """A line per epoch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def epoch(self, name: str, steps: int, text: str) -> None:
        self.line(f"{name}  {text}")


class _Bars(_Lines):
    """A bar per epoch, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar: Any = None

    def step(self, name: str, step: int, steps: int, text: str) -> None:
        self._set(name, step, steps, text)
        self._bar.refresh()

    def epoch(self, name: str, steps: int, text: str) -> None:
        self._set(name, steps, steps, text)
        self.end()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()  # draws the last state
            self._bar = None

    def _set(self, name: str, step: int, steps: int, text: str) -> None:
        if self._bar is None:
            self._bar = tqdm(total=steps, desc=name, file=self._stream, bar_format=_BAR, delay=1e-9)
        # The text is in the format, as tqdm's postfix begins with a comma.
        self._bar.bar_format = f"{_BAR}  {text}"
        self._bar.n = step


class _Cell(_Silent):
    """Lines and a bar as one output of a notebook's cell."""

    def __init__(self) -> None:
        self._output = LiveOutput()
        self._lines: list[str] = []

    def line(self, text: str) -> None:
        self._lines.append(text)
        self._show()

    def step(self, name: str, step: int, steps: int, text: str) -> None:
        bar = f'<progress value="{step}" max="{steps}"></progress> {step}/{steps}'
        self._show(f"{name} {bar} {html.escape(text)}")

    def epoch(self, name: str, steps: int, text: str) -> None:
        self.line(f"{name}  {text}")

    def end(self) -> None:
        if self._lines:
            self._show()

    def _show(self, running: str = "") -> None:
        text = "\n".join(self._lines)
        self._output.show(f"<pre>{html.escape(text)}</pre>{running}", text)


def _display(verbose: int, stream: TextIO | None) -> _Display:
    if not verbose:
        return _Silent()
    if stream is None and in_notebook():
        return _Cell()
    stream = stream or sys.stderr
    is_terminal = getattr(stream, "isatty", lambda: False)()  # what replaces sys.stderr may lack it
    return _Bars(stream) if verbose == 1 and is_terminal else _Lines(stream)


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
