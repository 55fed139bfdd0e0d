"""What a fit tells its tracker, part by part: one that can't be made costs no other, and never the fit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.fit.attempts import Trained
from spark_dl.fit.spec import FitSpec
from spark_dl.ml.artifacts import of_assessment, of_estimator, of_model, of_training
from spark_dl.ml.logged import logged_data, logged_model
from spark_dl.options import ClassifierOptions
from spark_dl.track import Record, try_to_log

if TYPE_CHECKING:
    from spark_dl.ml.model import KerasModel
    from spark_dl.ml.savable_estimator import SavableEstimator

__all__ = ["log_fit", "log_result", "log_rows"]


def log_fit(record: Record, spec: FitSpec, estimator: SavableEstimator) -> None:
    """Log what is trained: the columns, the model and the estimator."""
    record.attempt("columns.txt", lambda: record.add({"columns.txt": f"{spec.plan}\n".encode}))
    record.attempt("model_summary.txt", lambda: record.add(of_model(spec.model, spec.content)))
    record.attempt("estimator", lambda: record.add(of_estimator(estimator)))


def log_rows(record: Record, converted: ConvertedDataset, spec: FitSpec, files: Callable[[], Sequence[str]]) -> None:
    """Log the rows as datasets.

    Args:
        record: the fit's.
        converted: the rows.
        spec: the fit.
        files: tells what they were read from.
    """
    read: list[str] = []
    record.attempt("the files that the rows were read from", lambda: read.extend(files()))

    def log() -> None:
        for part in logged_data(converted, spec.columns, lambda: read):
            record.tracker.log_dataset(part)

    record.attempt("the dataset of the rows", log)


def log_result(
    record: Record, trained: Trained, fitted: KerasModel, spec: FitSpec, more: dict[str, Callable[[], bytes]]
) -> None:
    """Log what came of the training: its curves, the validation rows' figures, the model.

    Args:
        record: the fit's.
        trained: the training.
        fitted: the model.
        spec: the fit.
        more: other files, by their paths.
    """
    record.attempt("history.png", lambda: record.add(of_training(trained, spec.options.initial_epoch)))
    assessment = trained.assessment
    if assessment is not None:
        options = spec.options
        labels = (options.class_labels if isinstance(options, ClassifierOptions) else None) or ()
        record.attempt("validation", lambda: record.add(of_assessment(assessment, labels)))
    record.add(more)
    content: list[Any] = []
    record.attempt("model", lambda: content.append(logged_model(fitted)))
    if content:
        try_to_log(functools.partial(record.tracker.log_model, content[0]))
