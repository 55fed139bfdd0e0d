"""Steps of a fit before training: convert the rows to blocks, and check that there are enough."""

from __future__ import annotations

import logging
from dataclasses import replace

from pyspark.sql import DataFrame

from spark_dl.data.convert import convert
from spark_dl.data.dataset import ConvertedDataset
from spark_dl.data.specs import ConversionSpec
from spark_dl.errors import DataError, explain
from spark_dl.io.store import Store
from spark_dl.launch.slot_queue import SlotQueue
from spark_dl.options import EstimatorOptions

__all__ = ["check_rows", "convert_rows"]

_log = logging.getLogger(__name__)


def convert_rows(frame: DataFrame, conversion: ConversionSpec, workspace: Store) -> ConvertedDataset:
    """Convert a DataFrame's rows to blocks.

    Args:
        frame: The DataFrame.
        conversion: How rows are converted.
        workspace: The workspace of the fit; the blocks are written below it.

    Returns:
        The converted dataset.
    """
    store = workspace.child("data")
    store.make()
    with SlotQueue.of(frame.sparkSession).working():
        dataset = convert(frame, replace(conversion, store=store))
    _log.info("Converted the rows to %d blocks, %.1f MB.", len(dataset.blocks), dataset.bytes / 1e6)
    return dataset


def check_rows(dataset: ConvertedDataset, conversion: ConversionSpec, options: EstimatorOptions) -> None:
    """Check that there are enough rows for training and validation.

    Args:
        dataset: The converted dataset.
        conversion: How its rows were converted.
        options: The estimator's options.

    Raises:
        DataError: No training rows, or fewer than numWorkers; or no validation rows although validationCol or
            validationFraction is set.
    """
    rows, held_out = dataset.rows(validation=False), dataset.rows(validation=True)
    if rows + held_out == 0:
        raise DataError(
            explain(
                "The DataFrame has no rows to train on.",
                expected="at least one row for each worker",
                received="0 rows"
                + (" after rows with nulls were dropped" if any(column.drop for column in conversion.columns) else ""),
                fix="Check the filters before fit.",
            )
        )
    if rows < options.num_workers:
        raise DataError(
            explain(
                "There are fewer training rows than workers.",
                expected=f"at least {options.num_workers} training rows (numWorkers={options.num_workers})",
                received=f"{rows} training and {held_out} validation rows",
                fix="Lower numWorkers or the validation fraction.",
            )
        )
    if (options.validation_col or options.validation_fraction) and not held_out:
        raise DataError(
            explain(
                "No row was chosen for validation.",
                expected="at least one",
                received=f"{rows} rows, validationCol={options.validation_col!r}, "
                f"validationFraction={options.validation_fraction}",
                fix="Raise validationFraction, change the seed, or mark rows in validationCol.",
            )
        )
