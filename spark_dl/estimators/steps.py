"""Steps of a fit before its training: the conversion, and what must have come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from spark_dl.data.convert import Packing, convert
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.errors import DataError, explain
from spark_dl.launch.slot_queue import SlotQueue
from spark_dl.store import Store

__all__ = ["check_rows", "convert_rows"]


def convert_rows(frame: DataFrame, packing: Packing, workspace: Store) -> ConvertedDataset:
    """The DataFrame's rows as blocks in the workspace."""
    store = workspace.child("data")
    store.make()
    with SlotQueue.of(frame.sparkSession).working():
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
