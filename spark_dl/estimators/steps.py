"""Steps of a fit around its training: the record, the conversion."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from spark_dl.data.convert import Packing, convert
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import DataError, explain
from spark_dl.store import Store
from spark_dl.track import Tracker

__all__ = ["check_rows", "convert_rows", "recorded", "try_to_log"]


@contextmanager
def recorded(record: Tracker, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[None]:
    """The tracker's record, open while the `with` lasts, and ended with what went wrong, if anything did."""
    try:
        record.begin(params, tags)
        yield
    except BaseException as error:
        try_to_log(functools.partial(record.end, error))
        raise
    try_to_log(functools.partial(record.end, None))


def try_to_log(write: Callable[[], None]) -> None:
    """Write to the tracker. Once training runs, a tracker that fails costs what it would have logged, and no more."""
    try:
        write()
    except Exception as error:
        warnings.warn(f"Not logged: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


def convert_rows(frame: DataFrame, packing: Packing, workspace: Store) -> ConvertedDataset:
    """The DataFrame's rows as blocks in the workspace."""
    store = workspace.child("data")
    store.make()
    return convert(frame, replace(packing, store=store))


def check_rows(dataset: ConvertedDataset, packing: Packing, values: Mapping[str, Any]) -> None:
    """Refuse to train on no rows, or too few.

    Raises:
        DataError: there are.
    """
    rows, held_out = dataset.rows(validation=False), dataset.rows(validation=True)
    if rows + held_out == 0:
        raise DataError(
            explain(
                "The DataFrame has no rows to train on.",
                expected="at least one row for each worker",
                received="0 rows"
                + (" after rows with nulls were dropped" if any(column.drop for column in packing.columns) else ""),
                fix="Check the filters before fit.",
            )
        )
    if rows < values["numWorkers"]:
        raise DataError(
            explain(
                "There are fewer training rows than workers.",
                expected=f"at least {values['numWorkers']} training rows (numWorkers={values['numWorkers']})",
                received=f"{rows} training and {held_out} validation rows",
                fix="Lower numWorkers or the part for validation.",
            )
        )
    if (values["validationCol"] or values["validationFraction"]) and not held_out:
        raise DataError(
            explain(
                "No row was chosen for validation.",
                expected="at least one",
                received=f"{rows} rows, validationCol={values['validationCol']!r}, "
                f"validationFraction={values['validationFraction']}",
                fix="Raise validationFraction, change the seed, or mark rows in validationCol.",
            )
        )
