"""Rows of a micro-batch as tensors in this process, their classes, and the errors of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from spark_dl.data.column import Column
from spark_dl.data.convert import convert_batches
from spark_dl.data.projection import arrow_projection
from spark_dl.data.row_errors import describe
from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import DataError, explain
from spark_dl.score.heads import Classification, Head, SeveralOutputs

__all__ = ["check_columns", "check_fed", "classes_of", "collected", "fed_columns", "prediction_errors"]

_GROW = (
    "A class that has appeared later: restart the query with an estimator for more classes; the trainer keeps the "
    "weights of the old ones."
)


def collected(rows: DataFrame, conversion: ConversionSpec) -> tuple[list[np.ndarray], int]:
    """Collect rows as the stored form of each tensor.

    Returns:
        The rows of each tensor, and how many rows were read: more than these where nullPolicy drops some.

    Raises:
        DataError: Rows can't be fed to the model, counted by column.
    """
    table = rows.select(arrow_projection(conversion.columns)).toArrow()
    faults, batches = convert_batches(conversion, table.to_batches())
    parts = list(batches)
    if faults.counts:
        found: list[Any] = [
            {"kind": kind, "name": name, "detail": detail, "rows": count}
            for (kind, name, detail), count in faults.counts.items()
        ]
        error = DataError(describe(found, conversion.columns, conversion.labels))
        if any(kind == "class" for kind, _, _ in faults.counts):
            error.add_note(_GROW)
        raise error
    if not parts:
        return [np.empty((0, *tensor.shape), tensor.stored) for tensor in conversion.tensors], table.num_rows
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)], table.num_rows


def check_columns(columns: StructType, known: Mapping[str, Any], where: str) -> None:
    """Check that the columns that are read have the types that they had when the trainer was created.

    Args:
        columns: The schema of the stream.
        known: The schema that the state has, as JSON; empty for a new state.
        where: The directory of the state, for the message.

    Raises:
        DataError: A column is missing, or has another type.
    """
    now: dict[str, str] = {}
    for field in columns.fields:
        kind = field.dataType.simpleString()
        now[field.name] = f"{now[field.name]} and {kind}, twice" if field.name in now else kind
    before = StructType.fromJson(dict(known)).fields if known else []
    changed = [
        f"{field.name!r} was {field.dataType.simpleString()} and is {now.get(field.name, 'missing')}"
        for field in before
        if now.get(field.name) != field.dataType.simpleString()
    ]
    if changed:
        raise DataError(
            explain(
                "The columns of the stream have changed.",
                expected=f"the columns that the state in {where} was trained on",
                received="; ".join(changed),
                fix="Cast or rename them before the trainer, or start again with another stateDir.",
            )
        )


def fed_columns(conversion: ConversionSpec) -> list[list[str]]:
    """Return the names of the columns of each model input, then of each label, then the weight, in their order."""
    parts: list[Sequence[Column]] = [spec.columns for spec in conversion.features]
    parts += [spec.columns for spec in conversion.labels]
    parts.append([conversion.weight] if conversion.weight else [])
    return [[column.name for column in columns] for columns in parts]


def check_fed(now: Sequence[Sequence[str]], before: Sequence[Sequence[str]], replayed: bool, where: str) -> None:
    """Check that the model gets each column at the position that it had when the trainer was created.

    Args:
        now: The columns of the estimator, see `fed_columns`.
        before: Those of the state; empty if they aren't recorded.
        replayed: Whether rows from before are replayed. Otherwise weights may come and go.
        where: The directory of the state, for the message.

    Raises:
        DataError: Other columns are fed, or in another order.
    """
    compared = slice(None) if replayed else slice(-1)
    if before and list(map(list, now[compared])) != list(map(list, before[compared])):
        raise DataError(
            explain(
                "The estimator feeds other columns to the model than before, or in another order.",
                expected=f"{_named(before)}, which the state in {where} was trained on",
                received=_named(now),
                fix="Set the columns as they were, or start again with another stateDir.",
            )
        )


def _named(fed: Sequence[Sequence[str]]) -> str:
    return "; ".join(", ".join(columns) for columns in fed if columns)


def classes_of(head: Head, conversion: ConversionSpec, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the class of each row, int64 (rows,); 0 for all rows where the label is no class."""
    rows = len(arrays[0])
    if not isinstance(head, Classification) or len(conversion.labels) != 1:
        return np.zeros(rows, np.int64)
    labels = arrays[len(conversion.features)].reshape(rows, -1)
    index: np.ndarray = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
    return index.astype(np.int64)


def prediction_errors(
    head: Head, conversion: ConversionSpec, fields: Mapping[str, np.ndarray], arrays: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Return the error of each row's prediction: 1 for a wrong class, else the mean absolute error; float64 (rows,).

    Args:
        head: The meaning of the model's outputs.
        conversion: How rows become tensors.
        fields: The predictions by the head's fields.
        arrays: The rows of each tensor.

    Returns:
        The errors, 1 where a prediction is NaN; None for a model without labels, or with labels of another size.
    """
    rows = len(arrays[0])
    first = len(conversion.features)
    labels = [array.reshape(rows, -1) for array in arrays[first : first + len(conversion.labels)]]
    names = list(head.fields()) if isinstance(head, SeveralOutputs) else ["prediction"]
    if not labels or len(names) != len(labels) or any(name not in fields for name in names):
        return None
    if isinstance(head, Classification):
        wrong: np.ndarray = fields["prediction"] != classes_of(head, conversion, arrays)
        return wrong.astype(np.float64)
    errors = []
    for name, label in zip(names, labels, strict=True):
        predicted = fields[name].reshape(rows, -1)
        if predicted.shape == label.shape:
            errors.append(np.abs(predicted - label).mean(axis=1))
        elif label.shape[1] == 1:  # a class index for several units
            errors.append((predicted.argmax(axis=1) != label[:, 0]).astype(np.float64))
        else:
            return None
    mean: np.ndarray = np.mean(errors, axis=0)
    return np.where(np.isnan(mean), 1.0, mean)
