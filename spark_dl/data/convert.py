"""Conversion of a DataFrame to blocks, which Spark tasks write with Arrow in one pass.

Each task returns the list of files that it wrote, and this list is the commit: files of failed, repeated or
speculative tasks aren't on it. Row errors are counted in the same pass and raised as one error for all columns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame

from spark_dl.data.block_writer import PARTITION_STRIDE, BlockWriter
from spark_dl.data.column import Column
from spark_dl.data.dataset import FEATURES, LABEL, Block, ConvertedDataset, Tensor
from spark_dl.data.label_rules import RULES
from spark_dl.data.projection import arrow_projection, decode_batch
from spark_dl.data.row_errors import RowErrors, describe
from spark_dl.data.sampler import RowSampler
from spark_dl.data.specs import FeatureSpec, LabelSpec, weight_tensor
from spark_dl.data.targets import label_rows, weight_rows
from spark_dl.data.tensors import feature_rows
from spark_dl.errors import DataError, explain
from spark_dl.io.store import Store
from spark_dl.redaction import redacted_errors
from spark_dl.spark.job import SparkJob
from spark_dl.spark.python_worker import purge_zipimport_cache

__all__ = ["ConversionSpec", "append_rows", "convert", "convert_batches"]

_RESULT_SCHEMA = (
    "kind string, name string, block_id long, rows long, bytes long, validation boolean, checksum long, "
    "class_rows array<long>, detail string"
)


@dataclass(frozen=True)
class ConversionSpec:
    """Specification of a conversion, which the driver sends to every Spark task.

    Attributes:
        store: The directory for the blocks.
        features: The specification of each model input.
        labels: The specification of each model output's label.
        weight: The column of sample weights, or None.
        weight_shape: The shape of one row's weights: () for one number.
        validation_col: The boolean column that marks validation rows, or None.
        validation_fraction: The fraction of rows drawn for validation.
        stratified: Whether to draw that fraction from each class of the only label.
        balance: "oversample" or "undersample" to balance the classes in training, else "none".
        factors: How often a training row is written on average, by class index, which follows from `balance`; empty
            where each row is written once.
        seed: The seed of the random draws.
        counts_positions: Whether the classes of labels with several positions are counted, too.
    """

    store: Store
    features: tuple[FeatureSpec, ...]
    labels: tuple[LabelSpec, ...]
    weight: Column | None = None
    weight_shape: tuple[int, ...] = ()
    validation_col: Column | None = None
    validation_fraction: float = 0.0
    stratified: bool = False
    balance: str = "none"
    factors: tuple[float, ...] = ()
    seed: int = 0
    counts_positions: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of a block: features, labels and, if there is a weight column, weights."""
        features = [spec.tensor(_numbered(FEATURES, index, self.features)) for index, spec in enumerate(self.features)]
        labels = [spec.tensor(_numbered(LABEL, index, self.labels)) for index, spec in enumerate(self.labels)]
        return (*features, *labels, *([weight_tensor(self.weight_shape)] if self.weight else []))

    @property
    def columns(self) -> list[Column]:
        """Columns that the conversion reads, without duplicates."""
        fed = [column for spec in self.features for column in spec.columns]
        named = [*fed, *(one for spec in self.labels for one in spec.columns), self.weight, self.validation_col]
        return list(dict.fromkeys(column for column in named if column))


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
    writer = _block_writer(replace(conversion, store=dataset.store), partition, validation=False)
    records: list[Any] = [*writer.add(arrays), *writer.finish()]
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
    writers = {part: _block_writer(conversion, partition, validation=part) for part in (False, True)}
    written: list[dict[str, object]] = []
    for batch in batches:
        arrays, validation = _convert_batch(conversion, batch, draw, faults)
        if faults.counts:
            continue  # the conversion fails, so that only the count of errors matters
        places = draw.resample(_first_label(conversion, arrays), validation)
        if places is not None:
            arrays, validation = [array[places] for array in arrays], validation[places]
        for part, writer in writers.items():
            chosen = validation == part
            if chosen.all():
                written.extend(writer.add(arrays))
            elif chosen.any():
                written.extend(writer.add([array[chosen] for array in arrays]))
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
            arrays, _ = _convert_batch(conversion, batch, draw, faults)
            if not faults.counts:
                yield [array.reshape(-1, *t.shape) for array, t in zip(arrays, conversion.tensors, strict=True)]

    return faults, packed()


def _convert_batch(
    conversion: ConversionSpec, batch: pa.RecordBatch, draw: RowSampler, faults: RowErrors
) -> tuple[list[np.ndarray], np.ndarray]:
    """Convert a batch's usable rows to tensors in their stored dtypes, with a mask of the validation rows."""
    rows = batch.num_rows
    keep = np.ones(rows, bool)
    received = decode_batch(batch, conversion.columns)
    by_name = {column.name: column for column in received}  # a Vector may be read in two forms
    for column, extracted in received.items():
        if by_name[column.name] is column:
            faults.add_extracted(column, extracted)
        np.logical_and(keep, extracted.usable, out=keep)
    values = {column: extracted.values for column, extracted in received.items()}
    # Values are checked only in the rows that remain, which are known from here on.
    # Bytes come first, as those that can't be decoded may take rows out of `keep`.
    order = sorted(conversion.features, key=lambda spec: not spec.coding)
    features = {spec: feature_rows(spec, received, spec.tensor().stored, keep, faults) for spec in order}
    tensors = [
        *(features[spec] for spec in conversion.features),
        *(label_rows(_label_values(spec, values), spec, faults, keep) for spec in conversion.labels),
    ]
    if conversion.weight:
        tensors.append(weight_rows(values[conversion.weight], conversion.weight, conversion.weight_shape, faults, keep))
    if not keep.all():
        tensors = [tensor[keep] for tensor in tensors]
    if conversion.validation_col:
        return tensors, values[conversion.validation_col][keep, 0].astype(bool)
    return tensors, draw.validation(_first_label(conversion, tensors))


def _label_values(spec: LabelSpec, values: Mapping[Column, np.ndarray]) -> np.ndarray:
    """Return the values of a label's columns, joined, shape (rows, width)."""
    parts = [values[column] for column in spec.columns]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _first_label(conversion: ConversionSpec, tensors: list[np.ndarray]) -> np.ndarray:
    """Return the first label; without labels, a tensor with as many rows."""
    return tensors[len(conversion.features) if conversion.labels else 0]


def _block_writer(conversion: ConversionSpec, partition: int, validation: bool) -> BlockWriter:
    labels = functools.partial(_label_fields, conversion)
    return BlockWriter(conversion.store, conversion.tensors, partition, validation, labels)


def _label_fields(conversion: ConversionSpec, arrays: list[np.ndarray]) -> dict[str, object]:
    """Return the fields of a block's record that follow from its labels."""
    return {
        "class_rows": _class_rows(conversion, _first_label(conversion, arrays)),
        "detail": _exclusive_values(conversion.labels, arrays[len(conversion.features) :]),
    }


def _class_rows(conversion: ConversionSpec, labels: np.ndarray) -> list[int]:
    specs = conversion.labels
    counted = len(specs) == 1 and (not specs[0].shape or conversion.counts_positions)
    classes = specs[0].classes if counted else None
    if not classes:
        return []
    indices = labels.astype(np.int64).ravel()
    # Without the index that the loss ignores.
    rows: list[int] = np.bincount(indices[(indices >= 0) & (indices < classes)], minlength=classes).tolist()
    return rows


def _exclusive_values(labels: Sequence[LabelSpec], arrays: Sequence[np.ndarray]) -> str:
    """Return which values that exclude each other are in a block, as "label value" in lines."""
    found = []
    for position, (spec, array) in enumerate(zip(labels, arrays, strict=False)):
        values = RULES[spec.loss].exclusive if spec.loss else ()
        found += [f"{position} {value:g}" for value in values if (array == value).any()]
    return "\n".join(found)


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
                    f"The label {spec.name!r} mixes values that the loss {spec.loss} takes for the same class.",
                    expected=rule.text,
                    received=" and ".join(f"{value:g}" for value in rule.exclusive),
                    fix=rule.fix,
                )
            )


def _numbered(name: str, index: int, specs: Sequence[object]) -> str:
    return f"{name}_{index}" if len(specs) > 1 else name
