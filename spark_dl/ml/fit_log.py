"""The log of a fit: what is logged at which step. An entry that fails affects neither the others nor the fit."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import SparkSession

from spark_dl.data.dataset import ConvertedDataset
from spark_dl.fit.initial_model import display_name
from spark_dl.fit.spec import FitSpec
from spark_dl.fit.trained import Evaluation, Trained
from spark_dl.installed import version_of
from spark_dl.io.store import Store
from spark_dl.launch.settings import LaunchSettings
from spark_dl.launch.slots import setting_of, task_gpus
from spark_dl.ml.artifacts import of_assessment, of_estimator, of_model, of_training
from spark_dl.ml.description import run_text, run_title
from spark_dl.ml.logged import logged_data, logged_model
from spark_dl.ml.savable_estimator import OBJECTS
from spark_dl.options import ClassifierOptions
from spark_dl.redaction import warn
from spark_dl.score.assess import can_assess
from spark_dl.spark.row_source import RowSource
from spark_dl.spark.session import master_of
from spark_dl.track import Record, tracker, try_to_log
from spark_dl.train.plan import PROFILE

if TYPE_CHECKING:
    from spark_dl.ml.model import KerasModel
    from spark_dl.ml.savable_estimator import SavableEstimator

__all__ = ["FitLog"]

# TensorBoard finds traces under this path.
_PROFILE_ARTIFACT = f"profile/plugins/profile/fit/{PROFILE}"


class FitLog:
    """Log of a fit, a context manager: the record is finished when the `with` ends, with its error if any.

    Args:
        estimator: The estimator.
        spec: The specification of the fit.
        spark: The Spark session.
        parent: The id of the parent record at the tracker; empty for none.
        settings: What else is logged with the options.

    Attributes:
        record: The fit's record at the tracker.
    """

    def __init__(
        self,
        estimator: SavableEstimator,
        spec: FitSpec,
        spark: SparkSession,
        parent: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        options = spec.options
        self._estimator, self._spec, self._title = estimator, spec, ""
        self._has_curves = False
        self._tracker = tracker(
            options.tracking,
            experiment_name=options.experiment_name,
            run_name=options.run_name,
            registered_model_name=options.registered_model_name,
            parent=parent,
        )
        params = {**_params(estimator, spec), **(settings or {})}
        self.record = Record(self._tracker, params, _tags(estimator, spec, spark))

    def __enter__(self) -> FitLog:
        self.record.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.record.__exit__(kind, error, trace)

    def open(self, *, resumable: bool) -> None:
        """Open the record, unless the fit may resume another one, whose record it would continue.

        Args:
            resumable: Whether the fit may resume another one. `train_on_ranks` then opens the record.
        """
        if not resumable:
            self.record.open()

    def fit(self) -> None:
        """Log the options, the input plan, the model and the estimator."""
        if not self.record.written:
            return
        record, spec = self.record, self._spec
        record.attempt("options.txt", lambda: record.add({"options.txt": functools.partial(_options_text, spec)}))
        record.attempt("columns.txt", lambda: record.add({"columns.txt": f"{spec.plan}\n".encode}))
        record.attempt("model_summary.txt", lambda: record.add(of_model(spec.model, spec.content)))
        record.attempt("estimator", lambda: record.add(of_estimator(self._saved_estimator())))

    def _saved_estimator(self) -> SavableEstimator:
        """Return the estimator with the model that modelFn has built, since functions aren't saved."""
        options = self._spec.options
        if options.model_fn is None:
            return self._estimator
        copy = self._estimator.copy()
        for name in ("modelFn", "modelParams"):
            copy.clear(copy.getParam(name))
        copy.setParams(model=self._spec.given)
        return copy

    def rows(self, converted: ConvertedDataset, source: Callable[[], RowSource]) -> None:
        """Name the record by the number of training rows, and log training and validation rows as datasets.

        Args:
            converted: The converted dataset.
            source: Returns the files and tables that the DataFrame was read from.
        """
        if not self.record.written:
            return
        self._title = run_title(type(self._estimator).__name__, converted.rows(validation=False))
        self._tracker.describe(self._title, "", "")
        found: list[RowSource] = []
        self.record.attempt("the files that the rows were read from", lambda: found.append(source()))

        def log() -> None:
            for part in logged_data(converted, self._spec.columns, found[0] if found else RowSource()):
                self._tracker.log_dataset(part)

        self.record.attempt("the dataset of the rows", log)

    def evaluation(self, converted: ConvertedDataset) -> Evaluation:
        """Return the evaluation of the fitted model for the log.

        There is none without tracking, without validation rows, or for a head that can't be evaluated. The curves are
        logged while ranks evaluate.

        Args:
            converted: The converted dataset.
        """
        validated = converted.rows(validation=True) > 0
        can = can_assess(self._spec.head) and bool(self._spec.conversion.labels)
        head = self._spec.head if self.record.written and validated and can else None
        return Evaluation(head, self.curves)

    def curves(self, trained: Trained) -> None:
        """Log the curves of the training, once: while ranks evaluate the model, there is time to draw them.

        Args:
            trained: The result of the training, with or without the evaluation.
        """
        if self.record.written and not self._has_curves:
            self._has_curves = True
            first_epoch = self._spec.options.initial_epoch
            self.record.attempt("history.png", lambda: self.record.add(of_training(trained, first_epoch)))

    def result(self, trained: Trained, fitted: KerasModel, workspace: Store) -> None:
        """Log the result of the training: curves, evaluation on the validation rows, profile, and model.

        Args:
            trained: The result of the training.
            fitted: The fitted model.
            workspace: The workspace of the fit, with the profile.
        """
        if not self.record.written:
            return
        record, options = self.record, self._spec.options
        self.curves(trained)
        text = run_text(type(self._estimator).__name__, self._spec.name, options.num_workers, fitted.summary)
        self._tracker.describe(self._title, text, "history.png" if fitted.summary.history else "")
        assessment = trained.assessment
        if assessment is not None:
            labels = (options.class_labels if isinstance(options, ClassifierOptions) else None) or ()
            record.attempt("validation", lambda: record.add(of_assessment(assessment, labels)))
        if options.profile:
            record.add({_PROFILE_ARTIFACT: lambda: workspace.read(PROFILE)})
        content: list[Any] = []
        record.attempt("model", lambda: content.append(logged_model(fitted)))
        if content:
            try_to_log(functools.partial(self._tracker.log_model, content[0]))

    def with_unlogged(self, fitted: KerasModel) -> KerasModel:
        """Add the entries that could not be logged to the fitted model's summary, with a warning."""
        unlogged = self._tracker.unlogged
        if unlogged:
            fitted.summary = replace(fitted.summary, unlogged=unlogged)
            warn(f"Not logged: {len(unlogged)} entries; they are in the fitted model's summary.unlogged.")
        return fitted


def _params(estimator: SavableEstimator, spec: FitSpec) -> dict[str, Any]:
    """Return the options that the user has set; a page of defaults would hide them."""
    return {name: value for name, value in _shown(spec).items() if estimator.isSet(estimator.getParam(name))}


def _options_text(spec: FitSpec) -> bytes:
    return "".join(f"{name}: {value}\n" for name, value in _shown(spec).items()).encode()


def _shown(spec: FitSpec) -> dict[str, Any]:
    """Return the options with a value, as they are logged: Keras objects and functions by their names."""
    return {
        name: display_name(value) if name in OBJECTS else value
        for name, value in spec.options.by_name().items()
        if value is not None and name not in ("model", "validationData")
    }


def _tags(estimator: SavableEstimator, spec: FitSpec, spark: SparkSession) -> dict[str, str]:
    import tensorflow as tf

    gpus = spec.options.num_workers * task_gpus(setting_of(spark), LaunchSettings.of(spec.options))
    tags = {
        "uid": estimator.uid,
        "estimator": type(estimator).__name__,
        "model": spec.name,
        "spark": spark.version,
        "master": master_of(spark),
        "application": spark.conf.get("spark.app.id", "") or "",
        "gpus": f"{gpus:g}",
        "python": platform.python_version(),
        **{name: version_of(name) for name in ("spark_dl", "keras", "horovod")},
        "tensorflow": tf.__version__,
    }
    return {f"spark_dl.{name}": value for name, value in tags.items()}
