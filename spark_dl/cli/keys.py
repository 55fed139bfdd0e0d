"""The keys of configurations that aren't options of an estimator or a fitted model, declared in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spark_dl.errors import OptionError, explain
from spark_dl.options import (
    ClassifierOptions,
    EstimatorOptions,
    FittedClassifierOptions,
    FittedTaggerOptions,
    Option,
    Options,
    TaggerOptions,
    checks,
    declared,
    option,
    options_of,
)

__all__ = [
    "DoctorKeys",
    "OutputKeys",
    "RepeatKeys",
    "RowsKeys",
    "ScoreKeys",
    "SessionKeys",
    "TrainKeys",
    "check_source",
    "required",
    "score_options",
    "train_options",
]

_ESTIMATOR_OPTIONS: dict[str, type[EstimatorOptions]] = {
    "classifier": ClassifierOptions,
    "regressor": EstimatorOptions,
    "tagger": TaggerOptions,
    "estimator": EstimatorOptions,
}
# In a configuration, the key `model` stands for all three.
_MODELS = ("model", "modelFn", "warmStart")


@dataclass(frozen=True, kw_only=True)
class SessionKeys(Options):
    """The Spark session."""

    master: str | None = option(
        "Spark's master URL; not set, that of spark-submit, or local[*] without it.",
        checks.text,
        None,
        on_resume="any",
    )
    spark_conf: dict[str, Any] | None = option(
        "Settings of the Spark session, such as {spark.executor.memory: 4g}.",
        checks.keywords,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class DoctorKeys(SessionKeys):
    """The session, and the directory that a fit would use."""

    cache_dir: str | None = option(
        declared("cacheDir").doc,
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class _FilesKeys(Options):
    """The rows: files."""

    data: str | None = option(
        "The path or URL of the rows, which Spark reads.",
        checks.text,
        None,
        on_resume="any",
    )
    format: str = option(
        "The format of `data`, as Spark names it: parquet, csv, json, orc, delta.",
        checks.text,
        "parquet",
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class RowsKeys(_FilesKeys):
    """The rows: reading of files, a table, a query."""

    read_options: dict[str, Any] | None = option(
        "Options of Spark's reader of `data`, such as {header: true, inferSchema: true} for csv.",
        checks.keywords,
        None,
        on_resume="any",
    )
    schema: str | None = option(
        "The schema of `data` as DDL, such as 'price double, features array<float>'; not set, that of the files.",
        checks.text,
        None,
        on_resume="any",
    )
    table: str | None = option(
        "The table of the rows, in place of `data`.",
        checks.text,
        None,
        on_resume="any",
    )
    sql: str | None = option(
        "A SQL query that returns the rows. The rows of `data` or `table` are the view `rows`: SELECT * FROM rows "
        "WHERE price > 0.",
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class _ModulesKeys(Options):
    """Your own code."""

    modules: list[str] | None = option(
        "Modules to import first, such as those that register layers and losses with Keras.",
        checks.names,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class OutputKeys(Options):
    """The fitted model."""

    output: str | None = option(
        "A new directory or URL for the fitted model; not set, it is only in its MLflow run.",
        checks.text,
        None,
        on_resume="any",
    )
    overwrite: bool = option(
        "Whether a model that exists in `output` is replaced.",
        checks.boolean,
        False,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class RepeatKeys(SessionKeys, OutputKeys, _FilesKeys):
    """The keys of `train --from-run`."""


@dataclass(frozen=True, kw_only=True)
class _InitialModelKeys(Options):
    """The model to train."""

    estimator: str = option(
        "What is trained: a 'classifier' (KerasClassifier), a 'regressor' (KerasRegressor), a 'tagger' "
        "(KerasTagger), or any other model ('estimator', KerasEstimator).",
        checks.choice(*_ESTIMATOR_OPTIONS),
        "classifier",
        on_resume="any",
    )
    model: str | None = option(
        "The model to train: module:function, which is called with modelParams and returns the Keras model; a .keras "
        "file; or the path or MLflow URI of a fitted model that training starts from (warmStart).",
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class _ValidationKeys(Options):
    """The rows for validation."""

    validation_data: str | None = option(
        "The path or URL of validation rows, read like `data`; `sql` isn't applied to them.",
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class TrainKeys(SessionKeys, OutputKeys, _ValidationKeys, RowsKeys, _ModulesKeys, _InitialModelKeys):
    """The keys of `train` and `convert`."""


@dataclass(frozen=True, kw_only=True)
class _ScoredModelKeys(Options):
    """The fitted model."""

    model: str | None = option(
        "The fitted model: the path or URL where it was saved, or an MLflow URI such as models:/name@alias or "
        "runs:/run/model; also of a fitted Pipeline.",
        checks.text,
        None,
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class _ScoredRowsKeys(Options):
    """The scored rows."""

    output: str | None = option(
        "The path or URL that the scored rows are written to.",
        checks.text,
        None,
        on_resume="any",
    )
    output_table: str | None = option(
        "The table that the scored rows are written to, in place of `output`.",
        checks.text,
        None,
        on_resume="any",
    )
    write_format: str | None = option(
        "The format of the scored rows, as Spark names it; not set, parquet for `output`, and Spark's own for a table.",
        checks.text,
        None,
        on_resume="any",
    )
    write_mode: str = option(
        "Spark's save mode if the output exists: 'error', 'append', 'overwrite' or 'ignore'.",
        checks.choice("error", "append", "overwrite", "ignore"),
        "error",
        on_resume="any",
    )


@dataclass(frozen=True, kw_only=True)
class ScoreKeys(SessionKeys, _ScoredRowsKeys, RowsKeys, _ModulesKeys, _ScoredModelKeys):
    """The keys of `score` and `evaluate`."""


def train_options(estimator: Any = "classifier") -> tuple[Option, ...]:
    """Return the options of an estimator that a configuration has as keys.

    Args:
        estimator: The value of the key `estimator`.

    Raises:
        OptionError: There is no such estimator.
    """
    known = _ESTIMATOR_OPTIONS[{one.name: one for one in options_of(TrainKeys)}["estimator"].check(estimator)]
    own = {*_MODELS, *(one.name for one in options_of(TrainKeys))}
    return tuple(one for one in options_of(known) if one.name not in own)


def score_options() -> tuple[Option, ...]:
    """Return the options of fitted models that a configuration has as keys."""
    return tuple(dict.fromkeys((*options_of(FittedClassifierOptions), *options_of(FittedTaggerOptions))))


def required(values: Options, name: str) -> Any:
    """Return the value of a key that a command needs.

    Args:
        values: The record of the keys.
        name: The key.

    Raises:
        OptionError: The key isn't set.
    """
    value, key = values.by_name()[name], {one.name: one for one in options_of(type(values))}[name]
    if value is None:
        raise OptionError(
            explain(
                f"{name} isn't set.",
                expected=f"the key {name}, or --{name}",
                received="neither",
                fix=f"{name}: {key.doc}",
            )
        )
    return value


def check_source(keys: RowsKeys) -> None:
    """Check that a configuration names one source of rows.

    Args:
        keys: The keys.

    Raises:
        OptionError: There is no source, or there are several.
    """
    named = [name for name in ("data", "table") if getattr(keys, name) is not None]
    if len(named) == 2 or not (named or keys.sql):
        raise OptionError(
            explain(
                "The rows need one source.",
                expected="data (a path) or table, with or without sql; or sql alone",
                received=", ".join(named) or "none of data, table and sql",
                fix="Set one of them.",
            )
        )
