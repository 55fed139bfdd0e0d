"""What the user sees while a fit runs."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest

from spark_dl.fit.progress import Progress
from spark_dl.train.reports import Speed

SPEED = Speed(rows_per_second=12345.6, step_ms=2.5, input_wait=0.04, collective_wait=0.31, bytes_reduced=1.2e6)
SHOWN = "12,346 rows/s, 2.5 ms a step, collectives 31% (1.2 MB), input wait 4%"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(verbose: int, stream: io.StringIO) -> str:
    with Progress(verbose, epochs=2, steps=4, stream=stream) as progress:
        progress.show("Training on 100 rows")
        for epoch in range(2):
            progress.step(epoch, 1, 0.9)
            progress.step(epoch, 3, 0.51234)
            progress.epoch(epoch, {"loss": 0.25, "val_loss": 0.5}, SPEED)
    return stream.getvalue()


def test_silence_is_silent() -> None:
    assert shown(0, Terminal()) == ""


@pytest.mark.parametrize(("verbose", "stream"), [(2, Terminal()), (2, io.StringIO()), (1, io.StringIO())])
def test_lines_tell_each_epoch_and_no_steps(verbose: int, stream: io.StringIO) -> None:
    """Also with verbose=1 where there is no terminal: a log takes no carriage returns."""
    assert shown(verbose, stream) == (
        "Training on 100 rows\n"
        f"Epoch 1/2  loss=0.2500  val_loss=0.5000  {SHOWN}\n"
        f"Epoch 2/2  loss=0.2500  val_loss=0.5000  {SHOWN}\n"
    )


def test_one_worker_has_no_collectives_to_tell_of() -> None:
    stream = io.StringIO()
    with Progress(2, epochs=1, steps=4, stream=stream) as progress:
        progress.epoch(0, {"loss": 0.25}, replace(SPEED, collective_wait=0.0, bytes_reduced=0.0))
    assert stream.getvalue() == "Epoch 1/1  loss=0.2500  12,346 rows/s, 2.5 ms a step, input wait 4%\n"


def test_a_bar_tells_steps_and_ends_each_epoch_full_on_a_line_of_its_own() -> None:
    text = shown(1, Terminal())
    assert text.startswith("Training on 100 rows\n")
    lines = text.splitlines()[1:]
    finals = [line.rstrip() for line in text.split("\n") if line.strip()][1:]
    assert len(finals) == 2
    for number, final in enumerate(finals, start=1):
        last = final.split("\r")[-1]
        assert last.startswith(f"Epoch {number}/2 100%|")
        assert last.endswith(
            "| 4/4  loss=0.2500  val_loss=0.5000  12,346 rows/s, 2.5 ms a step, collectives 31% (1.2 MB), input wait 4%"
        )
    assert text.count("loss=0.2500") == 2  # once for each epoch
    assert any("75%" in line and "3/4" in line and "loss=0.5123" in line for line in lines)


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_an_error_within_closes_the_bar(verbose: int) -> None:
    stream = Terminal()
    progress = Progress(verbose, epochs=2, steps=4, stream=stream)

    def fit() -> None:
        with progress:
            progress.step(0, 2, 0.5)
            raise KeyError

    with pytest.raises(KeyError):
        fit()
    assert stream.getvalue().endswith("\n" if verbose == 1 else "")
    assert ("2/4" in stream.getvalue()) is (verbose == 1)


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_what_is_shown_is_logged_whatever_verbose_says(verbose: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spark_dl"), Progress(verbose, 2, 4, stream=io.StringIO()) as progress:
        progress.show("Resuming from ftp://me:S3CRET@host.")
        progress.show("A rank was lost.", logging.WARNING)
        progress.step(0, 1, 0.5)
        progress.epoch(0, {"loss": 0.25}, SPEED)
    assert caplog.record_tuples == [
        ("spark_dl.fit.progress", logging.INFO, "Resuming from ftp://***@host."),
        ("spark_dl.fit.progress", logging.WARNING, "A rank was lost."),
        ("spark_dl.fit.progress", logging.INFO, f"Epoch 1/2  loss=0.2500  {SHOWN}"),
    ]
