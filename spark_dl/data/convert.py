"""Conversion of a DataFrame to blocks, which Spark tasks write with Arrow in one pass.

Each task returns the list of files that it wrote, and this list is the commit: files of failed, repeated or
speculative tasks aren't on it. Row errors are counted in the same pass and raised as one error for all columns.
"""

from __future__ import annotations

import functools
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

from spark_dl.data.column import Column
from spark_dl.data.dataset import BLOCK_BYTES, BLOCK_ID, BLOCK_ROWS, FEATURES, LABEL, Block, ConvertedDataset, Tensor
from spark_dl.data.label_rules import RULES
from spark_dl.data.projection import arrow_projection, decode_batch
from spark_dl.data.ragged import BYTES, joined, lengths, row_sizes
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

# The range of block ids of a partition; the upper half is for validation blocks.
_PARTITION_STRIDE = 1 << 24
_RESULT_SCHEMA = (
    "kind string, name string, block_id long, rows long, bytes long, validation boolean, checksum long, "
    "class_rows array<long>, detail string"
)


# Large odd factors that spread a row's bytes over 64 bits: the golden ratio's and two of SplitMix64 (Steele et al.).
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


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
    partition = 1 + max((block.block_id // _PARTITION_STRIDE for block in dataset.blocks), default=-1)
    writer = _BlockWriter(replace(conversion, store=dataset.store), partition, validation=False)
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
    writers = {part: _BlockWriter(conversion, partition, validation=part) for part in (False, True)}
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


class _BlockWriter:
    """Writer that collects rows and writes a file whenever a block is full."""

    def __init__(self, conversion: ConversionSpec, partition: int, validation: bool) -> None:
        self._conversion = conversion
        self._validation = validation
        self._next_id = partition * _PARTITION_STRIDE + (_PARTITION_STRIDE // 2 if validation else 0)
        self._waiting: list[list[np.ndarray]] = []
        self._sizes: list[np.ndarray] = []  # bytes of each waiting row
        self._bytes = 0

    def add(self, arrays: list[np.ndarray]) -> Iterator[dict[str, object]]:
        """Add the tensors of some rows, and yield a record for each file written."""
        self._waiting.append(arrays)
        sizes = np.sum([row_sizes(array) for array in arrays], axis=0)
        self._sizes.append(sizes)
        self._bytes += int(sizes.sum())
        while self._bytes > BLOCK_BYTES:
            fitting = np.searchsorted(np.cumsum(np.concatenate(self._sizes)), BLOCK_BYTES, side="right")
            yield self._write(max(1, int(fitting)))

    def finish(self) -> Iterator[dict[str, object]]:
        """Write the remaining rows, and yield the record of their file."""
        if rows := sum(map(len, self._sizes)):
            yield self._write(rows)

    def _write(self, rows: int) -> dict[str, object]:
        whole = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*self._waiting, strict=True)]
        written = [array[:rows] for array in whole]
        sizes = np.concatenate(self._sizes)
        size, left = int(sizes[:rows].sum()), sizes[rows:]
        self._bytes -= size
        self._sizes = [left] if len(left) else []
        self._waiting = [[array[rows:] for array in whole]] if len(left) else []
        block_id, self._next_id = self._next_id, self._next_id + 1
        name = f"{'validation' if self._validation else 'train'}-{block_id:012d}-{uuid.uuid4().hex[:12]}.parquet"
        columns = {BLOCK_ID: pa.array([block_id]), BLOCK_ROWS: pa.array([rows])}
        for tensor, array in zip(self._conversion.tensors, written, strict=True):
            if tensor.stored == BYTES:
                columns[tensor.lengths_name] = _one_value(lengths(array))
            columns[tensor.name] = _one_value(joined(array) if tensor.stored == BYTES else array)
        filesystem, path = self._conversion.store.open()
        # Statistics or a dictionary would store a second copy of the only value.
        pq.write_table(
            pa.table(columns),
            f"{path}/{name}",
            filesystem=filesystem,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
        return {
            "kind": "block",
            "name": name,
            "block_id": block_id,
            "rows": rows,
            "bytes": size,
            "validation": self._validation,
            "checksum": _checksum(written),
            "class_rows": self._class_rows(_first_label(self._conversion, written)),
            "detail": _exclusive_values(self._conversion.labels, written[len(self._conversion.features) :]),
        }

    def _class_rows(self, labels: np.ndarray) -> list[int]:
        specs = self._conversion.labels
        counted = len(specs) == 1 and (not specs[0].shape or self._conversion.counts_positions)
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


def _checksum(arrays: Sequence[np.ndarray]) -> int:
    """Compute a checksum that doesn't depend on the order of rows: the sum of one hash per row."""
    rows = np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        rows = rows * _FACTORS[2] + _row_numbers(array)
    rows ^= rows >> np.uint64(29)  # nonlinear, as a linear sum misses values swapped between rows
    rows *= _FACTORS[0]
    rows ^= rows >> np.uint64(32)
    return int(rows.sum(dtype=np.uint64)) % (1 << 63)


def _row_numbers(array: np.ndarray) -> np.ndarray:
    """Hash each row's bytes, in words of 8, 4 or 1 bytes; crc32 for byte values: uint64, shape (rows,)."""
    if array.dtype == BYTES:
        return np.fromiter(map(zlib.crc32, array), np.uint64, len(array))
    row_bytes = array.itemsize * math.prod(array.shape[1:])
    if not row_bytes or not len(array):
        return np.zeros(len(array), np.uint64)
    word = next(kind for kind in (np.uint64, np.uint32, np.uint8) if row_bytes % np.dtype(kind).itemsize == 0)
    words: np.ndarray = np.ascontiguousarray(array).reshape(len(array), -1).view(word)
    factors = (np.arange(words.shape[1], dtype=np.uint64) * _FACTORS[1]) | np.uint64(1)
    numbers: np.ndarray = np.einsum("ij,j->i", words, factors, dtype="uint64")
    return numbers


def _one_value(array: np.ndarray) -> pa.Array:
    """Create an Arrow array of one binary value that shares the array's memory, if it is contiguous."""
    content = pa.py_buffer(np.ascontiguousarray(array))
    offsets = pa.py_buffer(np.array([0, content.size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, content])
