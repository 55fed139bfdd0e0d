"""Conversion of a DataFrame to blocks, which Spark tasks write with Arrow in one pass.

Each task returns the list of files that it wrote, and this list is the commit: files of failed, repeated or
speculative tasks aren't on it. Row errors are counted in the same pass and raised as one error for all columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame

from spark_dl.data.block_writer import PARTITION_STRIDE, BlockWriter
from spark_dl.data.column import Column
from spark_dl.data.columns import Extracted
from spark_dl.data.dataset import Block, ConvertedDataset
from spark_dl.data.label_rules import RULES
from spark_dl.data.projection import arrow_projection, decode_batch
from spark_dl.data.ragged import Values, as_array
from spark_dl.data.row_errors import RowErrors, describe
from spark_dl.data.sampler import RowSampler
from spark_dl.data.specs import ConversionSpec, LabelSpec
from spark_dl.data.targets import label_rows, weight_rows
from spark_dl.data.tensors import feature_rows
from spark_dl.errors import DataError, explain
from spark_dl.redaction import redacted_errors
from spark_dl.spark.job import SparkJob
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["append_rows", "convert", "convert_batches"]
_RESULT_SCHEMA = (
    "kind string, name string, block_id long, rows long, bytes long, validation boolean, checksum long, "
    "class_rows array<long>, detail string"
)


def convert(frame: DataFrame, conversion: ConversionSpec) -> ConvertedDataset:
    """Convert a DataFrame's rows to blocks.

    The same seed and the same rows in the same partitions give the same validation rows.

    Args:
        frame: The DataFrame.
        conversion: The specification of the conversion.

    Returns:
        The dataset, without blocks if the DataFrame has no rows.

    Raises:
        DataError: Rows can't be fed to the model; the message counts them by column.
    """
    packed = frame.select(arrow_projection(conversion.columns))
    with SparkJob(packed.mapInArrow(functools.partial(_convert_partition, conversion), _RESULT_SCHEMA)) as job:
        rows = job.rows()
    faults = [row for row in rows if row["kind"] != "block"]
    if faults:
        raise DataError(describe(faults, conversion.columns, conversion.labels))
    _check_exclusive(conversion.labels, {row["detail"] for row in rows})
    blocks = sorted((row for row in rows), key=lambda row: int(row["block_id"]))
    return ConvertedDataset(
        store=conversion.store,
        tensors=conversion.tensors,
        blocks=tuple(map(_block, blocks)),
        bytes=sum(row["bytes"] for row in blocks),
    )


def append_rows(dataset: ConvertedDataset, conversion: ConversionSpec, arrays: list[np.ndarray]) -> ConvertedDataset:
    """Write rows that are tensors already as further training blocks of a dataset, and return it with them."""
    partition = 1 + max((block.block_id // PARTITION_STRIDE for block in dataset.blocks), default=-1)
    writer = BlockWriter(replace(conversion, store=dataset.store), partition, validation=False)
    records: list[Any] = [*writer.add([*arrays]), *writer.finish()]
    size = dataset.bytes + sum(record["bytes"] for record in records)
    return replace(dataset, blocks=(*dataset.blocks, *map(_block, records)), bytes=size)


def _block(r: Any) -> Block:
    return Block(r["block_id"], r["name"], r["rows"], r["validation"], r["checksum"], tuple(r["class_rows"]))


def _convert_partition(conversion: ConversionSpec, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    # Spark writes the errors of tasks to the executor's log and to its own event log.
    with redacted_errors(conversion.store.options.secrets):
        yield _written_blocks(conversion, batches)


def _written_blocks(conversion: ConversionSpec, batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    purge_zipimport_cache()
    context = TaskContext.get()
    partition = context.partitionId() if context else 0
    draw = RowSampler(
        conversion.seed, partition, conversion.validation_fraction, conversion.stratified, conversion.factors
    )
    faults = RowErrors()
    writers = {part: BlockWriter(conversion, partition, validation=part) for part in (False, True)}
    written: list[dict[str, object]] = []
    for batch in batches:
        tensors, validation = _convert_batch(conversion, batch, draw, faults)
        if faults.counts:
            continue  # the conversion fails, so that only the count of errors matters
        places = draw.resample(conversion.first_label(tensors), validation)
        if places is not None:
            tensors, validation = [tensor[places] for tensor in tensors], validation[places]
        for part, writer in writers.items():
            chosen = validation == part
            if chosen.all():
                written.extend(writer.add(tensors))
            elif chosen.any():
                written.extend(writer.add([tensor[chosen] for tensor in tensors]))
    if not faults.counts:
        for writer in writers.values():
            written.extend(writer.finish())
    rows = written or []
    rows += [
        {"kind": kind, "name": column, "rows": count, "detail": detail}
        for (kind, column, detail), count in faults.counts.items()
    ]
    schema = pa.schema(
        [
            ("kind", pa.string()),
            ("name", pa.string()),
            ("block_id", pa.int64()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("validation", pa.bool_()),
            ("checksum", pa.int64()),
            ("class_rows", pa.list_(pa.int64())),
            ("detail", pa.string()),
        ]
    )
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def convert_batches(
    conversion: ConversionSpec, batches: Iterable[pa.RecordBatch]
) -> tuple[RowErrors, Iterator[list[np.ndarray]]]:
    """Convert Arrow batches to tensors in memory, without writing blocks.

    Args:
        conversion: The specification of the conversion.
        batches: Batches of the columns `arrow_projection(conversion.columns)`.

    Returns:
        The row errors, complete once the iterator is exhausted; and an iterator over the tensors of each batch, which
        yields nothing more after the first error.
    """
    faults, draw = RowErrors(), RowSampler(0, 0)

    def packed() -> Iterator[list[np.ndarray]]:
        for batch in batches:
            tensors, _ = _convert_batch(conversion, batch, draw, faults)
            if not faults.counts:
                yield [
                    as_array(rows).reshape(-1, *t.shape) for rows, t in zip(tensors, conversion.tensors, strict=True)
                ]

    return faults, packed()


def _convert_batch(
    conversion: ConversionSpec, batch: pa.RecordBatch, draw: RowSampler, faults: RowErrors
) -> tuple[list[Values], np.ndarray]:
    """Convert a batch's usable rows to tensors in their stored dtypes, with a mask of the validation rows."""
    rows = batch.num_rows
    keep = np.ones(rows, bool)
    received = decode_batch(batch, conversion.columns)
    by_name = {column.name: column for column in received}  # a Vector may be read in two forms
    for column, extracted in received.items():
        if by_name[column.name] is column:
            faults.add_extracted(column, extracted)
        np.logical_and(keep, extracted.usable, out=keep)
    # Values are checked only in the rows that remain, which are known from here on.
    # Bytes come first, as those that can't be decoded may take rows out of `keep`.
    order = sorted(conversion.features, key=lambda spec: not spec.coding)
    features = {spec: feature_rows(spec, received, spec.tensor().stored, keep, faults) for spec in order}
    tensors: list[Values] = [
        *(features[spec] for spec in conversion.features),
        *(label_rows(_label_values(spec, received), spec, faults, keep) for spec in conversion.labels),
    ]
    if conversion.weight:
        tensors.append(
            weight_rows(received[conversion.weight].array, conversion.weight, conversion.weight_shape, faults, keep)
        )
    if not keep.all():
        tensors = [tensor[keep] for tensor in tensors]
    if conversion.validation_col:
        return tensors, received[conversion.validation_col].array[keep, 0].astype(bool)
    return tensors, draw.validation(conversion.first_label(tensors))


def _label_values(spec: LabelSpec, received: Mapping[Column, Extracted]) -> np.ndarray:
    """Return the values of a label's columns, joined, shape (rows, width)."""
    parts = [received[column].array for column in spec.columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _check_exclusive(labels: Sequence[LabelSpec], found: Iterable[str]) -> None:
    """Check that no label has both of two values that exclude each other.

    Raises:
        DataError: A label has both.
    """
    held = {line for detail in found for line in (detail or "").splitlines()}
    for position, spec in enumerate(labels):
        rule = RULES.get(spec.loss)
        if rule and rule.exclusive and {f"{position} {value:g}" for value in rule.exclusive} <= held:
            raise DataError(
                explain(
                    f"The label {spec.name!r} mixes values that the loss {spec.loss} treats as the same class.",
                    expected=rule.text,
                    received=" and ".join(f"{value:g}" for value in rule.exclusive),
                    fix=rule.fix,
                )
            )
