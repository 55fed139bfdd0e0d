"""Arrow columns to NumPy arrays, whole batches at once, and what is wrong with their rows."""

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
    """The numbers of one column in one batch.

    Attributes:
        values: shape (rows, width), in the column's dtype; rows that `missing` marks hold zeros. Of bytes, objects of
            shape (rows,).
        missing: boolean, shape (rows,): rows with a null, a null element or a NaN.
        nulls: how many rows have a null or a null element.
        nans: how many rows have a NaN and no null.
        lengths: rows whose number of elements is not the width, as {length: count}.
        beyond: boolean, shape (rows,): rows with a number that the model's input has no room for; None where that is
            looked for later.
        infinite: boolean, shape (rows,): rows with an infinite number that aren't missing; None where there are none.
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
        """Rows whose numbers are all there and finite: boolean, shape (rows,)."""
        usable: np.ndarray = ~self.missing if self.infinite is None else ~(self.missing | self.infinite)
        return usable


def extract(array: pa.Array, column: Column) -> Extracted:
    """The values of an Arrow column that isn't of Vectors.

    Args:
        array: the column in one batch.
        column: what it is.
    """
    if column.kind == "bytes":
        return _filled(_bytes(array), column)
    if column.kind == "binary":
        return _lists(_as_lists(array), column.width, column.dtype)
    if column.kind == "scalar":
        return _filled(_finish(_numbers(array).reshape(-1, 1), mask(array.is_null())), column)
    return _lists(array, column.width, column.dtype)


def flattened(array: pa.Array, times: int, lengths: Sequence[int] = ()) -> pa.Array:
    """Arrays of arrays as arrays of their elements, so many times.

    Rows whose inner arrays have other lengths than these, from the outer to the inner ones, become empty arrays.
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
    """With the column's own value in the place of missing ones."""
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
    """Binary values as lists of uint8, without copying them."""
    if array.offset:  # which Arrow's cast doesn't heed for values of fixed size
        array = array.take(pa.array(np.arange(len(array))))
    array = array.cast(pa.large_binary())
    validity, offsets, content = array.buffers()
    size = content.size if content is not None else 0
    numbers = pa.Array.from_buffers(pa.uint8(), size, [None, content])
    return pa.Array.from_buffers(
        pa.large_list(pa.uint8()), len(array), [validity, offsets], offset=array.offset, children=[numbers]
    )


def extract_together(array: pa.Array, columns: Sequence[Column]) -> list[Extracted]:
    """The numbers of several columns of scalars that travel as one array in each row."""
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
    flat = array.flatten()  # the elements of the rows that are not null
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
    """Spark's Vectors by their fields: type (0 sparse, 1 dense; null where the Vector is), size, indices, values."""
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
    """Look for NaN and infinite numbers."""
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
    """Arrow's booleans as NumPy's."""
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(bool)
