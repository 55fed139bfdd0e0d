"""The name and the description of a run."""

from __future__ import annotations

from spark_dl.ml.description import run_text, run_title
from spark_dl.ml.summary import TrainingSummary


def test_a_run_is_named_by_estimator_and_rows() -> None:
    assert run_title("KerasClassifier", 12_800) == "KerasClassifier, 12,800 rows"


def test_the_description_has_the_result_of_the_last_and_the_best_epoch() -> None:
    history = {"loss": [0.9, 0.5, 0.2], "val_loss": [0.8, 0.4, 0.6], "per_class": [[1.0, 2.0]] * 3}
    summary = TrainingSummary(history, first_epoch=2, rows=1600, validation_rows=400, seconds=2.5, best_epoch=3)
    text = run_text("KerasRegressor", "price", 2, summary)
    first, _, head, _, loss, validation, *_ = text.splitlines()
    assert first == (
        "**KerasRegressor** of the model `price`: 1,600 rows, 2 workers, 3 epochs, 400 validation rows, 2.5 s."
    )
    assert head == "| metric | last epoch | best epoch (4) | by epoch |"
    assert loss == "| loss | 0.2 | 0.5 | █▄▁ |"
    assert validation.startswith("| val_loss | 0.6 | 0.4 | █▁")


def test_losses_that_are_not_finite_and_long_histories_are_described() -> None:
    text = run_text("KerasRegressor", "m", 1, TrainingSummary({"loss": [float("nan")], "mae": [1.0] * 200}))
    assert "| loss | nan |  |" in text
    assert f"| mae | 1 | {'▁' * 40} |" in text
    assert run_text("KerasRegressor", "m", 1, TrainingSummary()).count("\n") == 0
