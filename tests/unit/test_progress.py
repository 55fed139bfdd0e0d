"""What the user sees while a fit runs."""

from __future__ import annotations

import io

import pytest

from spark_dl.estimators.progress import Progress


def shown(verbose: int) -> str:
    stream = io.StringIO()
    with Progress(verbose, epochs=2, steps=4, stream=stream) as progress:
        progress.say("Training on 100 rows")
        for epoch in range(2):
            progress.step(epoch, 1, 0.9)
            progress.step(epoch, 3, 0.51234)
            progress.epoch(epoch, {"loss": 0.25, "val_loss": 0.5}, 12345.6)
    return stream.getvalue()


def test_silence_is_silent() -> None:
    assert shown(0) == ""


def test_lines_tell_each_epoch_and_no_steps() -> None:
    assert shown(2) == (
        "Training on 100 rows\n"
        "Epoch 1/2  loss=0.2500  val_loss=0.5000  12,346 rows/s\n"
        "Epoch 2/2  loss=0.2500  val_loss=0.5000  12,346 rows/s\n"
    )


def test_a_bar_tells_steps_and_ends_each_epoch_full_on_a_line_of_its_own() -> None:
    text = shown(1)
    assert text.startswith("Training on 100 rows\n")
    lines = text.splitlines()[1:]
    finals = [line.rstrip() for line in text.split("\n") if line.strip()][1:]
    assert len(finals) == 2
    for number, final in enumerate(finals, start=1):
        last = final.split("\r")[-1]
        assert last.startswith(f"Epoch {number}/2 100%|")
        assert last.endswith("| 4/4  loss=0.2500  val_loss=0.5000  12,346 rows/s")
    assert any("75%" in line and "3/4" in line and "loss=0.5123" in line for line in lines)


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_an_error_within_closes_the_bar(verbose: int) -> None:
    stream = io.StringIO()
    progress = Progress(verbose, epochs=2, steps=4, stream=stream)

    def fit() -> None:
        with progress:
            progress.step(0, 2, 0.5)
            raise KeyError

    with pytest.raises(KeyError):
        fit()
    assert stream.getvalue().endswith("\n" if verbose == 1 else "")
    assert ("2/4" in stream.getvalue()) is (verbose == 1)
