"""Conversion of Arrow columns to NumPy arrays, a batch at a time, with the rows that can't be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_dl.data.column import Column
from spark_dl.data.limits import all_finite

__all__ = ["Extracted", "extract", "extract_together", "extract_vectors", "flattened", "mask"]


@dataclass
class Extracted:
    """Values of one column in one batch, and its unusable rows.

    Attributes:
        values: Numbers of shape (rows, width), not usable in the rows that `missing` marks. For bytes, objects of
            shape (rows,).
        missing: Boolean, shape (rows,): rows with a null, a null element, a NaN or a wrong number of elements.
        nulls: The number of rows with a null or a null element.
        nans: The number of rows with a NaN and no null.
        lengths: The number of rows of each wrong length, as {length: count}.
        beyond: Boolean, shape (rows,): rows with a number outside the range of the model's input dtype; None where a
            later step checks this.
        infinite: Boolean, shape (rows,): rows with an infinite number that aren't missing; None where no infinite
            number was found.
    """

    values: np.ndarray
    missing: np.ndarray
    nulls: int = 0
    nans: int = 0
    lengths: dict[int, int] = field(default_factory=dict)
    beyond: np.ndarray | None = None
    infinite: np.ndarray | None = None

    @property
    def usable(self) -> np.ndarray:
        """Rows whose values are all present and finite: boolean, shape (rows,)."""
        usable: np.ndarray = ~self.missing if self.infinite is None else ~(self.missing | self.infinite)
        return usable


def extract(array: pa.Array, column: Column) -> Extracted:
    """Convert an Arrow column of scalars, arrays, binary values or bytes; `extract_vectors` converts Vectors.

    Args:
        array: The column in one batch.
        column: The column's specification.
    """
    if column.kind == "bytes":
        return _filled(_bytes(array), column)
    if column.kind == "binary":
        return _lists(_as_lists(array), column.width, column.dtype)
    if column.kind == "scalar":
        return _filled(_finish(_numbers(array).reshape(-1, 1), mask(array.is_null())), column)
    return _lists(array, column.width, column.dtype)


def flattened(array: pa.Array, times: int, lengths: Sequence[int] = ()) -> pa.Array:
    """Flatten an Arrow column of nested arrays.

    Args:
        array: The column in one batch.
        times: The number of levels to remove.
        lengths: The required lengths of the inner arrays, from outer to inner; rows with other lengths become empty
            arrays. Empty for no requirement.
    """
    if lengths:
        array = _emptied(array, [_has_lengths(row, lengths) for row in array.to_pylist()])
    for _ in range(times):
        inner = array.values
        ends = inner.offsets.to_numpy()[array.offsets.to_numpy()]
        mask = array.is_null() if array.null_count else None
        array = type(inner).from_arrays(pa.array(ends, inner.offsets.type), inner.values, mask=mask)
    return array


def _has_lengths(row: list[Any] | None, lengths: Sequence[int]) -> bool:
    return row is None or all(
        part is not None and len(part) == lengths[0] and (len(lengths) == 1 or _has_lengths(part, lengths[1:]))
        for part in row
    )


def _emptied(array: pa.Array, fits: list[bool]) -> pa.Array:
    rows = array.to_pylist()
    return (
        array if all(fits) else pa.array([row if fit else [] for row, fit in zip(rows, fits, strict=True)], array.type)
    )


def _filled(extracted: Extracted, column: Column) -> Extracted:
    """Replace missing and infinite values with the column's fill value, if it has one."""
    if column.fill is None or extracted.usable.all():
        return extracted
    values = extracted.values.copy()
    values[~extracted.usable] = column.fill.encode() if isinstance(column.fill, str) else column.fill
    return Extracted(values, np.zeros_like(extracted.missing))


def _bytes(array: pa.Array) -> Extracted:
    null = mask(array.is_null())
    values = array.cast(pa.large_binary()).fill_null(b"").to_numpy(zero_copy_only=False)
    return Extracted(values, null, int(null.sum()))


def _as_lists(array: pa.Array) -> pa.Array:
    """View binary values as lists of uint8."""
    if array.offset:  # Arrow's cast ignores the offset of fixed-size binary values
        array = array.take(pa.array(np.arange(len(array))))
    array = array.cast(pa.large_binary())
    validity, offsets, content = array.buffers()
    size = content.size if content is not None else 0
    numbers = pa.Array.from_buffers(pa.uint8(), size, [None, content])
    return pa.Array.from_buffers(
        pa.large_list(pa.uint8()), len(array), [validity, offsets], offset=array.offset, children=[numbers]
    )


def extract_together(array: pa.Array, columns: Sequence[Column]) -> list[Extracted]:
    """Convert several scalar columns that `arrow_projection` packed into one array per row."""
    flat, count = array.flatten(), len(columns)
    numbers = _numbers(flat).reshape(-1, count)
    nulls = mask(flat.is_null()).reshape(-1, count) if flat.null_count else np.zeros((len(numbers), count), bool)
    return [_filled(_finish(numbers[:, i : i + 1], nulls[:, i]), column) for i, column in enumerate(columns)]


def _lists(array: pa.Array, width: int, dtype: str) -> Extracted:
    null = mask(array.is_null())
    lengths = np.where(null, width, pc.list_value_length(array).fill_null(width).to_numpy(zero_copy_only=False))
    wrong = lengths != width
    if wrong.any():
        found, counts = np.unique(lengths[wrong], return_counts=True)
        extracted = Extracted(np.zeros((len(array), width), dtype), null | wrong, nulls=int(null.sum()))
        extracted.lengths = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return extracted
    flat = array.flatten()  # only the elements of rows that aren't null
    elements = _numbers(flat).reshape(-1, width)
    if not null.any():
        holes = mask(flat.is_null()).reshape(-1, width).any(axis=1) if flat.null_count else null
        return _finish(elements, holes)
    values = np.zeros((len(array), width), elements.dtype)
    values[~null] = elements
    holes = null.copy()
    if flat.null_count:
        holes[~null] = mask(flat.is_null()).reshape(-1, width).any(axis=1)
    return _finish(values, holes)


def extract_vectors(fields: Mapping[str, pa.Array], width: int) -> Extracted:
    """Convert Spark ML Vectors to a dense array.

    Args:
        fields: The Vectors' struct fields: type (0 sparse, 1 dense, null for a null Vector), size, indices, values.
        width: The number of elements in a Vector.
    """
    array = pa.RecordBatch.from_pydict(dict(fields))
    null = mask(fields["type"].is_null())
    kind = np.where(null, 1, fields["type"].fill_null(1).to_numpy(zero_copy_only=False))
    values = fields["values"]
    sparse = kind == 0
    if not sparse.any() and not null.any():
        return _lists(values, width, "float64")
    extracted = Extracted(np.zeros((len(array), width)), null.copy(), nulls=int(null.sum()))
    dense_rows = np.flatnonzero(~sparse & ~null)
    if len(dense_rows):
        dense = _lists(values.take(pa.array(dense_rows)), width, "float64")
        extracted.values[dense_rows] = dense.values
        extracted.missing[dense_rows] = dense.missing
        extracted.lengths = dense.lengths
    sparse_rows = np.flatnonzero(sparse)
    if len(sparse_rows):
        _scatter(array.take(pa.array(sparse_rows)), sparse_rows, width, extracted)
    return _finish(extracted.values, null, extracted.lengths, extracted.missing & ~null)


def _scatter(array: pa.RecordBatch, rows: np.ndarray, width: int, into: Extracted) -> None:
    sizes = array.column("size").to_numpy(zero_copy_only=False)
    for size in np.unique(sizes[sizes != width]).tolist():
        into.lengths[size] = into.lengths.get(size, 0) + int((sizes == size).sum())
        into.missing[rows[sizes == size]] = True
    fits = sizes == width
    kept = array.filter(pa.array(fits))
    counts = pc.list_value_length(kept.column("indices")).to_numpy(zero_copy_only=False)
    at = np.repeat(rows[fits], counts)
    into.values[at, kept.column("indices").flatten().to_numpy()] = kept.column("values").flatten().to_numpy()


def _finish(
    values: np.ndarray, null: np.ndarray, lengths: dict[int, int] | None = None, wrong: np.ndarray | None = None
) -> Extracted:
    """Create the result, after marking rows with NaN or infinite numbers."""
    missing = null if wrong is None else null | wrong
    nans, infinite = 0, None
    if values.dtype.kind == "f" and not all_finite(values):
        nan = np.isnan(values).any(axis=1) & ~null
        nans, missing = int(nan.sum()), missing | nan
        infinite = np.isinf(values).any(axis=1) & ~missing
    return Extracted(values, missing, int(null.sum()), nans, lengths or {}, infinite=infinite)


def _numbers(array: pa.Array) -> np.ndarray:
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    numbers = array.to_numpy(zero_copy_only=False)
    return np.asarray(numbers.view(np.int8) if numbers.dtype == bool else numbers)


def mask(array: pa.Array) -> np.ndarray:
    """Convert an Arrow boolean array to NumPy."""
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(bool)
